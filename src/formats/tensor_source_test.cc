#include "formats/tensor_source.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "base/testing.h"

namespace mneme {
namespace {

TEST(TensorSource, RefusesOtherFiles) {
  const std::string path = ::testing::TempDir() + "/mneme_source_" + std::to_string(::getpid());
  std::ofstream(path) << "This is a text, and long enough to hold a header of seven integers.";
  EXPECT_THROW(OpenTensorSource(path), Error);
  std::filesystem::remove(path);
  EXPECT_THROW(OpenTensorSource(path), Error);
  EXPECT_THROW(OpenTensorSource(::testing::TempDir()), Error);
}

TEST(TensorSourceConformance, DetectsContainersAndGivesRowMajorShapes) {
  MNEME_REQUIRE_DATA(data);
  const std::string models = data + "/models/";
  const struct {
    const char* path;
    Container container;
    const char* embedding;
    const char* key;
  } cases[] = {
      {"stories260K/stories260K.gguf", Container::kGguf, "token_embd.weight", "blk.0.attn_k.weight"},
      {"stories260K/stories260K.bin", Container::kLlama2c, "token_embd.weight", "blk.0.attn_k.weight"},
      {"stories260K/checkpoint_v1.bin", Container::kLlama2c, "token_embd.weight", "blk.0.attn_k.weight"},
      {"derived/stories260K-hf", Container::kSafetensors, "model.embed_tokens.weight",
       "model.layers.0.self_attn.k_proj.weight"},
      {"derived/stories260K-hf/model.safetensors", Container::kSafetensors, "model.embed_tokens.weight",
       "model.layers.0.self_attn.k_proj.weight"},
  };
  for (const auto& c : cases) {
    const std::unique_ptr<TensorSource> source = OpenTensorSource(models + c.path);
    EXPECT_EQ(source->container(), c.container) << c.path;
    EXPECT_EQ(source->Require(c.embedding).shape, (std::vector<uint64_t>{512, 64})) << c.path;
    EXPECT_EQ(source->Require(c.key).shape, (std::vector<uint64_t>{32, 64})) << c.path;
    EXPECT_EQ(source->Require(c.key).num_values(), 2048u);
    EXPECT_EQ(source->Find("none"), nullptr);
    EXPECT_THROW(source->Require("none"), Error);
    EXPECT_EQ(source->gguf() != nullptr, c.container == Container::kGguf);
    EXPECT_EQ(source->llama2c() != nullptr, c.container == Container::kLlama2c);
    EXPECT_EQ(source->safetensors() != nullptr, c.container == Container::kSafetensors);
  }
  EXPECT_THROW(OpenTensorSource(models + "rwkv-tiny/tiny-rwkv-5v2-730K-FP16.bin"), Error);
}

}  // namespace
}  // namespace mneme
