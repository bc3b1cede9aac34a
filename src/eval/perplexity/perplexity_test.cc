#include "eval/perplexity/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "eval/perplexity/report.h"

namespace mneme {
namespace {

std::string Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class PerplexityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    data_ = testing::DataFolder();
    if (data_.empty()) GTEST_SKIP() << testing::kSkipMessage;
    file_ = data_ + "/models/stories260K/stories260K.gguf";
    std::istringstream words(Read(data_ + "/conformance/real/tokens.txt"));
    for (TokenId id; words >> id;) tokens_.push_back(id);
  }

  std::vector<PerplexityResult> Run(const std::vector<std::string>& contexts,
                                    const std::vector<TokenId>& tokens, std::vector<int64_t> lengths = {},
                                    int64_t max_rows = 16) {
    PerplexityOptions options;
    options.session.keys = options.session.values = Encoding::kF32;
    options.contexts = contexts;
    options.lengths = std::move(lengths);
    const Engine engine({.num_threads = 1, .memory_bytes = size_t{1} << 30, .max_rows = max_rows});
    PerplexityRun run(Model::Load(engine, file_), options);
    run.Feed(tokens);
    run.Finish();
    return run.Results();
  }

  // More of the same, so that windows fill.
  std::vector<TokenId> Long(size_t count) const {
    std::vector<TokenId> tokens;
    while (tokens.size() < count) tokens.insert(tokens.end(), tokens_.begin(), tokens_.end());
    tokens.resize(count);
    return tokens;
  }

  std::string data_;
  std::string file_;
  std::vector<TokenId> tokens_;
};

// The logits of another implementation, through a softmax in double precision.
TEST_F(PerplexityTest, AgreesWithADoublePrecisionTwin) {
  const std::string bytes = Read(data_ + "/conformance/real/stories260K.logits.f32");
  const size_t vocab_size = 512;
  ASSERT_EQ(bytes.size(), tokens_.size() * vocab_size * sizeof(float));
  std::vector<float> logits(tokens_.size() * vocab_size);
  std::memcpy(logits.data(), bytes.data(), bytes.size());
  double sum = 0;
  for (size_t i = 0; i + 1 < tokens_.size(); ++i) {
    const float* row = &logits[i * vocab_size];
    double total = 0;
    for (size_t j = 0; j < vocab_size; ++j) total += std::exp(static_cast<double>(row[j]));
    sum += std::log(total) - static_cast<double>(row[tokens_[i + 1]]);
  }
  const PerplexityResult result = Run({"dense"}, tokens_)[0];
  EXPECT_EQ(result.total.count, static_cast<int64_t>(tokens_.size()) - 1);
  EXPECT_NEAR(result.total.sum, sum, 1e-4 * sum);
}

TEST_F(PerplexityTest, ChunksDoNotMatterAndAWindowThatSeesAllIsDense) {
  const auto tokens = Long(200);
  const double dense = Run({"dense"}, tokens, {}, 7)[0].total.sum;
  for (const int64_t chunk : {1, 16, 64, 512})
    EXPECT_EQ(Run({"dense"}, tokens, {}, chunk)[0].total.sum, dense) << chunk;
  const auto others = Run({"window:window=300", "sinks:sinks=4,window=300",
                           "lambda:starts=10,window=300,distance=300", "recompute:window=300"},
                          tokens);
  for (const PerplexityResult& result : others)
    EXPECT_NEAR(result.total.sum, dense, 1e-6 * dense) << result.context;
}

TEST_F(PerplexityTest, RecomputationSeesItsWindowAlone) {
  const auto tokens = Long(120);
  const auto result = Run({"recompute:window=32,every=10"}, tokens)[0];
  EXPECT_EQ(result.context, "recompute:window=32,every=10");
  EXPECT_EQ(result.total.count, 11);
  double sum = 0;
  for (size_t target = 10; target < tokens.size(); target += 10) {
    const size_t begin = target > 32 ? target - 32 : 0;
    const std::vector<TokenId> piece(tokens.begin() + static_cast<ptrdiff_t>(begin),
                                     tokens.begin() + static_cast<ptrdiff_t>(target) + 1);
    const auto bins = Run({"dense"}, piece)[0].bins;
    // The last token of the piece alone.
    std::vector<TokenId> shorter = piece;
    shorter.pop_back();
    const double before = shorter.size() > 1 ? Run({"dense"}, shorter)[0].total.sum : 0;
    double all = 0;
    for (const PositionBin& bin : bins) all += bin.sum;
    sum += all - before;
  }
  EXPECT_NEAR(result.total.sum, sum, 1e-6 * sum);
}

TEST_F(PerplexityTest, LengthsAreTheirSecondHalves) {
  const auto tokens = Long(100);
  const auto result = Run({"dense"}, tokens, {32, 64, 256})[0];
  ASSERT_EQ(result.by_length.size(), 3u);
  EXPECT_EQ(result.by_length[0].count, 16);
  EXPECT_EQ(result.by_length[1].count, 32);
  EXPECT_EQ(result.by_length[2].count, 0);
  const std::vector<TokenId> first(tokens.begin(), tokens.begin() + 32),
      half(tokens.begin(), tokens.begin() + 16);
  EXPECT_NEAR(result.by_length[0].sum, Run({"dense"}, first)[0].total.sum - Run({"dense"}, half)[0].total.sum,
              1e-9);
  EXPECT_EQ(PerplexityLengthTable(std::vector{result}).size(), 4u);
}

TEST_F(PerplexityTest, TableOfSinksByCache) {
  const auto results =
      Run({"window:window=32", "sinks:sinks=4,window=28", "sinks:sinks=4,window=60", "dense"}, Long(150));
  const auto table = PerplexitySinkTable(results);
  ASSERT_EQ(table.size(), 3u);
  EXPECT_EQ(table[0], (std::vector<std::string>{"sinks", "cache 32", "cache 64"}));
  EXPECT_EQ(table[1][0], "0");
  EXPECT_EQ(table[1][2], "-");
  EXPECT_NE(table[2][2], "-");
}

TEST(RecomputeSpecTest, ParsesAndRefuses) {
  EXPECT_FALSE(ParseRecompute("window:window=3").has_value());
  EXPECT_EQ(ParseRecompute("recompute:window=1K,every=4")->ToString(), "recompute:window=1024,every=4");
  EXPECT_THROW(ParseRecompute("recompute:size=3"), Error);
  EXPECT_THROW(ParseRecompute("recompute:window=0"), Error);
  EXPECT_THROW(ParseRecompute("recompute:window"), Error);
}

}  // namespace
}  // namespace mneme
