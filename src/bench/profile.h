// Where the time of a forward call goes: the operations of the device, measured inside the call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mneme/model.h"
#include "mneme/options.h"
#include "mneme/stop.h"

namespace mneme {

struct ProfileRow {
  std::string op;  // "q, k, v", "attention", ...; then "rest", what is no operation, and "whole"
  double seconds = 0;
  double bytes = 0;  // of weights, keys and values that were read
  double flops = 0;
};

// A decode step (num_rows 1) or a chunk of prefill with `depth` tokens before it; of several runs the
// fastest. Throws Error(kBudget, kInput, kUnsupported) as a session does.
std::vector<ProfileRow> ProfileModel(const Model& model, SessionOptions options, int64_t num_rows,
                                     int64_t depth, StopToken stop = {});

}  // namespace mneme
