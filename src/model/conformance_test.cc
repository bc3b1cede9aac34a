// Agreement with a peer's logits, with the double-precision twin, and with an author's expected text.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/testing.h"
#include "kernels/cpu_device.h"
#include "kernels/pointwise/elementwise.h"
#include "model/runner.h"
#include "model/test_util.h"
#include "reference/model.h"

namespace mneme {
namespace {

using testing::EngineLogits;
using testing::LoadModel;
using testing::ReadFloats;
using testing::ReadIds;
using testing::RelativeDifference;

std::vector<std::string> ModelsIn(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".gguf") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

double TopAgreement(const std::vector<float>& a, const std::vector<float>& b, size_t vocab_size) {
  size_t num_equal = 0;
  const size_t num_rows = a.size() / vocab_size;
  for (size_t row = 0; row < num_rows; ++row) {
    num_equal +=
        ArgMax(a.data() + row * vocab_size, vocab_size) == ArgMax(b.data() + row * vocab_size, vocab_size);
  }
  return static_cast<double>(num_equal) / static_cast<double>(num_rows);
}

bool IsFloat32(const std::string& path) {
  static const char* const kMarks[] = {"-F16", "-BF16", "-Q"};
  return std::none_of(std::begin(kMarks), std::end(kMarks),
                      [&](const char* mark) { return path.find(mark) != std::string::npos; });
}

bool IsHalf(const std::string& path) { return path.find("F16") != std::string::npos; }

// Our difference from the twin: float32 rounding for float weights; for integer blocks the rounding of the
// activations to 8 bits (0.4 % per product with a scale per 32 values, more with one per 256), which random
// weights carry on undamped.
double TwinTolerance(const std::string& path) {
  if (IsFloat32(path) || IsHalf(path)) return 2e-5;
  return path.find("_K") != std::string::npos ? 4e-2 : 2.5e-2;
}

// The peer rounds activations to the same integers as we do; a rounding that falls the other way now and then
// is what remains. With half-precision weights it rounds activations to the weights' own format, which we do
// not.
double PeerTolerance(const std::string& path) { return IsFloat32(path) ? 1e-4 : IsHalf(path) ? 1e-2 : 2e-2; }

// Half-precision weights as blocks of 14-bit integers: 1.3e-4 for each product of normal numbers, and as with
// 8 bits about five times that at the logits of random weights.
constexpr double kInt16Tolerance = 1e-3;

struct Mode {
  PackMode pack;
  const char* name;
};

std::vector<Mode> ModesOf(const std::string& path) {
  if (!IsHalf(path)) return {{PackMode::kNever, "file"}, {PackMode::kAlways, "packed"}};
  return {{PackMode::kNever, "file"}, {PackMode::kFloat32, "packed"}, {PackMode::kInt16, "int16"}};
}

void CheckFile(const std::string& path, const std::vector<TokenId>& ids, const std::string& logits_path) {
  SCOPED_TRACE(path);
  const auto model = LoadModel(path);
  const std::vector<float> theirs = ReadFloats(logits_path);
  const std::vector<double> twin = ReferenceLogits(*model, ids);
  for (const auto& [pack, mode] : ModesOf(path)) {
    const std::vector<float> ours = EngineLogits(*LoadModel(path, pack), ids);
    const double from_twin = RelativeDifference(ours, twin);
    const double from_peer = RelativeDifference(ours, theirs);
    const double top = TopAgreement(ours, theirs, model->plan().vocab_size);
    std::printf("%-28s %-6s twin %.2e  peer %.2e  same top %.3f\n",
                std::filesystem::path(path).filename().c_str(), mode, from_twin, from_peer, top);
    const double tolerance = pack == PackMode::kInt16 ? kInt16Tolerance : TwinTolerance(path);
    EXPECT_LT(from_twin, model->plan().layers[0].dense()->half_gelu ? std::max(1e-4, tolerance) : tolerance);
    // The peer, which rounds the activations alone, to the weights' format, is farther from the truth.
    if (pack == PackMode::kInt16) {
      EXPECT_LT(from_twin, RelativeDifference(theirs, twin));
    }
    EXPECT_LT(from_peer, PeerTolerance(path));
    EXPECT_GE(top, IsFloat32(path) ? 0.98 : 0.95);
  }
  // No activation rounded: as near to the twin as float32 weights are.
  const std::shared_ptr<const LoadedModel> exact = LoadModel(path, PackMode::kExact);
  EXPECT_LT(RelativeDifference(EngineLogits(*exact, ids), ReferenceLogits(*exact, ids)), 2e-5) << "exact";
}

TEST(Conformance, EveryModelOfThePeer) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/conformance/models";
  const auto ids = ReadIds(folder + "/tokens.txt");
  ASSERT_EQ(ids.size(), 64u);
  const auto paths = ModelsIn(folder);
  ASSERT_GE(paths.size(), 36u);
  for (const std::string& path : paths) {
    CheckFile(path, ids, path.substr(0, path.size() - 5) + ".logits.f32");
  }
}

TEST(Conformance, TrainedModelInEveryEncoding) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/conformance/real";
  const auto ids = ReadIds(folder + "/tokens.txt");
  for (const std::string& path : ModelsIn(folder)) {
    CheckFile(path, ids, path.substr(0, path.size() - 5) + ".logits.f32");
  }
  CheckFile(data + "/models/stories260K/stories260K.gguf", ids, folder + "/stories260K.logits.f32");
}

TEST(Conformance, GptjFolder) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/conformance";
  const auto ids = ReadIds(folder + "/models/tokens.txt");
  CheckFile(folder + "/gptj-hf", ids, folder + "/gptj-hf/logits.f32");
}

// Chunks and threads must not change a bit: contexts, sessions and restored states rely on it.
TEST(Conformance, SameBitsForAnyChunkAndThreadCount) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/conformance/models/";
  const auto ids = ReadIds(folder + "tokens.txt");
  for (const char* name : {"llama-256-Q4_0", "llama-256-Q4_K_S", "llama-256-F16", "llama-gqa", "gemma3",
                           "falcon-40b", "mpt-6h", "olmo2", "stablelm", "gpt2"}) {
    SCOPED_TRACE(name);
    const std::string path = folder + name + ".gguf";
    for (const auto& [pack, mode] : ModesOf(path)) {
      SCOPED_TRACE(mode);
      const auto model = LoadModel(path, pack);
      const std::vector<float> expected = EngineLogits(*model, ids, 64, 1);
      for (const size_t chunk : {1, 7, 64}) {
        for (const size_t num_threads : {1, 2}) {
          const std::vector<float> logits = EngineLogits(*model, ids, chunk, num_threads);
          EXPECT_TRUE(logits == expected) << "chunk " << chunk << ", threads " << num_threads
                                          << ", difference " << RelativeDifference(logits, expected);
        }
      }
    }
  }
}

// Sessions that share a call get what they would get alone.
TEST(Conformance, SameBitsInABatchOfSessions) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/conformance/models/";
  const auto ids = ReadIds(folder + "tokens.txt");
  for (const char* name : {"llama-256-Q8_0", "gemma2"}) {
    const auto model = LoadModel(folder + name + ".gguf", PackMode::kAlways);
    const size_t vocab_size = model->plan().vocab_size;
    CpuDevice device(2);
    Budget budget;
    Runner runner(*model, 64, device, budget);
    const auto first = testing::DenseContext(*model, budget, 2);
    const auto second = testing::DenseContext(*model, budget, 2);
    const std::span<const TokenId> all(ids);
    std::vector<std::vector<float>> logits(2);
    const auto feed = [&](size_t a, size_t a_count, size_t b, size_t b_count) {
      std::vector<ForwardChunk> chunks(2);
      chunks[0].context = first.get();
      chunks[0].tokens = all.subspan(a, a_count);
      chunks[0].all_logits = true;
      chunks[1].context = second.get();
      chunks[1].tokens = all.subspan(b, b_count);
      chunks[1].all_logits = true;
      runner.Forward(chunks, [&](size_t chunk, size_t, std::span<const float> row) {
        logits[chunk].insert(logits[chunk].end(), row.begin(), row.end());
      });
    };
    feed(0, 5, 20, 3);
    feed(5, 1, 23, 9);
    feed(6, 10, 32, 1);
    const auto alone = EngineLogits(*model, all.subspan(0, 16));
    const auto other = EngineLogits(*model, all.subspan(20, 13));
    EXPECT_EQ(logits[0].size(), 16 * vocab_size);
    EXPECT_TRUE(logits[0] == alone);
    EXPECT_TRUE(logits[1] == other);
  }
}

std::string GreedyText(const LoadedModel& model, TokenId first, int num_steps) {
  CpuDevice device(1);
  Budget budget;
  Runner runner(model, 8, device, budget);
  const auto context = testing::DenseContext(model, budget, 1);
  std::vector<TokenId> ids = {first};
  for (int step = 0; step < num_steps; ++step) {
    ForwardChunk chunk;
    chunk.context = context.get();
    chunk.tokens = {&ids.back(), 1};
    TokenId next = -1;
    runner.Forward({&chunk, 1}, [&](size_t, size_t, std::span<const float> logits) {
      next = static_cast<TokenId>(ArgMax(logits.data(), logits.size()));
    });
    ids.push_back(next);
  }
  return model.tokenizer().Decode(std::span<const TokenId>(ids).subspan(1));
}

TEST(Conformance, AuthorsExpectedTextFromEveryContainer) {
  MNEME_REQUIRE_DATA(data);
  const std::string stories = data + "/models/stories260K/";
  const std::string expected = ReadWholeFile(stories + "expected-greedy-200steps.txt");
  const std::string vocabulary = stories + "tok512.model";
  for (const auto& [path, tokenizer] : std::vector<std::pair<std::string, std::string>>{
           {stories + "stories260K.gguf", ""},
           {data + "/models/stories260K-ggufv1/tinyllamas-stories-260k-f32.gguf", ""},
           {stories + "stories260K.bin", vocabulary},
           {stories + "checkpoint_v1.bin", stories + "tok512.bin"},
           {data + "/models/derived/stories260K-hf", ""}}) {
    for (const PackMode pack : {PackMode::kNever, PackMode::kAuto}) {
      EXPECT_EQ(GreedyText(*LoadModel(path, pack, 1, tokenizer), 1, 200), expected) << path;
    }
  }
}

// The same weights in two containers are the same model.
TEST(Conformance, FingerprintsFollowTheWeights) {
  MNEME_REQUIRE_DATA(data);
  const std::string stories = data + "/models/stories260K/";
  const uint64_t v0 = LoadModel(stories + "stories260K.bin")->fingerprint();
  EXPECT_EQ(v0, LoadModel(stories + "checkpoint_v1.bin")->fingerprint());
  EXPECT_EQ(v0, LoadModel(stories + "stories260K.bin", PackMode::kAlways)->fingerprint());
  EXPECT_NE(v0, LoadModel(data + "/conformance/real/stories260K-Q8_0.gguf")->fingerprint());
  EXPECT_NE(v0, LoadModel(data + "/models/babyllama-tok105/model5000.bin")->fingerprint());
}

TEST(Conformance, BabyLlama) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/models/babyllama-tok105/";
  const auto model = LoadModel(folder + "model5000.bin", PackMode::kAuto, 1, folder + "tok105.model");
  std::vector<TokenId> ids =
      model->tokenizer().Encode("Once upon a time, there was a little girl named Lily.");
  ids.insert(ids.begin(), 1);
  EXPECT_LT(RelativeDifference(EngineLogits(*model, ids), ReferenceLogits(*model, ids)), 2e-5);
  const std::string text = GreedyText(*model, 1, 120);
  EXPECT_NE(text.find(" was a "), std::string::npos) << text;
}

TEST(Conformance, FolderWithManyTokensAndFewDimensions) {
  MNEME_REQUIRE_DATA(data);
  const auto model = LoadModel(data + "/models/hf-tiny-llama-random", PackMode::kAuto);
  const std::vector<TokenId> ids = {1, 15043, 3186, 31999, 0, 29991, 77};
  EXPECT_LT(RelativeDifference(EngineLogits(*model, ids), ReferenceLogits(*model, ids)), 2e-5);
  EXPECT_FLOAT_EQ(model->plan().norm_epsilon, 1e-6f);
}

}  // namespace
}  // namespace mneme
