#include "kernels/timing_device.h"

#include <algorithm>
#include <vector>

namespace mneme {
namespace {

// Keys that some row of the call sees, and how many pairs of row and key there are.
struct SeenKeys {
  double distinct = 0;
  double pairs = 0;
};

SeenKeys CountSeen(const AttendCall& call) {
  SeenKeys seen;
  for (const KvSpan& span : call.spans) {
    int32_t first = INT32_MAX, last = 0;
    for (size_t row = 0; row < call.shape.num_rows; ++row) {
      if (span.begin[row] >= span.end[row]) continue;
      first = std::min(first, span.begin[row]);
      last = std::max(last, span.end[row]);
      seen.pairs += span.end[row] - span.begin[row];
    }
    if (first < last) seen.distinct += last - first;
  }
  return seen;
}

}  // namespace

template <typename Fn>
TimingDevice::Op& TimingDevice::Time(std::string_view name, const Fn& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  inner_.Wait();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  auto op = std::find_if(ops_.begin(), ops_.end(), [&](const Op& known) { return known.name == name; });
  if (op == ops_.end()) op = ops_.insert(op, Op{.name = std::string(name)});
  ++op->num_calls;
  op->seconds += seconds.count();
  return *op;
}

void TimingDevice::Embed(const EmbedCall& call) {
  Op& op = Time("embed", [&] { inner_.Embed(call); });
  op.bytes += static_cast<double>(call.ids.size() * call.tokens.row_bytes());
}

void TimingDevice::Norm(const NormCall& call) {
  Time("norm", [&] { inner_.Norm(call); });
}

void TimingDevice::Linear(const LinearCall& call) {
  Op& op = Time(call.label, [&] { inner_.Linear(call); });
  for (const MatMulJob& job : call.jobs) {
    op.bytes += static_cast<double>(job.weights->read_bytes());
    op.flops += 2.0 * static_cast<double>(job.weights->num_rows() * call.num_cols * call.num_rows);
  }
}

void TimingDevice::Attend(std::span<const AttendCall> calls, uint8_t* scratch) {
  Op& op = Time("attention", [&] { inner_.Attend(calls, scratch); });
  for (const AttendCall& call : calls) {
    const KvLayout& layout = call.shape.layout;
    const SeenKeys seen = CountSeen(call);
    op.bytes += seen.distinct * static_cast<double>(layout.block_bytes()) / kBlockTokens;
    op.flops +=
        2.0 * seen.pairs * static_cast<double>(call.shape.num_heads * (layout.key_dim + layout.value_dim));
  }
}

void TimingDevice::Score(const ScoreCall& call) {
  Op& op = Time("choice", [&] { inner_.Score(call); });
  const auto keys = static_cast<double>(call.slices.size() * kBlockTokens);
  op.bytes += static_cast<double>(call.slices.size() * ChoiceKeyBytes(call.key_dim));
  op.flops += 2.0 * keys * static_cast<double>(call.num_queries * call.key_dim);
}

void TimingDevice::Memory(const MemoryCall& call) {
  Time("memory", [&] { inner_.Memory(call); });
}

void TimingDevice::Pointwise(const PointwiseCall& call) {
  Time("pointwise", [&] { inner_.Pointwise(call); });
}

void TimingDevice::Experts(const ExpertsCall& call) {
  Op& op = Time("experts", [&] { inner_.Experts(call); });
  const size_t num_choices = call.num_rows * call.router.num_used;
  std::vector<int32_t> experts(num_choices);
  std::vector<float> weights(num_choices);
  Route(call.router, call.logits, call.correction, call.num_rows, experts.data(), weights.data());
  std::sort(experts.begin(), experts.end());
  for (size_t i = 0; i < num_choices; ++i) {
    const ExpertMatrices& expert = call.experts[static_cast<size_t>(experts[i])];
    for (const LinearWeights* matrix : {expert.gate, expert.up, expert.down}) {
      if (matrix == nullptr) continue;
      op.flops += 2.0 * static_cast<double>(matrix->num_rows() * matrix->num_cols());
      // Read once for all rows that meet in it.
      if (i == 0 || experts[i] != experts[i - 1]) op.bytes += static_cast<double>(matrix->read_bytes());
    }
  }
}

void TimingDevice::Gates(const GatesCall& call) {
  Time("gates", [&] { inner_.Gates(call); });
}

void TimingDevice::Recur(std::span<const RecurCall> calls, float* scratch) {
  Op& op = Time("recurrence", [&] { inner_.Recur(calls, scratch); });
  for (const RecurCall& call : calls) {
    const RecurCost cost = CostOf(call);
    op.bytes += cost.bytes;
    op.flops += cost.flops;
  }
}

}  // namespace mneme
