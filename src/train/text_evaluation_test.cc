#include "train/text_evaluation.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "base/error.h"
#include "tokenizer/model.h"
#include "train/data/sequence.h"
#include "train/train_test_util.h"

namespace mneme::train {
namespace {

Tokenizer Letters() {
  std::vector<std::string> pieces = {"<unk>", "<s>", "</s>", "<pause>"};
  for (char c = 'a'; c <= 'z'; ++c) pieces.emplace_back(1, c);
  return TokenizerFromPieces(pieces, std::vector<float>(pieces.size(), 0.0f));
}

std::string RandomLetters(size_t count) {
  Random random(7);
  std::string text;
  for (size_t i = 0; i < count; ++i) text += static_cast<char>('a' + random.Below(26));
  return text;
}

Decoder MakeDecoder(const MemorySettings& memory) {
  return Decoder(MakeArchitecture(testing::SmallModel(), 30), memory, {}, 5, torch::kFloat32);
}

// The same tokens as one training sequence, summed with the segments' losses of the trainer.
double TrainersLoss(const Decoder& decoder, const std::vector<TokenId>& ids, int64_t segment) {
  Batch batch;
  batch.batch = 1;
  batch.segment = segment;
  batch.num_segments = (static_cast<int64_t>(ids.size()) - 1 + segment - 1) / segment;
  const auto length = static_cast<size_t>(batch.num_segments * segment);
  for (size_t i = 0; i < length; ++i) {
    const bool is_there = i + 1 < ids.size();
    batch.tokens.push_back(is_there ? ids[i] : 0);
    batch.targets.push_back(is_there ? ids[i + 1] : 0);
    batch.weights.push_back(is_there ? 1.0f : 0.0f);
  }
  batch.resets.assign(static_cast<size_t>(batch.num_segments), 0.0f);
  return Evaluate(decoder, batch).loss;
}

class TextEvaluationOf : public ::testing::TestWithParam<std::string> {};

TEST_P(TextEvaluationOf, EqualsTheTrainersLossWithStateCarriedOn) {
  const MemorySettings memory = testing::Attention(GetParam(), 8, GetParam() == "xl" ? 2 : 0);
  const Decoder decoder = MakeDecoder(memory);
  const Tokenizer tokenizer = Letters();
  const std::string text = RandomLetters(75);  // the last segment is not full
  TextEvaluation options;
  options.segment = 8;
  const TextScore score = EvaluateText(decoder, tokenizer, text, options);
  const std::vector<TokenId> ids = tokenizer.Encode(text);
  EXPECT_EQ(score.num_tokens, static_cast<int64_t>(ids.size()) - 1);
  EXPECT_NEAR(score.nll, TrainersLoss(decoder, ids, 8), 1e-5);
  EXPECT_EQ(score.blocks.size(), static_cast<size_t>((score.num_tokens + 7) / 8));
  EXPECT_GT(score.standard_error, 0);

  // A state that is emptied after every segment sees less: another loss, that of segments on their own.
  options.reset_segments = 1;
  const TextScore alone = EvaluateText(decoder, tokenizer, text, options);
  double sum = 0;
  for (size_t first = 0; first + 1 < ids.size(); first += 8) {
    const std::vector<TokenId> part(ids.begin() + static_cast<ptrdiff_t>(first),
                                    ids.begin() + static_cast<ptrdiff_t>(std::min(first + 9, ids.size())));
    sum += TrainersLoss(decoder, part, 8) * static_cast<double>(part.size() - 1);
  }
  EXPECT_NEAR(alone.nll, sum / static_cast<double>(alone.num_tokens), 1e-5);
  EXPECT_GT(std::abs(alone.nll - score.nll), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Kinds, TextEvaluationOf, ::testing::Values("dense", "xl", "infini", "memorizing"));

TEST(TextEvaluationTest, CountsTheBytesThatSegmentsLeaveToTheNext) {
  TextEvaluation options;
  options.segment = 8;
  const std::string text = RandomLetters(200);
  const auto held = [&](const std::string& kind, int64_t previous, const std::string& update) {
    return EvaluateText(MakeDecoder(testing::Attention(kind, 8, previous, update)), Letters(), text, options)
        .held;
  };
  // 3 layers, 2 KV heads, heads of 8, width 16, 4 bytes a number.
  EXPECT_EQ(held("infini", 0, "gated-delta").total(), 3 * 2 * 8 * 8 * 4);
  EXPECT_EQ(held("infini", 0, "linear").total(), 3 * 2 * 8 * (8 + 1) * 4);
  EXPECT_EQ(held("infini", 2, "linear").window, 3 * 2 * 16 * (8 + 8) * 4);
  EXPECT_EQ(held("xl", 2, "linear").total(), 3 * 16 * 16 * 4);
  const HeldBytes memorizing = held("memorizing", 1, "linear");
  EXPECT_EQ(memorizing.neighbours, 24 * 2 * (8 + 8) * 4);  // one layer, knn_size tokens
  EXPECT_EQ(memorizing.cache, 3 * 8 * 16 * 4);
  options.reset_segments = 4;  // dense: what three segments leave to the fourth; the fourth leaves nothing
  EXPECT_EQ(held("dense", 0, "linear").total(), 3 * 3 * 8 * 2 * (8 + 8) * 4);
}

TEST(TextEvaluationTest, StopsAndRefuses) {
  const Decoder decoder = MakeDecoder(testing::Attention("infini", 8));
  TextEvaluation options;
  options.segment = 8;
  EXPECT_THROW(EvaluateText(decoder, Letters(), "", options), Error);
  options.max_tokens = 20;
  EXPECT_EQ(EvaluateText(decoder, Letters(), RandomLetters(200), options).num_tokens, 19);
  const std::atomic<bool> stop{true};
  options.stop = &stop;
  EXPECT_TRUE(EvaluateText(decoder, Letters(), RandomLetters(200), options).stopped);
}

}  // namespace
}  // namespace mneme::train
