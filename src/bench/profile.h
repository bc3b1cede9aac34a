// Where the time of a forward call goes: the operations of the device, measured inside the call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/stop.h"
#include "context/context.h"
#include "kernels/device.h"
#include "model/model.h"

namespace mneme {

struct ProfileRow {
  std::string op;  // "q, k, v", "attention", ...; then "rest", what is no operation, and "whole"
  double seconds = 0;
  double bytes = 0;  // of weights, keys and values that were read
  double flops = 0;
};

// A decode step (num_rows 1) or a chunk of prefill with `depth` tokens before it; of several runs the
// fastest. Throws Error(kBudget, kInput, kUnsupported) as a session does.
std::vector<ProfileRow> ProfileModel(std::shared_ptr<const Model> model, const ContextSettings& context,
                                     int64_t num_rows, int64_t depth, size_t cap_bytes, Device& device,
                                     StopToken stop = {});

}  // namespace mneme
