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

class PartsTest : public ::testing::Test {
 protected:
  PartsTest() {
    std::string pattern = ::testing::TempDir() + "/mneme_parts_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~PartsTest() override { std::filesystem::remove_all(folder_); }
  // Part `index` of three, each with one tensor.
  void WritePart(int index, const std::string& name, int count = 3) const {
    GgufWriter writer;
    writer.Set("split.no", static_cast<uint16_t>(index));
    writer.Set("split.count", static_cast<uint16_t>(count));
    writer.Set("split.tensors.count", int32_t{3});
    const float values[2] = {static_cast<float>(index), 7};
    writer.AddTensor("t" + std::to_string(index), Encoding::kF32, {2}, values);
    writer.Write(folder_ + "/" + name);
  }
  std::string Refusal(const std::string& name) const {
    try {
      OpenTensorSource(folder_ + "/" + name);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::string folder_;
};

TEST_F(PartsTest, TheFirstOpensAll) {
  for (int i = 0; i < 3; ++i) WritePart(i, "m-0000" + std::to_string(i + 1) + "-of-00003.gguf");
  const auto source = OpenTensorSource(folder_ + "/m-00001-of-00003.gguf");
  EXPECT_EQ(source->num_files(), 3u);
  ASSERT_EQ(source->tensors().size(), 3u);
  EXPECT_EQ(reinterpret_cast<const float*>(source->Require("t2").data)[0], 2.0f);
  size_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) bytes += entry.file_size();
  EXPECT_EQ(source->mapped_bytes(), bytes);
  source->CheckUnchanged();
  std::filesystem::resize_file(folder_ + "/m-00003-of-00003.gguf", 10);
  EXPECT_THROW(source->CheckUnchanged(), Error);
}

TEST_F(PartsTest, WhatDoesNotFitIsNamed) {
  for (int i = 0; i < 3; ++i) WritePart(i, "m-0000" + std::to_string(i + 1) + "-of-00003.gguf");
  EXPECT_NE(Refusal("m-00002-of-00003.gguf").find("part 2 of 3; the first opens them all"),
            std::string::npos);
  std::filesystem::copy(folder_ + "/m-00001-of-00003.gguf", folder_ + "/renamed.gguf");
  EXPECT_NE(Refusal("renamed.gguf").find("-00001-of-00003.gguf"), std::string::npos);
  WritePart(1, "m-00003-of-00003.gguf");
  EXPECT_NE(Refusal("m-00001-of-00003.gguf").find("m-00003-of-00003.gguf"), std::string::npos);
  std::filesystem::remove(folder_ + "/m-00003-of-00003.gguf");
  EXPECT_NE(Refusal("m-00001-of-00003.gguf").find("part 3 is missing"), std::string::npos);
  WritePart(0, "n-00001-of-00002.gguf", 2);
  WritePart(1, "n-00002-of-00002.gguf", 2);
  EXPECT_NE(Refusal("n-00001-of-00002.gguf").find("2 tensors together and should have 3"), std::string::npos);
}

// Two rows of one block: values 2i and 2i + 1 in byte i of a folder, i and i + 16 of GGUF.
TEST_F(PartsTest, BlocksAndScalesOfAFolderAreOneTensor) {
  std::ofstream(folder_ + "/config.json") << "{}";
  std::string header = R"({"e_blocks":{"dtype":"U8","shape":[2,1,16],"data_offsets":[0,32]},)"
                       R"("e_scales":{"dtype":"U8","shape":[2,1],"data_offsets":[32,34]}})";
  while (header.size() % 8 != 0) header += ' ';
  const uint64_t size = header.size();
  std::string data(34, '\0');
  data[16] = 0x21;      // row 1: values 0 and 1
  data[16 + 8] = 0x43;  // values 16 and 17
  data[32] = 120;
  data[33] = 127;
  std::ofstream(folder_ + "/model.safetensors", std::ios::binary)
      << std::string(reinterpret_cast<const char*>(&size), 8) << header << data;
  const auto source = OpenTensorSource(folder_);
  const TensorInfo& tensor = source->Require("e");
  EXPECT_EQ(tensor.encoding, Encoding::kMXFP4);
  EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{2, 32}));
  ASSERT_NE(tensor.mxfp4_scales, nullptr);
  uint8_t block[17];
  JoinMxfp4Block(tensor.data + 16, tensor.mxfp4_scales[1], block);
  EXPECT_EQ(block[0], 127);
  EXPECT_EQ(block[1], 0x31);
  EXPECT_EQ(block[2], 0x42);
  EXPECT_EQ(block[3], 0);
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
