// The public suites: vocabularies and expected ids that others published.
#include "mneme/tokenizer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/files/file.h"
#include "base/testing.h"
#include "formats/gguf.h"
#include "tokenizer/load/load_gguf.h"
#include "tokenizer/testing_util.h"

namespace mneme {
namespace {

using testing::DataFolder;
using testing::Sha256Hex;
using testing::Sha256OfIds;

std::vector<TokenId> ParseIds(std::string text) {
  for (char& c : text)
    if (c == ',' || c == '[' || c == ']') c = ' ';
  std::istringstream stream(text);
  std::vector<TokenId> ids;
  for (TokenId id; stream >> id;) ids.push_back(id);
  return ids;
}

std::vector<std::string> SplitAt(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (size_t at; (at = text.find(separator, start)) != std::string::npos; start = at + separator.size())
    parts.push_back(text.substr(start, at - start));
  if (start < text.size()) parts.push_back(text.substr(start));
  return parts;
}

TEST(Sha256Test, KnownDigests) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

class VocabularySuiteTest : public ::testing::TestWithParam<const char*> {};

TEST_P(VocabularySuiteTest, EveryStringGivesThePublishedIds) {
  MNEME_REQUIRE_DATA(data);
  const std::string base = data + "/tokenizers/llama.cpp-vocab/ggml-vocab-" + GetParam() + ".gguf";
  const Tokenizer tokenizer = LoadTokenizerFile(base);
  const auto texts = SplitAt(ReadWholeFile(base + ".inp"), "\n__ggml_vocab_test__\n");
  const auto lines = SplitAt(ReadWholeFile(base + ".out"), "\n");
  ASSERT_EQ(texts.size(), 46u);
  ASSERT_EQ(lines.size(), 46u);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer.Encode(texts[i]), ParseIds(lines[i])) << "string " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(texts[i])), texts[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, VocabularySuiteTest,
                         ::testing::Values("falcon", "gpt-2", "llama-spm", "phi-3"));

TEST(TokenizerTest, WordPieceIsRefusedByName) {
  MNEME_REQUIRE_DATA(data);
  try {
    LoadTokenizerFile(data + "/tokenizers/llama.cpp-vocab/ggml-vocab-bert-bge.gguf");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("WordPiece"), std::string::npos) << error.what();
  }
}

// Whole books against the ids of another implementation, by hash. Vocabularies run side by side in ctest.
class BooksTest : public ::testing::TestWithParam<const char*> {};

TEST_P(BooksTest, WholeBooksByHash) {
  MNEME_REQUIRE_DATA(data);
  const auto rows = nlohmann::json::parse(ReadWholeFile(data + "/conformance/tokenizers/books.json"));
  int checked = 0;
  std::unique_ptr<Tokenizer> tokenizer;
  for (const auto& row : rows) {
    const std::string vocabulary = row["vocab"];
    if (vocabulary.find(GetParam()) == std::string::npos) continue;
    if (!tokenizer) tokenizer = std::make_unique<Tokenizer>(LoadTokenizerFile(data + "/" + vocabulary));
    const std::string path = row["text"];
    const auto ids = tokenizer->Encode(ReadWholeFile(data + "/" + path));
    EXPECT_EQ(ids.size(), row["num_ids"].get<size_t>()) << path;
    EXPECT_EQ(Sha256OfIds(ids), row["sha256_int32_le"].get<std::string>()) << path;
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

INSTANTIATE_TEST_SUITE_P(All, BooksTest,
                         ::testing::Values("falcon", "gpt-2", "gpt-neox", "llama-spm", "phi-3",
                                           "stories260K"));

// "text => ids" lines; the text may be quoted.
void CheckPrompts(const Tokenizer& tokenizer, const std::string& path) {
  int checked = 0;
  for (const std::string& line : SplitAt(ReadWholeFile(path), "\n")) {
    const size_t arrow = line.rfind(" => ");
    if (arrow == std::string::npos) continue;
    const std::string text = line.substr(0, arrow);
    const auto expected = ParseIds(line.substr(arrow + 4));
    EXPECT_EQ(tokenizer.Encode(text), expected) << text;
    ++checked;
  }
  EXPECT_GT(checked, 50) << path;
}

TEST(PromptsTest, Gpt2) {
  MNEME_REQUIRE_DATA(data);
  CheckPrompts(LoadTokenizerFile(data + "/tokenizers/llama.cpp-vocab/ggml-vocab-gpt-2.gguf"),
               data + "/tokenizers/ggml-prompts/gpt-2.txt");
}

TEST(PromptsTest, NeoxFromTokenizerJson) {
  MNEME_REQUIRE_DATA(data);
  const Tokenizer tokenizer = LoadTokenizerFile(data + "/tokenizers/hf/20B_tokenizer.json");
  CheckPrompts(tokenizer, data + "/tokenizers/ggml-prompts/gpt-neox.txt");
  CheckPrompts(tokenizer, data + "/tokenizers/ggml-prompts/dolly-v2.txt");
}

// The old file names no pre-tokenizer; told that it is gptneox, it is the tokenizer of tokenizer.json.
TEST(TokenizerTest, NeoxGgufAgreesWithTokenizerJson) {
  MNEME_REQUIRE_DATA(data);
  const GgufFile file(data + "/tokenizers/llama.cpp-vocab/ggml-vocab-gpt-neox.gguf");
  const Tokenizer gguf = LoadTokenizer(file, "gptneox");
  const Tokenizer json = LoadTokenizerFile(data + "/tokenizers/hf/20B_tokenizer.json");
  for (TokenId id = 0; id < json.vocab_size(); ++id) EXPECT_EQ(gguf.Bytes(id), json.Bytes(id)) << id;
  for (const char* book : {"/books/frankenstein.txt", "/books/ulysses.txt"}) {
    const std::string text = ReadWholeFile(data + book);
    EXPECT_EQ(gguf.Encode(text), json.Encode(text)) << book;
  }
  EXPECT_EQ(LoadTokenizer(file).pre_tokenizer(), "default");
}

TEST(TiktokenTest, TestPlans) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/tokenizers/tiktoken/";
  std::map<std::string, std::unique_ptr<Tokenizer>> tokenizers;
  int checked = 0;
  for (const std::string& plan :
       SplitAt("\n\n" + ReadWholeFile(folder + "TestPlans.txt"), "\n\nEncodingName: ")) {
    const size_t sample = plan.find("\nSample: ");
    const size_t encoded = plan.rfind("\nEncoded: ");
    if (sample == std::string::npos || encoded == std::string::npos) continue;
    const std::string name = plan.substr(0, sample);
    const std::string text = plan.substr(sample + 9, encoded - sample - 9);
    auto& tokenizer = tokenizers[name];
    if (!tokenizer) {
      const std::string file = name == "p50k_edit" ? "p50k_base" : name;
      tokenizer = std::make_unique<Tokenizer>(LoadTokenizerFile(folder + file + ".tiktoken"));
    }
    EXPECT_EQ(tokenizer->Encode(text), ParseIds(plan.substr(encoded + 10))) << name << ": " << text;
    ++checked;
  }
  EXPECT_EQ(checked, 313);
}

// The same vocabulary in two forms.
TEST(TiktokenTest, R50kIsGpt2) {
  MNEME_REQUIRE_DATA(data);
  const Tokenizer ranks = LoadTokenizerFile(data + "/tokenizers/tiktoken/r50k_base.tiktoken");
  const Tokenizer gguf = LoadTokenizerFile(data + "/tokenizers/llama.cpp-vocab/ggml-vocab-gpt-2.gguf");
  const std::string text = ReadWholeFile(data + "/books/ulysses.txt");
  EXPECT_EQ(ranks.Encode(text), gguf.Encode(text));
}

// dolma2 is cl100k with other special tokens.
TEST(TiktokenTest, Dolma2IsCl100k) {
  MNEME_REQUIRE_DATA(data);
  const Tokenizer ranks = LoadTokenizerFile(data + "/tokenizers/tiktoken/cl100k_base.tiktoken");
  const Tokenizer json = LoadTokenizerFile(data + "/tokenizers/hf/allenai_dolma2.json");
  EXPECT_EQ(json.pre_tokenizer(), "llama3");
  for (const char* book : {"/books/ulysses.txt", "/books/multilingual/zh-shuihuzhuan.txt"}) {
    const std::string text = ReadWholeFile(data + book);
    EXPECT_EQ(ranks.Encode(text), json.Encode(text)) << book;
  }
}

TEST(TokenizerTest, Stories260kInAllItsForms) {
  MNEME_REQUIRE_DATA(data);
  const Tokenizer gguf = LoadTokenizerFile(data + "/models/stories260K/stories260K.gguf");
  const Tokenizer bin = LoadTokenizerFile(data + "/models/stories260K/tok512.bin");
  const Tokenizer model = LoadTokenizerFile(data + "/models/stories260K/tok512.model");
  const Tokenizer folder = LoadTokenizerFile(data + "/models/derived/stories260K-hf");
  const std::string text = ReadWholeFile(data + "/books/frankenstein.txt").substr(0, 100000);
  const auto ids = gguf.Encode(text, {.add_bos = true});
  EXPECT_EQ(ids[0], 1);
  EXPECT_EQ(bin.Encode(text, {.add_bos = true}), ids);
  // The .model alone says that runs of spaces become one.
  std::string single;
  for (char c : text)
    if (c != ' ' || (!single.empty() && single.back() != ' ')) single.push_back(c);
  const auto single_ids = gguf.Encode(single, {.add_bos = true});
  for (const Tokenizer* other : {&bin, &model, &folder}) {
    EXPECT_TRUE(other->adds_bos());
    EXPECT_EQ(other->eos_id(), 2);
    EXPECT_EQ(other->Encode(single, {.add_bos = true}), single_ids);
  }
  EXPECT_NE(model.Encode("a  b"), gguf.Encode("a  b"));
  EXPECT_EQ(model.Encode("  a  b  "), gguf.Encode("a b"));
  EXPECT_EQ(gguf.pad_id(), -1) << "2^32-1 in the file means none";
  const std::string expected = ReadWholeFile(data + "/models/stories260K/expected-greedy-200steps.txt");
  EXPECT_EQ(gguf.Decode(gguf.Encode(expected)), expected);
}

TEST(TokenizerTest, SpecialTokens) {
  MNEME_REQUIRE_DATA(data);
  const Tokenizer phi = LoadTokenizerFile(data + "/tokenizers/llama.cpp-vocab/ggml-vocab-phi-3.gguf");
  const std::string text = "<|user|>\nHi<|end|>";
  const auto parsed = phi.Encode(text, {.parse_special = true});
  ASSERT_GE(parsed.size(), 3u);
  EXPECT_EQ(parsed.front(), phi.FindToken("<|user|>").value());
  EXPECT_EQ(parsed.back(), phi.FindToken("<|end|>").value());
  EXPECT_TRUE(phi.is_eog(parsed.back()));
  EXPECT_TRUE(phi.is_eog(phi.eos_id()));
  EXPECT_FALSE(phi.is_eog(parsed.front()));
  const auto plain = phi.Encode(text);
  for (TokenId id : plain) EXPECT_FALSE(phi.is_special(id));
  EXPECT_EQ(phi.Decode(plain), text);
  EXPECT_EQ(parsed, (std::vector<TokenId>{32010, 6324, 32007}));  // the line end goes with the token before
  const std::string joined = "<|user|>Hi<|end|>";
  EXPECT_EQ(phi.Encode(joined, {.parse_special = true}), parsed);
  EXPECT_NE(phi.chat_template().find("<|user|>"), std::string_view::npos);
}

TEST(TokenizerTest, IdsOutsideTheVocabularyAreErrors) {
  const std::vector<std::string> pieces = {"<unk>", "<s>", "</s>", "a"};
  const std::vector<float> scores = {0, 0, 0, -1};
  const Tokenizer tokenizer = TokenizerFromPieces(pieces, scores);
  for (TokenId id : {-1, 4, 1 << 30}) {
    EXPECT_THROW(tokenizer.Piece(id), Error);
    EXPECT_THROW(tokenizer.Bytes(id), Error);
    EXPECT_THROW(tokenizer.is_special(id), Error);
    EXPECT_THROW(tokenizer.Decode(std::vector<TokenId>{id}), Error);
  }
}

}  // namespace
}  // namespace mneme
