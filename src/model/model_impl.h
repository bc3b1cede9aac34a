// What a Model is made of. For the folders below.
#pragma once

#include <memory>
#include <optional>

#include "base/budget.h"
#include "mneme/model.h"
#include "model/engine.h"
#include "model/loaded_model.h"
#include "model/runner.h"

namespace mneme {

struct MNEME_LOCAL Model::Impl {
  Impl(std::optional<Engine> engine, std::shared_ptr<const LoadedModel> loaded);

  // Declared in the order in which they depend on each other.
  std::optional<Engine> engine;  // none: sessions are given budget and device by who makes them
  std::shared_ptr<const LoadedModel> loaded;
  ModelInfo info;
  Lease weights_lease;  // beside the cap
  Lease packed_lease;   // the same
  // The activations that all sessions share, made by the first of them. The thread rule is the engine's.
  mutable std::shared_ptr<Runner> runner;
};

// A Runner that keeps its model alive.
std::shared_ptr<Runner> MakeRunner(std::shared_ptr<const LoadedModel> model, int64_t max_rows, Device& device,
                                   const Budget& budget);

}  // namespace mneme
