// Our SentencePiece against the reference library, where it is installed, over books and hostile texts.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/files/file.h"
#include "base/testing.h"
#include "mneme/tokenizer.h"
#include "tokenizer/model.h"
#include "tokenizer/testing_util.h"

#ifdef MNEME_HAVE_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

namespace mneme {
namespace {

const char* const kModels[] = {
    "/tokenizers/sentencepiece/test_model.model",
    "/tokenizers/sentencepiece/test_ja_model.model",
    "/tokenizers/mistral/tokenizer.model.v1",
    "/tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3",
    "/models/babyllama-tok105/tok105.model",
    "/models/stories260K/tok512.model",
    "/models/hf-tiny-llama-random/tokenizer.model",
};

// Two unigram splits of equal score, as "..." + "." and "." + "..." are: the reference then goes by how its
// float sum over all the text before happened to round.
[[maybe_unused]] bool IsTie(const Tokenizer& tokenizer, const std::vector<TokenId>& a,
                            const std::vector<int>& b) {
  if (tokenizer.kind() != "sentencepiece unigram") return false;
  const auto total = [&](const auto& ids) {
    double sum = 0;
    for (TokenId id : ids) sum += tokenizer.model().scores[static_cast<size_t>(id)];
    return sum;
  };
  return tokenizer.Decode(a) == tokenizer.Decode(std::vector<TokenId>(b.begin(), b.end())) &&
         std::abs(total(a) - total(b)) < 1e-4 * std::abs(total(b));
}

class SentencePieceTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, SentencePieceTest, ::testing::ValuesIn(kModels));

TEST_P(SentencePieceTest, SameIdsAndTextAsTheReference) {
#ifndef MNEME_HAVE_SENTENCEPIECE
  GTEST_SKIP() << "the reference library was not found when this was built";
#else
  MNEME_REQUIRE_DATA(data);
  const std::string path = data + GetParam();
  const Tokenizer ours = LoadTokenizerFile(path);
  sentencepiece::SentencePieceProcessor reference;
  ASSERT_TRUE(reference.Load(path).ok());
  ASSERT_EQ(ours.vocab_size(), reference.GetPieceSize());
  EXPECT_EQ(ours.bos_id(), reference.bos_id());
  EXPECT_EQ(ours.eos_id(), reference.eos_id());
  EXPECT_EQ(ours.unk_id(), reference.unk_id());

  std::vector<std::string> texts = {"",
                                    " ",
                                    "   ",
                                    "a",
                                    " a",
                                    "a ",
                                    "  a  b  ",
                                    "Hello world",
                                    "\n",
                                    "a\n\n b",
                                    "\xE2\x96\x81",
                                    "\xE2\x96\x81\xE2\x96\x81 x \xE2\x96\x81",
                                    "\xFF\xFE",
                                    "caf\xC3",
                                    std::string("a\0b", 3),
                                    "<s></s><unk>",
                                    "<0x41>",
                                    "🙂🙂 ＡＢＣ ﬁ ①",
                                    "吾輩は猫である。名前はまだ無い。",
                                    "\u3000全角　スペース",
                                    "e\u0301 \u1112\u1161\u11ab"};
  testing::TestRandom random(7);
  for (int i = 0; i < 300; ++i)
    texts.push_back(testing::RandomText(&random, 1 + random.Below(40), i % 3 == 0));
  for (const char* book : {"/books/frankenstein.txt", "/books/multilingual/zh-shuihuzhuan.txt",
                           "/corpora/wagahaiwa_nekodearu.txt"}) {
    // By lines: over a whole book the reference's own float sums lose their last digits.
    const std::string text = ReadWholeFile(data + book).substr(0, 120000);
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
      texts.push_back(text.substr(at, end - at));
      at = end;
    }
  }
  size_t differences = 0;
  for (const std::string& text : texts) {
    std::vector<int> expected;
    reference.Encode(text, &expected);
    const std::vector<TokenId> ids = ours.Encode(text);
    if (ids != std::vector<TokenId>(expected.begin(), expected.end()) && !IsTie(ours, ids, expected)) {
      if (++differences <= 3)
        ADD_FAILURE() << "'" << text << "': " << ::testing::PrintToString(ids) << " should be "
                      << ::testing::PrintToString(expected);
      continue;
    }
    std::string expected_text;
    reference.Decode(expected, &expected_text);
    if (ours.Decode(ids) != expected_text && ++differences <= 3)
      ADD_FAILURE() << "'" << text << "' decodes to '" << ours.Decode(ids) << "', not '" << expected_text
                    << "'";
  }
  EXPECT_EQ(differences, 0u) << "of " << texts.size();
#endif
}

TEST(SentencePieceFileTest, TruncatedAndChangedFilesAreErrorsOrDefined) {
  MNEME_REQUIRE_DATA(data);
  const std::string file = ReadWholeFile(data + "/models/stories260K/tok512.model");
  const auto parse = [](const std::string& bytes) {
    return ParseSentencePieceModel({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  };
  size_t errors = 0;
  for (size_t size = 0; size < file.size(); size += 61) {
    try {
      parse(file.substr(0, size)).Encode("once upon a time");
    } catch (const Error&) {
      ++errors;
    }
  }
  EXPECT_GT(errors, 50u);
  testing::TestRandom random(3);
  for (int i = 0; i < 300; ++i) {
    std::string bytes = file;
    for (int n = 0; n < 4; ++n)
      bytes[random.Below(static_cast<uint32_t>(bytes.size()))] = static_cast<char>(random.Below(256));
    try {
      parse(bytes).Encode("once upon a time \xFF");
    } catch (const Error&) {
    }
  }
  EXPECT_THROW(parse(""), Error);
  EXPECT_THROW(parse("not a model"), Error);
}

}  // namespace
}  // namespace mneme
