// Measurements of `mneme bench`: speed of one model by context, depth and threads, with the share of the
// machine's measured limits that applies.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/machine.h"
#include "mneme/model.h"
#include "mneme/options.h"
#include "mneme/stop.h"

namespace mneme {

// The limits that rows are compared with, for one number of threads.
struct MachineFloor {
  double bytes_per_second = 0;        // reading what one token reads
  double flops_per_second = 0;        // of the arithmetic that prefill uses
  std::string flops_name = {};        // "int8", "int16", "bf16", "fp32"
  double float_flops_per_second = 0;  // of the arithmetic that attention uses
};

// What weights are multiplied in.
enum class ProductKind : uint8_t { kFloat32, kBFloat16, kInt16, kInt8 };

// What a model asks of the machine.
struct ModelCosts {
  double flops_per_token = 0;                    // products with weights, without the output matrix
  ProductKind products = ProductKind::kFloat32;  // of most weights by bytes, else float32
  size_t weight_bytes_per_token = 0;             // read to decode one
};
ModelCosts CostsOf(const Model& model);
MachineFloor FloorOf(const MachineLimits& limits, const Model& model);

struct BenchRow {
  std::string what;  // "prefill 512", "decode 64", "batch 8", "save", "restore"
  std::string context;
  Position depth = 0;
  std::string reached;  // "read": every token was fed; "filled": a full window at that position
  size_t num_threads = 0;
  double tokens_per_second = 0;  // median
  double bytes_per_second = 0;   // of state rows, in place of the rate of tokens
  double spread = 0;             // (largest - smallest) / median
  double bytes_per_token = 0;    // weights and visible keys and values
  double share = 0;              // of the floor; 0: not known
  std::string share_of;          // "read bandwidth", "int8 peak"
  std::string note;              // why there is no figure
};

struct BenchSettings {
  SessionOptions session;  // unresolved
  std::vector<int64_t> depths;
  int64_t num_prefill = 512;  // 0: none
  int64_t num_decode = 64;    // 0: none
  int64_t batch = 0;          // sessions decoded together; 0 or 1: none
  int64_t num_repeats = 3;
  double max_seconds = 60;   // most time to read up to one depth; beyond it bounded contexts start there
  std::string state_folder;  // where states are saved and restored; empty: not measured
  StopToken stop = {};
};

// All rows of one context. Stops early, with the rows so far, after a stop. `floor` may be null.
std::vector<BenchRow> MeasureContext(const Model& model, const BenchSettings& settings,
                                     const MachineFloor* floor);

}  // namespace mneme
