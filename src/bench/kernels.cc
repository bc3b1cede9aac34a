#include "bench/kernels.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "base/aligned.h"
#include "base/error.h"
#include "base/random.h"
#include "kernels/cpu_device.h"
#include "model/engine.h"

namespace mneme {
namespace {

KernelLimits Fp32Limits(const MachineLimits& limits, size_t footprint_bytes) {
  const bool all = limits.num_threads > 1;
  return {.bytes_per_second = limits.ReadBandwidth(footprint_bytes, all),
          .ops_per_second = all ? limits.fp32_ops.all_threads : limits.fp32_ops.one_thread,
          .ops_name = "fp32"};
}

std::vector<float> RandomFloats(size_t count, uint64_t seed) {
  std::vector<float> values(count);
  Random random(seed);
  for (float& value : values) value = static_cast<float>(random.Normal());
  return values;
}

// ---- the memory of Infini-attention

struct MemoryWork {
  MemoryUpdate update;
  size_t num_rows;  // read, or written as one segment
  bool is_write;
};

// Heads as in the 135M shape.
constexpr MemoryShape kMemoryShape = {.num_heads = 9, .num_kv_heads = 3, .key_dim = 64, .value_dim = 64};

KernelRow MeasureMemory(const MemoryWork& work, const MachineLimits& limits, double seconds,
                        CpuDevice& device) {
  MemoryShape shape = kMemoryShape;
  shape.update = work.update;
  const std::vector<float> before = RandomFloats(shape.num_floats(), 1);
  std::vector<float> written(before.size());
  const std::vector<float> k = RandomFloats(work.num_rows * shape.num_kv_heads * shape.key_dim, 2);
  const std::vector<float> v = RandomFloats(work.num_rows * shape.num_kv_heads * shape.value_dim, 3);
  const std::vector<float> q = RandomFloats(work.num_rows * shape.num_heads * shape.key_dim, 4);
  const std::vector<float> write_gate(work.num_rows * shape.num_kv_heads, 0.5f);
  const std::vector<float> gate(shape.num_heads, 0.0f);
  std::vector<float> read(work.num_rows * shape.num_heads * shape.value_dim), out(read.size());
  std::vector<float> scratch(MemoryScratchFloats(shape, device.num_threads()));
  MemoryCall call{.shape = shape};
  if (work.is_write) {
    call.before = before.data();
    call.written = written.data();
    call.k = k.data();
    call.v = v.data();
    call.write_gate = shape.update == MemoryUpdate::kGatedDelta ? write_gate.data() : nullptr;
    call.num_tokens = work.num_rows;
    call.write_scratch = scratch.data();
  } else {
    call.memory = before.data();
    call.q = q.data();
    call.num_rows = work.num_rows;
    call.gate = gate.data();
    call.read = read.data();
    call.out = out.data();
  }
  KernelRow row;
  row.timing = TimeRuns(seconds, [&] { device.Memory(call); });
  // A product of each row with the matrix; the delta rules read what they correct as well.
  const size_t heads = work.is_write ? shape.num_kv_heads : shape.num_heads;
  const double products = work.is_write && shape.update != MemoryUpdate::kLinear ? 2 : 1;
  row.ops = 2 * products * static_cast<double>(work.num_rows * heads * shape.key_dim * shape.value_dim);
  row.bytes = static_cast<double>(before.size() * sizeof(float));
  SetShare(Fp32Limits(limits, before.size() * sizeof(float)), &row);
  return row;
}

// ---- norms, activations, sums

KernelRow MeasurePointwise(const std::function<void(Device&, const float*, float*, size_t rows)>& run,
                           size_t num_rows, const MachineLimits& limits, double seconds, CpuDevice& device) {
  constexpr size_t kCols = 2048;
  const std::vector<float> x = RandomFloats(num_rows * kCols, 1);
  std::vector<float> out(x.size());
  KernelRow row;
  row.timing = TimeRuns(seconds, [&] { run(device, x.data(), out.data(), num_rows); });
  row.bytes = static_cast<double>(x.size() * sizeof(float));
  SetShare(Fp32Limits(limits, 2 * x.size() * sizeof(float)), &row);
  return row;
}

}  // namespace

void SetShare(const KernelLimits& limits, KernelRow* row) {
  const double read = limits.bytes_per_second > 0 ? row->bytes / limits.bytes_per_second : 0;
  const double compute = limits.ops_per_second > 0 ? row->ops / limits.ops_per_second : 0;
  if (row->timing.median_seconds <= 0 || std::max(read, compute) <= 0) return;
  row->share = std::max(read, compute) / row->timing.median_seconds;
  row->share_of = read >= compute ? "read bandwidth" : limits.ops_name + " peak";
}

std::vector<KernelCase> MemoryCases() {
  std::vector<KernelCase> cases;
  for (const auto& [name, update] :
       {std::pair{"linear", MemoryUpdate::kLinear}, std::pair{"delta", MemoryUpdate::kDelta},
        std::pair{"gated-delta", MemoryUpdate::kGatedDelta}}) {
    for (const auto& [part, work] : {std::pair{"/read/rows:1", MemoryWork{update, 1, false}},
                                     std::pair{"/read/rows:512", MemoryWork{update, 512, false}},
                                     std::pair{"/write/tokens:512", MemoryWork{update, 512, true}}}) {
      const MemoryWork measured = work;
      cases.push_back({std::string("memory/") + name + part,
                       [measured](const MachineLimits& limits, double seconds, CpuDevice& device) {
                         return MeasureMemory(measured, limits, seconds, device);
                       }});
    }
  }
  return cases;
}

std::vector<KernelCase> PointwiseCases() {
  using Run = std::function<void(Device&, const float*, float*, size_t)>;
  const auto norm = [](NormKind kind) -> Run {
    return [kind](Device& device, const float* x, float* out, size_t rows) {
      device.Norm({.kind = kind, .epsilon = 1e-5f, .num_rows = rows, .num_cols = 2048, .x = x, .out = out});
    };
  };
  const auto activate = [](Activation activation) -> Run {
    return [activation](Device&, const float* x, float* out, size_t rows) {
      std::copy_n(x, rows * 2048, out);
      ActivateGated(activation, out, x, rows * 2048);
    };
  };
  const std::pair<const char*, Run> kernels[] = {
      {"rms-norm", norm(NormKind::kRms)},
      {"layer-norm", norm(NormKind::kLayer)},
      {"silu", activate(Activation::kSilu)},
      {"gelu-tanh", activate(Activation::kGeluTanh)},
      {"gelu", activate(Activation::kGelu)},
      {"add", [](Device& device, const float* x, float* out, size_t rows) {
         device.Pointwise({.kind = PointwiseCall::Kind::kAdd, .x = out, .y = x, .count = rows * 2048});
       }}};
  std::vector<KernelCase> cases;
  for (const auto& [name, run] : kernels) {
    for (const size_t num_rows : {size_t{1}, size_t{512}}) {
      const Run measured = run;
      cases.push_back({std::string("pointwise/") + name + "/2048/rows:" + std::to_string(num_rows),
                       [measured, num_rows](const MachineLimits& limits, double seconds, CpuDevice& device) {
                         return MeasurePointwise(measured, num_rows, limits, seconds, device);
                       }});
    }
  }
  return cases;
}

namespace {

// "rows:1" is not a part of "rows:16".
bool HasPart(std::string_view name, std::string_view part) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  for (size_t at = name.find(part); at != std::string_view::npos; at = name.find(part, at + 1)) {
    const size_t end = at + part.size();
    if (part.empty() || end == name.size() || !is_digit(part.back()) || !is_digit(name[end])) return true;
  }
  return false;
}

}  // namespace

std::vector<KernelCase> FindKernels(std::string_view part) {
  std::vector<KernelCase> found;
  for (std::vector<KernelCase>& group :
       std::vector{LinearCases(), AttendCases(), MemoryCases(), RecurCases(), PointwiseCases()}) {
    for (KernelCase& one : group) {
      if (part == "all" || HasPart(one.name, part)) found.push_back(std::move(one));
    }
  }
  if (found.empty()) {
    Fail(ErrorKind::kInput,
         "no kernel's name contains '{}'; they begin with linear, attend, memory, recur or pointwise and go "
         "on like linear/q8_0/packed/2048x2048/rows:1",
         part);
  }
  return found;
}

KernelRow MeasureKernel(const KernelCase& one, const MachineLimits& limits, double seconds,
                        const Engine& engine) {
  KernelRow row = one.measure(limits, seconds, engine.impl().device);
  row.name = one.name;
  return row;
}

}  // namespace mneme
