// Vocabularies that are wrong: each is an Error or has a defined meaning; none crashes or allocates without
// bound.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "mneme/tokenizer.h"
#include "tokenizer/model.h"
#include "tokenizer/testing_util.h"

namespace mneme {
namespace {

Tokenizer FromJson(std::string_view text) {
  return ParseTokenizerJson({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}
Tokenizer FromRanks(std::string_view text) {
  return ParseTiktoken({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, "gpt2");
}

// The kind of the error, with its text for the log.
template <typename F>
::testing::AssertionResult Refuses(ErrorKind kind, std::string_view part, const F& f) {
  try {
    f();
  } catch (const Error& error) {
    if (error.kind() == kind && std::string_view(error.what()).find(part) != std::string_view::npos)
      return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "kind " << static_cast<int>(error.kind()) << ": " << error.what();
  }
  return ::testing::AssertionFailure() << "no error";
}

std::string Bpe(const std::string& vocabulary, const std::string& merges, const std::string& rest = "") {
  return R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "model": {"type": "BPE", "vocab": )" +
         vocabulary + R"(, "merges": )" + merges + "}" + rest + "}";
}

TEST(HostileJsonTest, DamagedFilesAreErrors) {
  const auto file_error = [](const std::string& json, std::string_view part) {
    return Refuses(ErrorKind::kFile, part, [&] { FromJson(json); });
  };
  EXPECT_TRUE(file_error("", "JSON"));
  EXPECT_TRUE(file_error("[]", "JSON"));
  EXPECT_TRUE(file_error("{\"model\": ", "JSON"));
  EXPECT_TRUE(file_error("{}", "model"));
  EXPECT_TRUE(file_error(Bpe("[]", "[]"), "vocab"));
  EXPECT_TRUE(file_error(Bpe("{}", "[]"), "empty"));
  EXPECT_TRUE(file_error(Bpe(R"({"a": -1})", "[]"), "range"));
  EXPECT_TRUE(file_error(Bpe(R"({"a": 4000000000})", "[]"), "range"));
  EXPECT_TRUE(file_error(Bpe(R"({"a": 1.5})", "[]"), "range"));
  EXPECT_TRUE(file_error(Bpe(R"({"a": 0, "b": 0})", "[]"), "two tokens"));
  EXPECT_TRUE(file_error(Bpe(R"({"a": 0, "b": 1})", R"(["a b"])"), "merge 0"));
  EXPECT_TRUE(file_error(Bpe(R"({"a": 0})", R"(["a"])"), "merge"));
  EXPECT_TRUE(file_error(Bpe(R"({"a": 0})", R"([1])"), "merge"));
  EXPECT_TRUE(
      file_error(Bpe(R"({"a": 0})", "[]", R"(, "added_tokens": [{"id": 99999999, "content": "x"}])"), "far"));
  EXPECT_TRUE(
      file_error(Bpe(R"({"a": 0})", "[]", R"(, "added_tokens": [{"id": -5, "content": "x"}])"), "far"));
  EXPECT_TRUE(file_error(Bpe(R"({"a": 0})", "[]", R"(, "added_tokens": [{"content": "x"}])"), "id"));
  EXPECT_TRUE(file_error(std::string(100000, '['), "JSON"));
}

TEST(HostileJsonTest, WhatIsNotKnownIsQuoted) {
  const auto refused = [](const std::string& json, std::string_view part) {
    return Refuses(ErrorKind::kUnsupported, part, [&] { FromJson(json); });
  };
  const std::string model = R"("model": {"type": "BPE", "vocab": {"a": 0}, "merges": []})";
  const auto with_pre = [&](const std::string& pre) {
    return "{\"pre_tokenizer\": " + pre + ", " + model + "}";
  };
  const auto with_normalizer = [&](const std::string& normalizer) {
    return R"({"pre_tokenizer": {"type": "ByteLevel"}, "normalizer": )" + normalizer + ", " + model + "}";
  };
  EXPECT_TRUE(
      refused(with_pre(R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex":
      "my own [regex]+"}, "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "use_regex": false}]})"),
              "my own [regex]+"));
  EXPECT_TRUE(refused(with_pre(R"({"type": "BertPreTokenizer"})"), "BertPreTokenizer"));
  EXPECT_TRUE(refused(with_pre("null"), "pre-tokenizer"));
  EXPECT_TRUE(refused(with_normalizer(R"({"type": "Lowercase"})"), "Lowercase"));
  EXPECT_TRUE(refused(R"({"model": {"type": "WordPiece", "vocab": {}}})", "WordPiece"));
  EXPECT_TRUE(
      refused(Bpe(R"({"a": 0})", "[]", R"(, "added_tokens": [{"id": 1, "content": "x", "lstrip": true}])"),
              "lstrip"));
}

TEST(HostileJsonTest, CyclicAndDuplicateMergesHaveAMeaning) {
  // Merges that only ever lengthen cannot cycle; the earlier of two equal ones counts.
  const Tokenizer tokenizer =
      FromJson(Bpe(R"({"a": 0, "aa": 1, "aaaa": 2, "b": 3})", R"(["a a", "aa aa", "a a", "aa aa"])"));
  EXPECT_EQ(tokenizer.Encode("aaaaaa"), (std::vector<TokenId>{2, 1}));
  // Bytes without a token are left out where there is no unknown token.
  EXPECT_EQ(tokenizer.Encode("aba c"), (std::vector<TokenId>{0, 3, 0}));
}

TEST(HostileJsonTest, ChangedBytesNeverCrash) {
  const std::string json = Bpe(R"({"a": 0, "aa": 1, "\u0120": 2, "\u0120a": 3})", R"(["a a", "\u0120 a"])",
                               R"(, "added_tokens": [{"id": 4, "content": "<s>", "special": true}])");
  FromJson(json).Encode("a aa a");
  testing::TestRandom random(9);
  for (int i = 0; i < 3000; ++i) {
    std::string changed = json;
    for (int n = 0; n < 2; ++n)
      changed[random.Below(static_cast<uint32_t>(json.size()))] = static_cast<char>(32 + random.Below(95));
    try {
      FromJson(changed).Encode("a aa <s> a\xFF", {.parse_special = true});
    } catch (const Error&) {
    }
  }
}

TEST(JsonTest, LlamaStyle) {
  const std::string vocabulary =
      R"("vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "▁": 3, "a": 4, "▁a": 5, "b": 6}, "merges": ["▁ a"])";
  const std::string added = R"("added_tokens": [{"id": 1, "content": "<s>", "special": true}])";
  const Tokenizer legacy =
      FromJson(R"({"normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
      "pre_tokenizer": null, )" +
               added + R"(, "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", )" +
               vocabulary + "}}");
  EXPECT_EQ(legacy.Encode("a ab\n"), (std::vector<TokenId>{5, 5, 6, 2}));
  EXPECT_EQ(legacy.Encode("<s>a", {.parse_special = true}), (std::vector<TokenId>{1, 5}));
  EXPECT_EQ(legacy.Encode("z"), (std::vector<TokenId>{3, 0}));
  EXPECT_EQ(legacy.Decode(legacy.Encode("a ab\n")), "a ab\n");
  const Tokenizer metaspace = FromJson(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
      "prepend_scheme": "first", "split": false}, )" +
                                       added + R"(, "model": {"type": "BPE", "byte_fallback": true,
      "unk_token": "<unk>", )" + vocabulary +
                                       "}}");
  EXPECT_EQ(metaspace.Encode("a"), (std::vector<TokenId>{5}));
  EXPECT_EQ(metaspace.Encode(" a"), (std::vector<TokenId>{5}));
  EXPECT_EQ(metaspace.Encode("<s>a", {.parse_special = true}), (std::vector<TokenId>{1, 4}));
}

TEST(JsonTest, ConfigNamesSpecialsAndTemplate) {
  const std::string json =
      Bpe(R"({"a": 0, "b": 1})", "[]", R"(, "added_tokens": [{"id": 2, "content": "<E>", "special": true}])");
  const Tokenizer tokenizer =
      ParseTokenizerJson({reinterpret_cast<const uint8_t*>(json.data()), json.size()},
                         R"({"bos_token": {"content": "<E>"}, "eos_token": "<E>", "add_bos_token": true,
                             "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]})");
  EXPECT_EQ(tokenizer.bos_id(), 2);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.chat_template(), "D");
  EXPECT_EQ(tokenizer.Encode("ab", {.add_bos = true, .add_eos = true}), (std::vector<TokenId>{2, 0, 1, 2}));
  EXPECT_THROW(ParseTokenizerJson({reinterpret_cast<const uint8_t*>(json.data()), json.size()}, "nonsense"),
               Error);
}

TEST(HostileRanksTest, DamagedLinesAreErrors) {
  EXPECT_EQ(FromRanks("YQ== 0\nYg== 1\nYWI= 2\n").Encode("abab"), (std::vector<TokenId>{2, 2}));
  for (const char* bad : {"YQ==", "YQ== x", "?? 0", "YQ== 5\nYg== 5", "YQ== 0\nYg== 99999999", " 0",
                          "YQ== ", "YQ== 99999999999999999999"})
    EXPECT_TRUE(Refuses(ErrorKind::kFile, "line", [&] { FromRanks(bad); })) << bad;
  EXPECT_TRUE(Refuses(ErrorKind::kFile, "empty", [&] { FromRanks(""); }));
  EXPECT_THROW(ParseTiktoken({}, "unheard-of"), Error);
}

TEST(HostileVocabularyTest, PiecesAndScores) {
  const auto make = [](std::vector<std::string> pieces, std::vector<float> scores) {
    return TokenizerFromPieces(pieces, scores);
  };
  EXPECT_THROW(make({}, {}), Error);
  EXPECT_THROW(make({"a"}, {}), Error);
  EXPECT_THROW(make({"a", "b", "c", "d"}, {0, 0, 0, std::nanf("")}), Error);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(
      make({"", "", "", "a", "aa", "aa", "", " "}, {0, 0, 0, -infinity, infinity, 1, 0, 0}).Encode("aaa"),
      (std::vector<TokenId>{7, 4, 3}));
  // One token alone, and pieces that are no UTF-8.
  EXPECT_NO_THROW(make({"x"}, {0}).Encode("hello"));
  EXPECT_NO_THROW(make({"", "", "", "\xFF", "\xE2\x96"}, {0, 0, 0, 0, 0}).Encode("h\xFF\xE2\x96"));
}

TEST(HostileVocabularyTest, IdsOutOfRangeAreErrors) {
  for (TokenId bad : {2, 1 << 30, -2}) {
    VocabularySpec spec;
    spec.tokens.resize(2);
    spec.eos_id = bad;
    EXPECT_THROW(BuildModel(spec), Error) << bad;
    spec.eos_id = -1;
    spec.more_eog_ids = {bad};
    EXPECT_THROW(BuildModel(spec), Error) << bad;
  }
}

TEST(HostileVocabularyTest, CharacterMapsMayNotReachOutside) {
  VocabularySpec spec;
  spec.algorithm = Algorithm::kUnigram;
  spec.tokens.push_back({"a", -1});
  for (const std::string& blob :
       {std::string("abc"), std::string("\x08\0\0\0abcd", 8), std::string("\xFF\xFF\xFF\xFF", 4)}) {
    spec.charsmap = blob;
    EXPECT_THROW(BuildModel(spec), Error);
  }
  testing::TestRandom random(8);
  for (int i = 0; i < 500; ++i) {
    spec.charsmap = std::string("\x80\0\0\0", 4);
    for (int n = 0; n < 140; ++n)
      spec.charsmap.push_back(static_cast<char>(random.Below(random.Below(2) ? 256 : 4)));
    Tokenizer(BuildModel(spec)).Encode(testing::RandomText(&random, 20, true));
  }
}

}  // namespace
}  // namespace mneme
