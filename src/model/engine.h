// What an Engine is made of.
#pragma once

#include "base/budget.h"
#include "kernels/cpu_device.h"
#include "mneme/engine.h"

namespace mneme {

struct MNEME_LOCAL Engine::Impl {
  explicit Impl(const EngineOptions& given);

  CpuDevice device;
  EngineOptions options;  // memory_bytes is the cap in force
  Budget budget;
};

}  // namespace mneme
