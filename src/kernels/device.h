// Where a model is computed: coarse operations on plain pointers, one parallel region each. What runs a model
// (model/forward.cc, src/context) knows this interface and no threads; the kernels behind it are the business
// of a device. There are two: CpuDevice (cpu_device.h) and TimingDevice (timing_device.h), which wraps
// another and adds up the seconds of each operation.
//
// Operations read and write memory of the device (Allocate) or, where the device shares the machine's memory,
// any other. They are done in the order of the calls; what they wrote may be read after Wait. They keep no
// memory of their own: what an operation needs beside its operands is its `scratch`, and whoever owns that
// holds a lease for it. Results depend on the operands alone: not on the number of threads, nor on how rows
// are cut into calls.
//
// Thread rule: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/types.h"
#include "kernels/attend/attend.h"
#include "kernels/choose/choose.h"
#include "kernels/experts/experts.h"
#include "kernels/linear/linear.h"
#include "kernels/memory/memory.h"
#include "kernels/pointwise/elementwise.h"
#include "kernels/recur/gates.h"
#include "kernels/recur/recur.h"

namespace mneme {

// What memory is for.
enum class DeviceMemoryUse : uint8_t {
  kWork,     // written and read by operations
  kWeights,  // read from end to end again and again
  kShared,   // also read by the caller, after Wait
};

struct DeviceFree {
  void (*free)(void* memory) noexcept = nullptr;
  void operator()(void* memory) const noexcept { free(memory); }
};
// Frees itself, and may outlive the device.
using DeviceMemory = std::unique_ptr<void, DeviceFree>;

// out[r, :] = scale * tokens[ids[r], :] + positions[places[r], :].
struct EmbedCall {
  WeightView tokens = {};
  std::span<const TokenId> ids = {};  // each < tokens.num_rows
  float scale = 1.0f;
  WeightView positions = {};         // empty: none
  const Position* places = nullptr;  // [ids.size()], each < positions.num_rows
  float* out = nullptr;              // [ids.size(), tokens.num_cols]
  float* scratch = nullptr;          // as large as out; only with positions
};

// Rows of num_parts parts, each normalised on its own: the whole row is one, or the heads are.
struct NormCall {
  NormKind kind = NormKind::kRms;
  float epsilon = 0;
  // Of a part: [num_cols], or where every part has its own [num_parts, num_cols]. Bias null: none.
  const float* weight = nullptr;
  const float* bias = nullptr;
  bool has_weights_per_part = false;
  size_t num_rows = 0;
  size_t num_parts = 1;
  size_t num_cols = 0;
  const float* x = nullptr;  // [num_rows, num_parts, num_cols]
  // kRms only: a second operand as large as x, and how it gates the result.
  NormGate gate_kind = NormGate::kNone;
  const float* gate = nullptr;
  float* out = nullptr;  // may be x, not gate
};

// What follows a product, where its outputs still lie in a cache: with one matrix out = activation(out), with
// two the first's outputs become activation(first) * second.
struct ThenActivate {
  Activation activation = Activation::kSilu;
  bool rounds_to_half = false;   // kGeluTanh only, as ActivateHalfGelu has it
  const Xielu* xielu = nullptr;  // in place of the activation, of one matrix; null: none
};

// Several matrices on the same rows, or on parts of them.
struct LinearCall {
  std::string_view label = {};  // for reports: "q, k, v"
  const float* x = nullptr;     // [num_rows, num_cols]
  size_t num_rows = 0;
  size_t num_cols = 0;
  size_t x_stride = 0;  // rows of x are so far apart; 0: num_cols
  // Not 0: each matrix has columns of its own (a head's), and that of job i reads x + i * job_step; without
  // `then`.
  size_t job_step = 0;
  std::span<const MatMulJob> jobs = {};
  std::optional<ThenActivate> then = {};
  // ActivationRows::Bytes of at least so many rows and columns; with job_step as many for every thread.
  uint8_t* scratch = nullptr;
};

// Infini-attention: a finished segment goes into a memory, then rows read it and are mixed with what local
// attention gave. Either part may be missing.
struct MemoryCall {
  MemoryShape shape = {};
  // The segment: `written` becomes `before` with it (MemoryWrite). num_tokens 0: none.
  const float* before = nullptr;
  float* written = nullptr;
  bool is_empty = false;  // nothing was written before
  const float* k = nullptr;
  const float* v = nullptr;
  const float* write_gate = nullptr;
  size_t num_tokens = 0;
  float* write_scratch = nullptr;  // MemoryScratchFloats
  // The rows: out = MemoryMix(gate, MemoryRead(memory, q), out). num_rows 0: none.
  const float* memory = nullptr;  // null: an empty one
  const float* q = nullptr;
  size_t num_rows = 0;
  const float* gate = nullptr;
  float* read = nullptr;  // scratch, [num_rows, num_heads, value_dim]
  float* out = nullptr;
};

struct PointwiseCall {
  enum class Kind : uint8_t {
    kAdd,           // x += y
    kCopy,          // x = y
    kScale,         // x *= value
    kMultiply,      // x *= y
    kMultiplyRows,  // x[row, :] *= y[row, :], rows of y y_stride apart
    kCopyRows,      // x[row, :] = y[row, :], rows of x x_stride apart and of y y_stride
    kScaleRows,     // x[row, :] *= gate[row]
    kAddGated,      // x[row, :] += sigmoid(gate[row]) * y[row, :]
    kSigmoidGate,   // x *= sigmoid(y)
    kSoftplus,      // x = log(1 + exp x)
    kClamp,         // x = min(max(x, -value), value)
    kSoftCap,       // x = value * tanh(x / value)
    kWriteGate,     // x = max(0, (sigmoid(x) - value) / (1 - value)): MemoryRules::write_floor
  };
  Kind kind = Kind::kAdd;
  float* x = nullptr;
  const float* y = nullptr;
  float value = 0;
  size_t count = 0;
  const float* gate = nullptr;  // kAddGated, kScaleRows: [count / num_cols]
  size_t num_cols = 0;          // of a row, for those, kMultiplyRows and kCopyRows
  size_t x_stride = 0;
  size_t y_stride = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  // Threads that operations use at most.
  virtual size_t num_threads() const = 0;
  // 64-byte aligned, not initialised; the caller holds the lease. Throws std::bad_alloc.
  virtual DeviceMemory Allocate(size_t bytes, DeviceMemoryUse use) = 0;
  // Returns when all operations are done.
  virtual void Wait() = 0;

  // Weights as Linear reads them fastest, into memory of this device: PackAll.
  virtual void Pack(std::span<const PackJob> jobs, const std::function<void(size_t job)>& done,
                    const std::function<void()>& beside) = 0;

  // Work of loading that is no operation: task(i) for each i below num_tasks, in any order, on the threads of
  // this device. Must not throw.
  virtual void Run(size_t num_tasks, const std::function<void(size_t i)>& task) = 0;

  virtual void Embed(const EmbedCall& call) = 0;
  virtual void Norm(const NormCall& call) = 0;
  virtual void Linear(const LinearCall& call) = 0;
  // One call for each session; scratch: AttendScratchBytes of the largest.
  virtual void Attend(std::span<const AttendCall> calls, uint8_t* scratch) = 0;
  virtual void Memory(const MemoryCall& call) = 0;
  virtual void Pointwise(const PointwiseCall& call) = 0;
  virtual void Experts(const ExpertsCall& call) = 0;
  virtual void Gates(const GatesCall& call) = 0;
  // The same layer of several sessions; scratch: RecurScratchFloats of all their rows.
  virtual void Recur(std::span<const RecurCall> calls, float* scratch) = 0;
  // What a choice of slices is made by.
  virtual void Score(const ScoreCall& call) = 0;
};

}  // namespace mneme
