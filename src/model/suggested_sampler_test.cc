#include "model/suggested_sampler.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "formats/safetensors.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

class SuggestedSamplerTest : public ::testing::Test {
 protected:
  SuggestedSamplerTest() {
    std::string pattern = (fs::temp_directory_path() / "mneme_sampler_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~SuggestedSamplerTest() override { fs::remove_all(folder_); }

  std::optional<SamplerOptions> OfGguf(const GgufWriter& writer) const {
    const std::string path = (folder_ / "m.gguf").string();
    writer.Write(path);
    return SuggestedSampler(*OpenTensorSource(path));
  }
  std::optional<SamplerOptions> OfFolder(const std::string& generation_config) const {
    std::ofstream(folder_ / "config.json") << R"({"model_type": "llama"})";
    const std::string header = R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    const uint64_t size = header.size();
    std::ofstream weights(folder_ / "model.safetensors", std::ios::binary);
    weights.write(reinterpret_cast<const char*>(&size), sizeof(size));
    weights << header << std::string(4, '\0');
    weights.close();
    std::ofstream(folder_ / "generation_config.json") << generation_config;
    return SuggestedSampler(*OpenTensorSource(folder_.string()));
  }

  fs::path folder_;
};

TEST_F(SuggestedSamplerTest, OfAFolder) {
  EXPECT_FALSE(OfFolder(R"({"eos_token_id": 2})").has_value());
  const auto gemma = OfFolder(R"({"do_sample": true, "top_k": 64, "top_p": 0.95})");
  ASSERT_TRUE(gemma.has_value());
  EXPECT_EQ(*gemma, (SamplerOptions{.temperature = 1.0f, .top_k = 64, .top_p = 0.95f}));
  const auto qwen = OfFolder(R"({"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1})");
  EXPECT_EQ(*qwen,
            (SamplerOptions{.temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repetition_penalty = 1.1f}));
  // transformers takes the 50 likeliest where nothing is said.
  EXPECT_EQ(*OfFolder(R"({"temperature": 0.6})"), (SamplerOptions{.temperature = 0.6f, .top_k = 50}));
  EXPECT_EQ(*OfFolder(R"({"do_sample": false, "temperature": 0.6})"), SamplerOptions{});
  for (const char* bad : {"[]", R"({"temperature": "hot"})", R"({"temperature": -1})", R"({"top_p": 1.5})",
                          R"({"top_k": 1e30})"})
    EXPECT_THROW(OfFolder(bad), Error) << bad;
}

TEST_F(SuggestedSamplerTest, OfAGgufAndBack) {
  GgufWriter writer;
  writer.Set("general.architecture", std::string("llama"));
  EXPECT_FALSE(OfGguf(writer).has_value());
  writer.Set("general.sampling.top_k", int32_t{20});
  EXPECT_EQ(*OfGguf(writer),
            (SamplerOptions{.temperature = 0.8f, .top_k = 20, .top_p = 0.95f, .min_p = 0.05f}));
  const SamplerOptions written{
      .temperature = 0.5f, .top_k = 7, .top_p = 0.75f, .min_p = 0.25f, .repetition_penalty = 1.25f};
  WriteSuggestedSampler(written, &writer);
  EXPECT_EQ(*OfGguf(writer), written);
  writer.Set("general.sampling.penalty_last_n", int32_t{256});
  EXPECT_EQ(OfGguf(writer)->repetition_window, 256);
  writer.Set("general.sampling.temp", std::string("hot"));
  EXPECT_THROW(OfGguf(writer), Error);
}

}  // namespace
}  // namespace mneme
