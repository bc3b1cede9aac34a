#include "formats/llama2c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "formats/gguf.h"

namespace mneme {
namespace {

template <typename T>
void Append(std::vector<uint8_t>& bytes, T value) {
  const auto* from = reinterpret_cast<const uint8_t*>(&value);
  bytes.insert(bytes.end(), from, from + sizeof(T));
}

// dim 8, hidden 12, 2 layers, 2 heads, 1 kv head, 5 pieces, 3 positions; floats count up.
std::vector<uint8_t> SmallVersion0(bool shared) {
  std::vector<uint8_t> bytes;
  for (const int32_t value : {8, 12, 2, 2, 1, shared ? 5 : -5, 3}) Append(bytes, value);
  const int layer = 8 + 8 * 8 + 2 * 4 * 8 + 8 * 8 + 8 + 3 * 8 * 12;
  const int count = 5 * 8 + 2 * layer + 8 + 3 * 4 + (shared ? 0 : 5 * 8);
  for (int i = 0; i < count; ++i) Append(bytes, static_cast<float>(i));
  return bytes;
}

float FirstValue(const Llama2cTensor* tensor) {
  float value;
  std::memcpy(&value, tensor->data, sizeof(value));
  return value;
}

TEST(Llama2c, Version0Layout) {
  for (const bool shared : {true, false}) {
    const std::vector<uint8_t> bytes = SmallVersion0(shared);
    EXPECT_TRUE(Llama2cFile::Recognize(bytes));
    const Llama2cFile file = Llama2cFile::FromBytes(bytes);
    EXPECT_EQ(file.config().version, 0);
    EXPECT_EQ(file.config().vocab_size, 5);
    EXPECT_EQ(file.config().shared_classifier, shared);
    EXPECT_EQ(FirstValue(file.FindTensor("token_embd.weight")), 0.0f);
    EXPECT_EQ(FirstValue(file.FindTensor("blk.1.attn_norm.weight")), 48.0f);
    EXPECT_EQ(FirstValue(file.FindTensor("blk.0.attn_q.weight")), 56.0f);
    EXPECT_EQ(FirstValue(file.FindTensor("blk.1.attn_k.weight")), 56.0f + 2 * 64 + 32);
    EXPECT_EQ(file.FindTensor("blk.1.attn_k.weight")->shape, (std::vector<uint64_t>{4, 8}));
    EXPECT_EQ(file.FindTensor("blk.0.ffn_down.weight")->shape, (std::vector<uint64_t>{8, 12}));
    EXPECT_EQ(file.FindTensor("output.weight") == nullptr, shared);
    if (!shared) {
      // The classifier comes after the RoPE tables: it is the end of the file.
      EXPECT_EQ(file.FindTensor("output.weight")->data + 5 * 8 * 4, bytes.data() + bytes.size());
    }
  }
}

TEST(Llama2c, RefusesEveryOtherSize) {
  const std::vector<uint8_t> whole = SmallVersion0(true);
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::vector<uint8_t> prefix(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_THROW(Llama2cFile::FromBytes(prefix), Error) << length;
    EXPECT_FALSE(Llama2cFile::Recognize(prefix)) << length;
  }
  std::vector<uint8_t> longer = whole;
  longer.push_back(0);
  EXPECT_THROW(Llama2cFile::FromBytes(longer), Error);
}

TEST(Llama2c, RefusesBadHeaders) {
  const std::vector<uint8_t> whole = SmallVersion0(true);
  for (size_t field = 0; field < 7; ++field) {
    for (const int32_t value :
         {0, -1, 7, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
      std::vector<uint8_t> bytes = whole;
      std::memcpy(bytes.data() + 4 * field, &value, 4);
      EXPECT_THROW(Llama2cFile::FromBytes(bytes), Error) << field << " " << value;
    }
  }
  std::vector<uint8_t> version2(256);
  const uint32_t header[] = {0x616b3432, 2};
  std::memcpy(version2.data(), header, sizeof(header));
  EXPECT_THROW(Llama2cFile::FromBytes(version2), Error);
}

TEST(Llama2c, Vocabulary) {
  std::vector<uint8_t> bytes;
  Append(bytes, int32_t{3});
  Append(bytes, 1.5f);
  Append(bytes, int32_t{2});
  bytes.insert(bytes.end(), {'a', 'b'});
  Append(bytes, -1.0f);
  Append(bytes, int32_t{0});
  const Llama2cVocabulary vocabulary = ParseLlama2cVocabulary(bytes, "test", 2);
  EXPECT_EQ(vocabulary.pieces, (std::vector<std::string>{"ab", ""}));
  EXPECT_EQ(vocabulary.scores, (std::vector<float>{1.5f, -1.0f}));
  EXPECT_THROW(ParseLlama2cVocabulary(bytes, "test", 3), Error);
  bytes.pop_back();
  EXPECT_THROW(ParseLlama2cVocabulary(bytes, "test"), Error);
  for (const int32_t length : {-1, 4, 3, std::numeric_limits<int32_t>::max()}) {
    std::vector<uint8_t> bad(bytes.begin(), bytes.begin() + 14);
    std::memcpy(bad.data() + 8, &length, 4);
    EXPECT_THROW(ParseLlama2cVocabulary(bad, "test"), Error) << length;
  }
}

// The same weights in three containers.
TEST(Llama2cConformance, EqualsTheGgufFile) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/models/stories260K/";
  const GgufFile gguf(folder + "stories260K.gguf");
  for (const char* name : {"stories260K.bin", "checkpoint_v1.bin"}) {
    const Llama2cFile file(folder + name);
    EXPECT_EQ(file.config().num_kv_heads, 4);
    EXPECT_TRUE(file.config().shared_classifier);
    EXPECT_EQ(file.tensors().size(), 2u + 9 * 5);
    for (const Llama2cTensor& tensor : file.tensors()) {
      const GgufTensor* twin = gguf.FindTensor(tensor.name);
      ASSERT_NE(twin, nullptr) << tensor.name;
      ASSERT_EQ(tensor.bytes, twin->bytes) << tensor.name;
      EXPECT_EQ(std::memcmp(tensor.data, twin->data, tensor.bytes), 0) << name << " " << tensor.name;
    }
  }
  EXPECT_EQ(Llama2cFile(data + "/models/babyllama-tok105/model5000.bin").config().vocab_size, 105);
  const Llama2cVocabulary vocabulary = ReadLlama2cVocabulary(folder + "tok512.bin", 512);
  const auto scores = gguf.GetFloatArray("tokenizer.ggml.scores");
  ASSERT_EQ(scores->size(), 512u);
  EXPECT_EQ(vocabulary.scores[300], (*scores)[300]);
}

}  // namespace
}  // namespace mneme
