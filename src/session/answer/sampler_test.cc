#include "session/answer/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "base/error.h"

namespace mneme {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    return error.what();
  }
  return "";
}

class SamplerTest : public ::testing::Test {
 protected:
  TokenId Sample(const SamplerOptions& settings, const std::vector<float>& logits, int64_t index = 0,
                 const std::vector<TokenId>& recent = {}) {
    Sampler sampler(settings, logits.size(), budget_);
    return sampler.Sample(logits, recent, index);
  }
  std::map<TokenId, int> Counts(const SamplerOptions& settings, const std::vector<float>& logits,
                                int num_draws = 4000) {
    Sampler sampler(settings, logits.size(), budget_);
    std::map<TokenId, int> counts;
    for (int i = 0; i < num_draws; ++i) ++counts[sampler.Sample(logits, {}, i)];
    return counts;
  }
  Budget budget_;
};

TEST_F(SamplerTest, GreedyTakesTheLowestIdAmongEquals) {
  EXPECT_EQ(Sample({}, {0.f, 3.f, 3.f, -1.f}), 1);
  EXPECT_EQ(Sample({}, {-kInfinity, -5.f}), 1);
}

TEST_F(SamplerTest, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {std::log(1.f), std::log(2.f), std::log(5.f), -kInfinity};
  const auto counts = Counts({.temperature = 1}, logits, 8000);
  EXPECT_NEAR(counts.at(0), 1000, 120);
  EXPECT_NEAR(counts.at(1), 2000, 160);
  EXPECT_NEAR(counts.at(2), 5000, 180);
  EXPECT_EQ(counts.count(3), 0u);
}

TEST_F(SamplerTest, TemperatureSharpensAndFlattens) {
  const std::vector<float> logits = {0.f, 1.f};
  const int cold = Counts({.temperature = 0.25f}, logits)[0];
  const int hot = Counts({.temperature = 4}, logits)[0];
  EXPECT_NEAR(cold, 4000 / (1 + std::exp(4.0)), 40);
  EXPECT_NEAR(hot, 4000 / (1 + std::exp(0.25)), 150);
  // So cold that exponents leave float's range: greedy, not NaN.
  EXPECT_EQ(Counts({.temperature = 1e-30f}, logits)[1], 4000);
}

TEST_F(SamplerTest, TopKKeepsTheLikeliest) {
  const std::vector<float> logits = {0.f, 2.f, 1.f, 2.f, -1.f};
  for (const auto& [id, count] : Counts({.temperature = 10, .top_k = 2}, logits)) {
    EXPECT_TRUE(id == 1 || id == 3) << id;
    EXPECT_GT(count, 1500);
  }
  EXPECT_EQ(Counts({.temperature = 10, .top_k = 1}, logits)[1], 4000);
  EXPECT_EQ(Counts({.temperature = 10, .top_k = 100}, logits).size(), 5u);
}

TEST_F(SamplerTest, TopPStopsWhereTheSumIsReached) {
  const std::vector<float> logits = {std::log(.5f), std::log(.3f), std::log(.15f), std::log(.05f)};
  EXPECT_EQ(Counts({.temperature = 1, .top_p = 0.4f}, logits).size(), 1u);
  EXPECT_EQ(Counts({.temperature = 1, .top_p = 0.7f}, logits).size(), 2u);
  EXPECT_EQ(Counts({.temperature = 1, .top_p = 0.9f}, logits).size(), 3u);
  EXPECT_EQ(Counts({.temperature = 1, .top_p = 1.f}, logits).size(), 4u);
}

TEST_F(SamplerTest, TopPOverALargeVocabularySortsInPartsAndAgrees) {
  // A nearly flat distribution: 0.5 needs about half of the vocabulary, many doublings of the sorted part.
  std::vector<float> logits(3000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = -1e-4f * static_cast<float>(i);
  for (const auto& [id, count] : Counts({.temperature = 1, .top_p = 0.5f}, logits, 300)) EXPECT_LT(id, 1500);
}

TEST_F(SamplerTest, MinPIsRelativeToTheLikeliest) {
  const std::vector<float> logits = {std::log(.5f), std::log(.3f), std::log(.04f)};
  EXPECT_EQ(Counts({.temperature = 1, .min_p = 0.1f}, logits).size(), 2u);
  EXPECT_EQ(Counts({.temperature = 1, .min_p = 0.7f}, logits).size(), 1u);
  EXPECT_EQ(Counts({.temperature = 1, .min_p = 1.f}, logits).size(), 1u);
}

TEST_F(SamplerTest, RepetitionPenaltyHitsEachRecentTokenOnceAndPassesOverPauses) {
  const SamplerOptions settings{.repetition_penalty = 1.5f};
  EXPECT_EQ(Sample(settings, {2.f, 1.5f}), 0);
  EXPECT_EQ(Sample(settings, {2.f, 1.5f}, 0, {0}), 1);
  // Twice in the window is still 2 / 1.5 = 1.33, not 0.89.
  EXPECT_EQ(Sample(settings, {2.f, 1.3f}, 0, {0, 0, 0}), 0);
  EXPECT_EQ(Sample(settings, {2.f, 1.5f}, 0, {~0}), 0);
  // Negative logits become more negative.
  EXPECT_EQ(Sample(settings, {-1.f, -1.2f}, 0, {0}), 1);
}

TEST_F(SamplerTest, BannedTokensAreNeverPicked) {
  EXPECT_EQ(Sample({.banned = {1}}, {0.f, 3.f, 2.f}), 2);
  EXPECT_EQ(Counts({.temperature = 5, .banned = {0, 2}}, {1.f, 1.f, 1.f}).size(), 1u);
  EXPECT_NE(MessageOf([&] {
              Sample({.banned = {0, 1}}, {0.f, 3.f}, 42);
            }).find("index 42"),
            std::string::npos);
}

TEST_F(SamplerTest, DrawsDependOnSeedAndIndexOnly) {
  const std::vector<float> logits(64, 0.f);
  const SamplerOptions settings{.temperature = 1, .seed = 7};
  SamplerOptions other = settings;
  other.seed = 8;
  int num_same = 0;
  for (int64_t index = 0; index < 200; ++index) {
    EXPECT_EQ(Sample(settings, logits, index), Sample(settings, logits, index));
    num_same += Sample(settings, logits, index) == Sample(other, logits, index);
  }
  EXPECT_LT(num_same, 20);
  // Far into a stream the draws still differ from index to index.
  std::map<TokenId, int> far;
  for (int64_t i = 0; i < 200; ++i) ++far[Sample(settings, logits, (int64_t{1} << 33) + i)];
  EXPECT_GT(far.size(), 40u);
}

TEST_F(SamplerTest, BadLogitsAreAnErrorThatNamesTheIndex) {
  for (const float bad : {std::nanf(""), kInfinity}) {
    for (const float temperature : {0.f, 1.f}) {
      const std::string message = MessageOf([&] {
        Sample({.temperature = temperature}, {0.f, bad, 1.f}, 1953001);
      });
      EXPECT_NE(message.find("index 1953001"), std::string::npos) << message;
      EXPECT_NE(message.find("token 1"), std::string::npos) << message;
    }
  }
  EXPECT_NE(MessageOf([&] { Sample({}, {-kInfinity, -kInfinity}, 5); }), "");
}

TEST_F(SamplerTest, SettingsOutOfRangeAreNamed) {
  const auto message = [](const SamplerOptions& settings) {
    return MessageOf([&] { CheckSampler(settings, 10); });
  };
  EXPECT_NE(message({.temperature = -1}).find("temperature"), std::string::npos);
  EXPECT_NE(message({.temperature = std::nanf("")}).find("temperature"), std::string::npos);
  EXPECT_NE(message({.top_k = -1}).find("top_k"), std::string::npos);
  EXPECT_NE(message({.top_p = 0}).find("top_p"), std::string::npos);
  EXPECT_NE(message({.min_p = 1.5f}).find("min_p"), std::string::npos);
  // A denormal penalty made every logit infinite, and the answer one token for ever.
  EXPECT_NE(message({.repetition_penalty = 1e-45f}).find("repetition_penalty"), std::string::npos);
  EXPECT_NE(message({.repetition_penalty = 0}).find("repetition_penalty"), std::string::npos);
  EXPECT_NE(message({.repetition_window = -1}).find("repetition_window"), std::string::npos);
  EXPECT_NE(message({.banned = {10}}).find("ban"), std::string::npos);
  EXPECT_EQ(message({.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .banned = {9}}), "");
}

TEST_F(SamplerTest, BuffersComeFromTheBudget) {
  Budget small(100);
  EXPECT_THROW(Sampler({}, 1000, small), Error);
  Budget enough(8000);
  const Sampler sampler({}, 1000, enough);
  EXPECT_EQ(enough.used_bytes(MemoryTag::kSession), 8000u);
}

}  // namespace
}  // namespace mneme
