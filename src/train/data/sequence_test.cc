// Memory carried from one batch to the next.
#include "train/data/sequence.h"

#include <gtest/gtest.h>

#include <cmath>

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

// Micro-batches of one, two and one rows, that have unlike numbers of answers, together say what the batch
// says.
TEST_P(Carried, MicroBatchesAddUpToTheBatch) {
  Batch batch = RandomBatch(4, 2, kSegment, kVocab, 9);
  const int64_t length = batch.num_segments * batch.segment;
  // One answer in the first row, half of the last one, none in the second.
  for (int64_t i = 0; i < batch.batch * length; ++i) {
    const int64_t row = i / length, at = i % length;
    const bool is_answer = row == 0 ? at == 3 : row == 2 ? at % 5 == 0 : row == 3 && at % 2 == 0;
    batch.weights[static_cast<size_t>(i)] = is_answer ? 1.0f : 0.25f;
  }
  const SequenceResult whole = Evaluate(decoder_, batch);
  SequenceResult sum;
  int64_t first = 0;
  for (const int64_t count : {1, 2, 1}) {
    Batch part = batch;
    part.batch = count;
    const auto cut = [&](const auto& from, int64_t per_row, auto* to) {
      to->assign(from.begin() + first * per_row, from.begin() + (first + count) * per_row);
    };
    cut(batch.tokens, length, &part.tokens);
    cut(batch.targets, length, &part.targets);
    cut(batch.weights, length, &part.weights);
    cut(batch.resets, batch.num_segments, &part.resets);
    sum.Add(Evaluate(decoder_, part), static_cast<double>(count) / 4);
    first += count;
  }
  EXPECT_NEAR(sum.loss, whole.loss, 1e-12 * whole.loss);
  EXPECT_EQ(sum.answers.weight, whole.answers.weight);
  EXPECT_NEAR(sum.answers.value(), whole.answers.value(), 1e-12 * whole.answers.value());
}

// A memory that overflowed in the first micro-batch is not hidden by those that come after.
TEST(SequenceResultTest, ANanOfAnyPartStays) {
  SequenceResult broken, sound, sum;
  broken.layers = {{std::nan(""), 1}};
  sound.layers = {{2, 3}};
  sum.Add(broken, 0.5);
  sum.Add(sound, 0.5);
  EXPECT_TRUE(std::isnan(sum.layers[0].max_m));
  EXPECT_EQ(sum.layers[0].max_z, 3);
}

INSTANTIATE_TEST_SUITE_P(Updates, Carried, ::testing::Values("linear", "delta", "gated-delta"),
                         [](const auto& info) { return info.param == "gated-delta" ? "gated" : info.param; });

}  // namespace
}  // namespace mneme::train
