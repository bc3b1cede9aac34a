// Infini-attention as a context, against local attention from the definition plus the double-precision
// memory.
#include "context/infini.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "context/context_test_util.h"
#include "context/registry.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

constexpr MemoryUpdate kUpdates[] = {MemoryUpdate::kLinear, MemoryUpdate::kDelta, MemoryUpdate::kGatedDelta};

ContextShape InfiniShape(const std::vector<float>& gate = {0.3f, -1, 2, 0, -3, 0.7f}) {
  ContextShape shape = MakeShape(Positions::kRopeHalves);
  shape.layers[0].memory_gate = gate;
  return shape;
}

ContextSettings Settings() {
  ContextSettings settings;
  settings.key_encoding = settings.value_encoding = Encoding::kF32;
  settings.max_chunk = 40;
  settings.max_rewind = 25;
  return settings;
}

std::vector<float> WriteGates(int64_t num_tokens) {
  Random random(77);
  std::vector<float> gates(static_cast<size_t>(num_tokens) * 2);
  for (float& gate : gates) gate = static_cast<float>(random.Uniform());
  return gates;
}

std::vector<float> Feed(InfiniContext& context, const Stream& stream, int64_t from, int64_t to, int64_t chunk,
                        Device& device) {
  static const std::vector<float> gates = WriteGates(1000);
  std::vector<float> out(static_cast<size_t>(to - from) * 96);
  for (int64_t begin = from; begin < to; begin += chunk) {
    const int64_t count = std::min(chunk, to - begin);
    context.Begin(TestIds(begin, count));
    context.SetWriteGate(0, gates.data() + begin * 2);
    AttendLayer(context, 0, stream.Q(begin), stream.K(begin), stream.V(begin),
                out.data() + (begin - from) * 96, device);
    context.Commit();
  }
  return out;
}

std::vector<double> Definition(const ContextShape& shape, const Stream& stream, int64_t num_tokens,
                               const InfiniOptions& options) {
  const LayerAttention& layer = shape.layers[0];
  const MemoryShape memory_shape{layer.num_heads, layer.num_kv_heads, layer.key_dim, layer.value_dim,
                                 options.update};
  const std::vector<float> gates = WriteGates(1000);
  std::vector<double> memory(memory_shape.num_floats()), out;
  Stream local = stream;  // what local attention sees
  const size_t k_floats = layer.num_kv_heads * layer.key_dim;
  for (int64_t index = num_tokens - 1; index >= 0 && options.key_shift; --index) {
    const auto to = local.k.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(index) * k_floats);
    if (index == 0 || (options.previous == 0 && index % options.segment == 0)) {
      std::fill_n(to, k_floats, 0.0f);
    } else {
      std::copy_n(stream.K(index - 1), k_floats, to);
    }
  }
  int64_t committed = 0;
  for (int64_t index = 0; index < num_tokens; ++index) {
    const int64_t now = std::max<int64_t>(0, index / options.segment - options.previous);
    for (; committed < now; ++committed) {
      const int64_t begin = committed * options.segment;
      const bool gated = options.update == MemoryUpdate::kGatedDelta;
      const int64_t shift = options.key_shift ? 1 : 0;
      const int64_t first = begin + (shift == 1 && (begin == 0 || !gated) ? 1 : 0);
      MemoryWriteReference(memory_shape, memory.data(), committed == 0, stream.K(first - shift),
                           stream.V(first), gated ? gates.data() + first * 2 : nullptr,
                           static_cast<size_t>(begin + options.segment - first));
    }
    std::vector<double> row = BruteForce(local, index, XlRule(options.segment, options.previous));
    std::vector<double> read(row.size());
    if (now > 0) MemoryReadReference(memory_shape, memory.data(), stream.Q(index), 1, read.data());
    for (size_t i = 0; i < row.size(); ++i) {
      const double share = 1 / (1 + std::exp(-static_cast<double>(layer.memory_gate[i / 16])));
      if (now > 0 || options.literal_first) row[i] = share * read[i] + (1 - share) * row[i];
    }
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

TEST(Infini, MatchesTheDefinitionAtEveryLengthAroundABorder) {  // T22, T25
  CpuDevice device(2);
  const ContextShape shape = InfiniShape();
  const Stream stream(shape.layers[0], 200, 21);
  for (const MemoryUpdate update : kUpdates) {
    for (const int64_t previous : {0, 2}) {
      for (const bool literal : {false, true}) {
        const InfiniOptions options{.segment = 24,
                                    .previous = previous,
                                    .update = update,
                                    .literal_first = literal,
                                    .key_shift = literal};
        const std::vector<double> expected = Definition(shape, stream, 200, options);
        std::vector<float> first;
        for (const int64_t chunk : {1, 23, 24, 25, 40}) {
          Budget budget;
          InfiniContext context(shape, Settings(), MakeInfiniPolicy(options), budget, 2);
          const size_t bytes = budget.used_bytes();
          const std::vector<float> out = Feed(context, stream, 0, 200, chunk, device);
          EXPECT_LT(RelativeDifference(out, expected), 2e-5)
              << MemoryUpdateName(update) << " chunk " << chunk;
          if (first.empty()) first = out;
          EXPECT_TRUE(out == first) << "bits depend on the chunk: " << MemoryUpdateName(update) << " "
                                    << chunk;
          EXPECT_EQ(budget.peak_bytes(), bytes);
          EXPECT_EQ(InfiniContext::PeakBytes(shape, Settings(), *MakeInfiniPolicy(options), 2).total(),
                    bytes);
        }
      }
    }
  }
}

TEST(Infini, ShutGatesAreSegmentsAlone) {  // T16
  CpuDevice device(1);
  const ContextShape shape = InfiniShape(std::vector<float>(6, -INFINITY));
  const Stream stream(shape.layers[0], 100, 22);
  Budget budget;
  InfiniContext context(shape, Settings(), MakeInfiniPolicy({.segment = 16}), budget, 1);
  const std::vector<float> out = Feed(context, stream, 0, 100, 33, device);
  for (int64_t index = 0; index < 100; ++index) {
    const std::span<const float> row(out.data() + index * 96, 96);
    EXPECT_LT(RelativeDifference(row, BruteForce(stream, index, XlRule(16, 0))), 2e-5);
  }
}

TEST(Infini, RewindInsideAndAcrossBorders) {  // T40
  CpuDevice device(1);
  const ContextShape shape = InfiniShape();
  const Stream stream(shape.layers[0], 300, 23), detour(shape.layers[0], 300, 24);
  for (const MemoryUpdate update : kUpdates) {
    for (const int64_t segment : {5, 16, 48}) {
      const InfiniOptions options{.segment = segment, .previous = 1, .update = update};
      for (const int64_t at : {0, 4, 15, 16, 17, 47, 48, 49, 95, 96, 143}) {
        Budget budget;
        InfiniContext context(shape, Settings(), MakeInfiniPolicy(options), budget, 1),
            straight(shape, Settings(), MakeInfiniPolicy(options), budget, 1);
        Feed(context, stream, 0, at, 11, device);
        const std::string before = StateOf(context);
        Feed(context, detour, at, at + 25, 7, device);
        ASSERT_GE(context.MaxRewind(), 25);
        context.Rewind(25);
        EXPECT_TRUE(StateOf(context) == before) << segment << " at " << at;
        Feed(straight, stream, 0, at, 40, device);
        ASSERT_TRUE(Feed(context, stream, at, at + 80, 13, device) ==
                    Feed(straight, stream, at, at + 80, 40, device))
            << MemoryUpdateName(update) << " segment " << segment << " at " << at;
      }
    }
  }
}

TEST(Infini, ForksGoTheirOwnWays) {
  CpuDevice device(1);
  const ContextShape shape = InfiniShape();
  const Stream stream(shape.layers[0], 300, 27), detour(shape.layers[0], 300, 28);
  for (const MemoryUpdate update : kUpdates) {
    const auto policy = MakeInfiniPolicy({.segment = 16, .previous = 1, .update = update});
    for (const int64_t at : {0, 5, 16, 64, 97}) {
      Budget budget;
      InfiniContext context(shape, Settings(), policy, budget, 1), bent(shape, Settings(), policy, budget, 1);
      Feed(context, stream, 0, at, 11, device);
      Feed(bent, stream, 0, at, 40, device);
      const size_t used = budget.used_bytes();
      const auto fork = context.Fork();
      EXPECT_EQ(budget.used_bytes(), used + used / 2);
      EXPECT_TRUE(StateOf(*fork) == StateOf(context));
      for (int64_t begin = at; begin < at + 90; begin += 30) {
        Feed(context, stream, begin, begin + 30, 13, device);
        ASSERT_TRUE(Feed(static_cast<InfiniContext&>(*fork), detour, begin, begin + 30, 30, device) ==
                    Feed(bent, detour, begin, begin + 30, 30, device))
            << MemoryUpdateName(update) << " at " << begin;
      }
      fork->Rewind(20);
      bent.Rewind(20);
      EXPECT_TRUE(StateOf(*fork) == StateOf(bent)) << MemoryUpdateName(update) << " at " << at;
    }
  }
}

TEST(Infini, RestoredContinuesWithTheSameBits) {  // T41
  CpuDevice device(1);
  const ContextShape shape = InfiniShape();
  const Stream stream(shape.layers[0], 300, 25);
  for (const MemoryUpdate update : kUpdates) {
    const InfiniOptions options{.segment = 20, .previous = 0, .update = update};
    for (const int64_t at : {0, 1, 19, 20, 21, 40, 133}) {
      Budget budget;
      InfiniContext context(shape, Settings(), MakeInfiniPolicy(options), budget, 1),
          restored(shape, Settings(), MakeInfiniPolicy(options), budget, 1);
      Feed(context, stream, 0, at, 17, device);
      const std::string state = StateOf(context);
      BufferReader reader(state);
      restored.Restore(reader);
      EXPECT_EQ(reader.remaining_bytes(), 0u);
      EXPECT_EQ(restored.MaxRewind(), context.MaxRewind());
      EXPECT_TRUE(StateOf(restored) == state);
      ASSERT_TRUE(Feed(restored, stream, at, at + 70, 9, device) ==
                  Feed(context, stream, at, at + 70, 40, device))
          << MemoryUpdateName(update) << " at " << at;
      for (size_t length = 0; length < state.size(); length += 1 + state.size() / 37) {
        InfiniContext cut(shape, Settings(), MakeInfiniPolicy(options), budget, 1);
        BufferReader short_reader(std::string_view(state).substr(0, length));
        EXPECT_THROW(cut.Restore(short_reader), Error);
      }
    }
  }
}

TEST(Infini, TheTableMakesItFromTheModelsRulesAndRefusesModelsWithout) {
  ContextShape shape = InfiniShape();
  shape.memory = {.segment = 16, .previous = 1, .update = MemoryUpdate::kDelta, .literal_first = true};
  ContextSettings settings = Settings();
  const ResolvedContext resolved = ResolveContext(shape, settings, SIZE_MAX, -1);  // auto
  EXPECT_EQ(resolved.settings.spec, "infini:segment=16,previous=1,update=delta,first=literal");
  EXPECT_NE(resolved.reason, "");
  Budget budget;
  const auto context = MakeContext(shape, resolved.settings, budget, 1);
  EXPECT_EQ(context->Describe(), resolved.settings.spec);
  const ContextBytes bytes = PeakContextBytes(shape, resolved.settings, -1, 1);
  EXPECT_TRUE(bytes.is_bounded);
  EXPECT_EQ(bytes.total(), budget.used_bytes());
  settings.spec = "infini:update=gated-delta";
  EXPECT_THROW(ResolveContext(shape, settings, SIZE_MAX, -1), Error);
  settings.spec = "infini:first=maybe";
  EXPECT_THROW(ResolveContext(shape, settings, SIZE_MAX, -1), Error);
  settings.spec = "infini";
  EXPECT_THROW(ResolveContext(shape, settings, 1000, -1), Error);  // a cap too small
  EXPECT_THROW(ResolveContext(MakeShape(Positions::kRopeHalves), settings, SIZE_MAX, -1), Error);
}

TEST(Infini, LedgerSaysCompressed) {
  CpuDevice device(1);
  const ContextShape shape = InfiniShape();
  const Stream stream(shape.layers[0], 100, 26);
  Budget budget;
  InfiniContext context(shape, Settings(), MakeInfiniPolicy({.segment = 16}), budget, 1);
  Feed(context, stream, 0, 50, 40, device);
  const std::vector<LedgerRange> expected = {{0, 48, TokenFate::kCompressed}, {48, 50, TokenFate::kWindow}};
  EXPECT_EQ(context.Ledger(), expected);
}

TEST(Infini, ChangingATokenOfASegmentChangesNoReadOfThatSegment) {  // T21
  CpuDevice device(1);
  const ContextShape shape = InfiniShape();
  const Stream stream(shape.layers[0], 100, 27);
  Stream changed = stream;
  for (int i = 0; i < 32; ++i) changed.v[static_cast<size_t>(60 * 32 + i)] += 1;  // token 60, segment 3
  Budget budget;
  InfiniContext a(shape, Settings(), MakeInfiniPolicy({.segment = 16}), budget, 1),
      b(shape, Settings(), MakeInfiniPolicy({.segment = 16}), budget, 1);
  const std::vector<float> out_a = Feed(a, stream, 0, 100, 40, device),
                           out_b = Feed(b, changed, 0, 100, 40, device);
  EXPECT_TRUE(std::equal(out_a.begin(), out_a.begin() + 60 * 96, out_b.begin()));
  EXPECT_FALSE(std::equal(out_a.begin() + 64 * 96, out_a.end(), out_b.begin() + 64 * 96));
}

}  // namespace
}  // namespace mneme
