#include "kernels/cpu_device.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/aligned.h"
#include "base/error.h"

namespace mneme {
namespace {

// Values below which a pass over rows is not worth waking other threads for.
constexpr size_t kMinSharedValues = size_t{1} << 15;
// Values that a task of a pointwise operation takes at least: whole lines of the cache.
constexpr size_t kPointwiseStep = 64;

void EmbedRow(const EmbedCall& call, size_t row) {
  const size_t dim = call.tokens.num_cols;
  float* const out = call.out + row * dim;
  DecodeRow(call.tokens, static_cast<size_t>(call.ids[row]), out);
  if (call.scale != 1.0f) ScaleInPlace(out, call.scale, dim);
  if (call.positions.num_rows == 0) return;
  float* const position = call.scratch + row * dim;
  DecodeRow(call.positions, static_cast<size_t>(call.places[row]), position);
  AddInPlace(out, position, dim);
}

// The norms of `count` parts, `stride` apart, from value `at` of the call on.
void NormParts(const NormCall& call, const float* weight, const float* bias, size_t at, size_t count,
               size_t stride) {
  const float* const x = call.x + at;
  float* const out = call.out + at;
  if (call.kind == NormKind::kRms) {
    const float* const gate = call.gate_kind == NormGate::kNone ? nullptr : call.gate + at;
    GatedRmsNorm(call.gate_kind, x, gate, weight, call.epsilon, count, call.num_cols, stride, out);
  } else {
    LayerNorm(x, weight, bias, call.epsilon, count, call.num_cols, stride, out);
  }
}

void NormRows(const NormCall& call, size_t first, size_t last) {
  const size_t row = call.num_parts * call.num_cols;
  if (!call.has_weights_per_part) {
    NormParts(call, call.weight, call.bias, first * row, (last - first) * call.num_parts, call.num_cols);
    return;
  }
  for (size_t part = 0; part < call.num_parts; ++part) {
    const size_t at = part * call.num_cols;
    const float* const bias = call.bias == nullptr ? nullptr : call.bias + at;
    NormParts(call, call.weight + at, bias, first * row + at, last - first, row);
  }
}

// Outputs [first, last) of all rows.
void ActivateOutputs(const LinearCall& call, size_t first, size_t last) {
  const MatMulJob& job = call.jobs.front();
  for (size_t row = 0; row < call.num_rows; ++row) {
    float* const out = job.out + row * job.out_stride + first;
    const float* const factor =
        call.jobs.size() == 1 ? nullptr : call.jobs[1].out + row * call.jobs[1].out_stride + first;
    if (call.then->xielu != nullptr) {
      ActivateXielu(*call.then->xielu, out, last - first);
    } else if (call.then->rounds_to_half) {
      ActivateHalfGelu(out, factor, last - first);
    } else if (factor == nullptr) {
      Activate(call.then->activation, out, last - first);
    } else {
      ActivateGated(call.then->activation, out, factor, last - first);
    }
  }
}

void WriteGates(float* x, float floor, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float open = 1.0f / (1.0f + std::exp(-x[i]));
    x[i] = std::max(0.0f, (open - floor) / (1.0f - floor));
  }
}

void AddGated(const PointwiseCall& call, size_t first, size_t count) {
  for (const size_t end = first + count; first < end;) {
    const size_t row = first / call.num_cols;
    const size_t last = std::min(end, (row + 1) * call.num_cols);
    const float open = 1.0f / (1.0f + std::exp(-call.gate[row]));
    for (; first < last; ++first) call.x[first] += open * call.y[first];
  }
}

void MultiplyRows(const PointwiseCall& call, size_t first, size_t count) {
  for (const size_t end = first + count; first < end;) {
    const size_t row = first / call.num_cols;
    const size_t last = std::min(end, (row + 1) * call.num_cols);
    const float* const y = call.y + row * call.y_stride;
    for (; first < last; ++first) call.x[first] *= y[first - row * call.num_cols];
  }
}

void CopyRows(const PointwiseCall& call, size_t first, size_t count) {
  for (const size_t end = first + count; first < end;) {
    const size_t row = first / call.num_cols, col = first % call.num_cols;
    const size_t size = std::min(end - first, call.num_cols - col);
    std::memcpy(call.x + row * call.x_stride + col, call.y + row * call.y_stride + col, size * sizeof(float));
    first += size;
  }
}

void ScaleRows(const PointwiseCall& call, size_t first, size_t count) {
  for (const size_t end = first + count; first < end;) {
    const size_t row = first / call.num_cols;
    const size_t last = std::min(end, (row + 1) * call.num_cols);
    ScaleInPlace(call.x + first, call.gate[row], last - first);
    first = last;
  }
}

void PointwiseRange(const PointwiseCall& call, size_t first, size_t count) {
  float* const x = call.x + first;  // not where rows of x lie apart
  switch (call.kind) {
    case PointwiseCall::Kind::kCopy:
      std::memcpy(x, call.y + first, count * sizeof(float));
      return;
    case PointwiseCall::Kind::kScale:
      return ScaleInPlace(x, call.value, count);
    case PointwiseCall::Kind::kScaleRows:
      return ScaleRows(call, first, count);
    case PointwiseCall::Kind::kMultiplyRows:
      return MultiplyRows(call, first, count);
    case PointwiseCall::Kind::kCopyRows:
      return CopyRows(call, first, count);
    case PointwiseCall::Kind::kAddGated:
      return AddGated(call, first, count);
    case PointwiseCall::Kind::kAdd:
      return AddInPlace(x, call.y + first, count);
    case PointwiseCall::Kind::kMultiply:
      return MultiplyInPlace(x, call.y + first, count);
    case PointwiseCall::Kind::kSigmoidGate:
      return SigmoidGateInPlace(x, call.y + first, count);
    case PointwiseCall::Kind::kSoftplus:
      return SoftplusInPlace(x, count);
    case PointwiseCall::Kind::kClamp:
      return ClampInPlace(x, call.value, count);
    case PointwiseCall::Kind::kSoftCap:
      return SoftCapInPlace(x, call.value, count);
    case PointwiseCall::Kind::kWriteGate:
      return WriteGates(x, call.value, count);
  }
}

}  // namespace

template <typename Fn>
void CpuDevice::ForRanges(size_t count, size_t size, const Fn& fn) {
  if (pool_.num_threads() == 1 || count < 2 || count * size < kMinSharedValues) {
    fn(size_t{0}, count);
    return;
  }
  const size_t num_tasks = std::min(count, pool_.num_threads() * 4);
  pool_.Run(num_tasks,
            [&](size_t task, size_t) { fn(count * task / num_tasks, count * (task + 1) / num_tasks); });
}

DeviceMemory CpuDevice::Allocate(size_t bytes, DeviceMemoryUse use) {
  AlignedArray<uint8_t> memory =
      use == DeviceMemoryUse::kWeights ? MakeHuge(bytes) : MakeAligned<uint8_t>(bytes);
  return {memory.release(), DeviceFree{[](void* pointer) noexcept { std::free(pointer); }}};
}

void CpuDevice::Pack(std::span<const PackJob> jobs, const std::function<void(size_t job)>& done,
                     const std::function<void()>& beside) {
  PackAll(jobs, pool_, done, beside);
}

void CpuDevice::Run(size_t num_tasks, const std::function<void(size_t i)>& task) {
  pool_.Run(num_tasks, [&task](size_t i, size_t) { task(i); });
}

void CpuDevice::Embed(const EmbedCall& call) {
  ForRanges(call.ids.size(), call.tokens.num_cols, [&](size_t first, size_t last) {
    for (size_t row = first; row < last; ++row) EmbedRow(call, row);
  });
}

void CpuDevice::Norm(const NormCall& call) {
  ForRanges(call.num_rows, call.num_parts * call.num_cols,
            [&](size_t first, size_t last) { NormRows(call, first, last); });
}

void CpuDevice::Linear(const LinearCall& call) {
  ActivationForm form;
  for (const MatMulJob& job : call.jobs) form = CommonForm(form, FormFor(*job.weights));
  if (call.job_step != 0) return LinearApart(call, form);
  ActivationRows rows(call.scratch, call.num_rows, call.num_cols, form);
  const size_t stride = call.x_stride == 0 ? call.num_cols : call.x_stride;
  rows.Set(call.x, call.num_rows, call.num_cols, stride, form, pool_);
  if (!call.then) {
    MatMul(rows, call.jobs, pool_);
    return;
  }
  MNEME_CHECK(call.jobs.size() <= 2);
  MatMulThen(rows, call.jobs, pool_, [&](size_t first, size_t last) { ActivateOutputs(call, first, last); });
}

void CpuDevice::LinearApart(const LinearCall& call, ActivationForm form) {
  MNEME_CHECK(!call.then);
  const size_t bytes = ActivationRows::Bytes(call.num_rows, call.num_cols, form);
  const size_t stride = call.x_stride == 0 ? call.num_cols : call.x_stride;
  pool_.Run(call.jobs.size(), [&](size_t i, size_t thread) {
    ActivationRows rows(call.scratch + thread * bytes, call.num_rows, call.num_cols, form);
    rows.Set(call.x + i * call.job_step, call.num_rows, call.num_cols, stride, form, caller_);
    MatMul(rows, call.jobs.subspan(i, 1), caller_);
  });
}

void CpuDevice::Attend(std::span<const AttendCall> calls, uint8_t* scratch) {
  mneme::Attend(calls, scratch, pool_);
}

void CpuDevice::Score(const ScoreCall& call) { ScoreSlices(call, pool_); }

void CpuDevice::Memory(const MemoryCall& call) {
  const MemoryShape& shape = call.shape;
  if (call.num_tokens > 0) {
    std::memcpy(call.written, call.before, shape.num_floats() * sizeof(float));
    MemoryWrite(shape, call.written, call.is_empty, call.k, call.v, call.write_gate, call.num_tokens,
                call.write_scratch, pool_);
  }
  if (call.num_rows == 0) return;
  if (call.memory != nullptr) {
    MemoryRead(shape, call.memory, call.q, call.num_rows, call.read, pool_);
  } else {
    std::fill_n(call.read, call.num_rows * shape.num_heads * shape.value_dim, 0.0f);
  }
  MemoryMix(call.num_rows, shape.num_heads, shape.value_dim, call.gate, call.read, call.out);
}

void CpuDevice::Pointwise(const PointwiseCall& call) {
  const size_t num_steps = (call.count + kPointwiseStep - 1) / kPointwiseStep;
  ForRanges(num_steps, kPointwiseStep, [&](size_t first, size_t last) {
    const size_t begin = first * kPointwiseStep;
    PointwiseRange(call, begin, std::min(call.count, last * kPointwiseStep) - begin);
  });
}

void CpuDevice::Experts(const ExpertsCall& call) { RunExperts(call, pool_); }

void CpuDevice::Gates(const GatesCall& call) {
  ForRanges(call.num_rows, call.num_heads,
            [&](size_t first, size_t last) { mneme::Gates(call, first, last); });
}

void CpuDevice::Recur(std::span<const RecurCall> calls, float* scratch) {
  mneme::Recur(calls, scratch, pool_);
}

}  // namespace mneme
