// Memory carried from one batch to the next.
#include "train/sequence.h"

#include <gtest/gtest.h>

#include "train/train_test_util.h"

namespace mneme::train {
namespace {

using testing::Attention;
using testing::RandomBatch;
using testing::SmallModel;

constexpr int64_t kVocab = 13;
constexpr int64_t kSegment = 9;  // a multiple of the period of RandomBatch's weights

// Segments [first, first + count) of every row.
Batch Cut(const Batch& whole, int64_t first, int64_t count) {
  Batch part = whole;
  part.num_segments = count;
  const auto cut = [&](const auto& from, int64_t per_segment, auto* to) {
    to->clear();
    for (int64_t row = 0; row < whole.batch; ++row) {
      const auto begin = from.begin() + (row * whole.num_segments + first) * per_segment;
      to->insert(to->end(), begin, begin + count * per_segment);
    }
  };
  cut(whole.tokens, kSegment, &part.tokens);
  cut(whole.targets, kSegment, &part.targets);
  cut(whole.weights, kSegment, &part.weights);
  cut(whole.resets, 1, &part.resets);
  return part;
}

class Carried : public ::testing::TestWithParam<std::string> {
 protected:
  // Hard segments: nothing waits in a window, so that the memory is all that passes the cut.
  Decoder decoder_{MakeArchitecture(SmallModel(), kVocab),
                   Attention("infini", kSegment, 0, GetParam()),
                   {},
                   3,
                   torch::TensorOptions().dtype(torch::kFloat64)};
  const Batch whole_ = RandomBatch(2, 4, kSegment, kVocab, 7);
};

TEST_P(Carried, TwoHalvesLoseWhatTheWholeLoses) {
  const double expected = Evaluate(decoder_, whole_).loss;
  for (const bool recompute : {false, true}) {
    CarriedMemory carried;
    const SequenceOptions options{.recompute = recompute};
    const double front = Backpropagate(decoder_, Cut(whole_, 0, 2), options, &carried).loss;
    const double back = Backpropagate(decoder_, Cut(whole_, 2, 2), options, &carried).loss;
    EXPECT_NEAR(0.5 * (front + back), expected, 1e-12 * expected);
    // The memory matters here: without it the second half loses something else.
    EXPECT_GT(std::abs(Backpropagate(decoder_, Cut(whole_, 2, 2), options).loss - back), 1e-4);
  }
}

TEST_P(Carried, RowsThatStartAnewAndOtherBatchSizesStartEmpty) {
  const Batch front = Cut(whole_, 0, 2);
  Batch back = Cut(whole_, 2, 2);
  for (int64_t row = 0; row < back.batch; ++row) back.resets[static_cast<size_t>(2 * row)] = 1;
  CarriedMemory carried;
  Backpropagate(decoder_, front, {}, &carried);
  EXPECT_EQ(Backpropagate(decoder_, back, {}, &carried).loss, Evaluate(decoder_, back).loss);

  const Batch other = RandomBatch(3, 2, kSegment, kVocab, 8);
  EXPECT_EQ(Backpropagate(decoder_, other, {}, &carried).loss, Evaluate(decoder_, other).loss);
  EXPECT_EQ(carried.num_rows(), 3);
}

INSTANTIATE_TEST_SUITE_P(Updates, Carried, ::testing::Values("linear", "delta", "gated-delta"),
                         [](const auto& info) { return info.param == "gated-delta" ? "gated" : info.param; });

}  // namespace
}  // namespace mneme::train
