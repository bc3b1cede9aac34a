// The hand-written scanners against a regular expression engine, where one is installed, and against streams.
#include "tokenizer/text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <string>

#include "tokenizer/testing_util.h"
#include "tokenizer/text/unicode.h"

#ifdef MNEME_HAVE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

namespace mneme {
namespace {

[[maybe_unused]] std::vector<std::string> Words(PreTokenizer kind, std::string_view text) {
  std::vector<std::string> words;
  for (size_t at = 0; at < text.size();) {
    bool touched = false;
    const size_t length = NextUnit(kind, text.substr(at), &touched);
    EXPECT_GT(length, 0u);
    if (length == 0) break;
    std::vector<uint32_t> lengths;
    if (SplitsUnits(kind))
      SplitUnit(kind, text.substr(at, length), &lengths);
    else
      lengths.push_back(static_cast<uint32_t>(length));
    for (uint32_t part : lengths) {
      words.emplace_back(text.substr(at, part));
      at += part;
    }
  }
  return words;
}

struct Case {
  const char* name;
  PreTokenizer kind;
  std::vector<std::string> patterns;  // one after the other, each within the pieces of those before
};

const std::vector<Case>& Cases() {
  static const std::string kGpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  static const std::string kTail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  static const std::string kAny = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
  static const std::string kUp = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])", kLow = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
  static const std::string kLead = R"([^\r\n\p{L}\p{N}]?)", kSuffix = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)";
  static const std::string kSlashTail = R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  static const std::string kCjk = R"([\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+)";
  static const std::string kBloom = " ?[^(\\s|.,!?…。，、।۔،)]+";
  static const std::vector<Case> cases = {
      {"gpt2", PreTokenizer::kGpt2, {kGpt2}},
      {"llama3", PreTokenizer::kLlama3, {kAny + R"(\p{N}{1,3})" + kTail}},
      {"qwen2", PreTokenizer::kQwen2, {kAny + R"(\p{N})" + kTail}},
      {"qwen35",
       PreTokenizer::kQwen35,
       {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)"
        R"(\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {"seed_coder",
       PreTokenizer::kSeedCoder,
       {kAny + R"(\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {"ufakzeka", PreTokenizer::kUfakzeka, {R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N})" + kTail}},
      {"laguna", PreTokenizer::kLaguna, {R"([^\n]+|[\n]+)", kAny + R"(\p{N})" + kTail}},
      {"minicpm5", PreTokenizer::kMinicpm5, {R"(\p{N}{1,3})", kAny + R"(\p{N}+)" + kTail}},
      {"bloom", PreTokenizer::kBloom, {kBloom}},
      {"viking", PreTokenizer::kViking, {kBloom, R"(\p{N})"}},
      {"spark",
       PreTokenizer::kSpark,
       {R"(\p{N}{1,3})", R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)",
        R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
        R"( ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+)",
        R"(\p{N})"}},
      {"falcon", PreTokenizer::kFalcon, {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, "[0-9][0-9][0-9]"}},
      {"falcon_digits",
       PreTokenizer::kFalconDigits,
       {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {"default",
       PreTokenizer::kOldDefault,
       {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {"starcoder", PreTokenizer::kStarcoder, {R"(\p{N})", kGpt2}},
      {"deepseek_coder",
       PreTokenizer::kDeepseekCoder,
       {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kCjk, R"(\p{N})"}},
      {"deepseek_llm",
       PreTokenizer::kDeepseekLlm,
       {R"([\r\n])",
        R"(\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af}\x{370}-\x{373}\x{376}-\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}-\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}-\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+)",
        R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)", R"(\s+$)", kCjk, R"(\p{N}+)"}},
      {"deepseek3",
       PreTokenizer::kDeepseek3,
       {R"(\p{N}{1,3})", R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)",
        R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {"gpt4o",
       PreTokenizer::kGpt4o,
       {kLead + kUp + "*" + kLow + "+" + kSuffix + "|" + kLead + kUp + "+" + kLow + "*" + kSuffix +
        R"(|\p{N}{1,3})" + kSlashTail}},
      {"tekken",
       PreTokenizer::kTekken,
       {kLead + kUp + "*" + kLow + "+|" + kLead + kUp + "+" + kLow + "*" + R"(|\p{N})" + kSlashTail}},
  };
  return cases;
}

#ifdef MNEME_HAVE_PCRE2
// Splits each piece at the matches, as a Split with behaviour Isolated does.
std::vector<std::string> SplitByRegex(const std::string& pattern, const std::vector<std::string>& pieces) {
  int error_code = 0;
  PCRE2_SIZE error_offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error_code, &error_offset, nullptr);
  EXPECT_NE(code, nullptr) << pattern << " at " << error_offset;
  pcre2_match_data* match = pcre2_match_data_create_from_pattern(code, nullptr);
  std::vector<std::string> result;
  for (const std::string& piece : pieces) {
    size_t gap = 0, at = 0;
    while (at < piece.size() && pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(piece.data()), piece.size(),
                                            at, 0, match, nullptr) > 0) {
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match);
      if (ends[0] > gap) result.push_back(piece.substr(gap, ends[0] - gap));
      result.push_back(piece.substr(ends[0], ends[1] - ends[0]));
      gap = at = ends[1];
    }
    if (gap < piece.size()) result.push_back(piece.substr(gap));
  }
  pcre2_match_data_free(match);
  pcre2_code_free(code);
  return result;
}
#endif

TEST(PreTokenizerTest, ScannersAreTheRegularExpressions) {
#ifndef MNEME_HAVE_PCRE2
  GTEST_SKIP() << "no PCRE2 when this was built";
#else
  for (const Case& c : Cases()) {
    testing::TestRandom random(11);
    int differences = 0;
    for (int i = 0; i < 150 && differences < 3; ++i) {
      const std::string text = testing::RandomText(&random, 1 + random.Below(25), false);
      std::vector<std::string> expected = {text};
      for (const std::string& pattern : c.patterns) expected = SplitByRegex(pattern, expected);
      const auto words = Words(c.kind, text);
      if (words == expected) continue;
      ++differences;
      ADD_FAILURE() << c.name << ": '" << text << "' gives " << ::testing::PrintToString(words)
                    << " but should give " << ::testing::PrintToString(expected);
    }
  }
#endif
}

// What an untouched answer promises: it holds for every continuation.
TEST(PreTokenizerTest, UntouchedUnitsDoNotDependOnWhatFollows) {
  testing::TestRandom random(5);
  for (const Case& c : Cases()) {
    for (int i = 0; i < 60; ++i) {
      const std::string text = testing::RandomText(&random, 1 + random.Below(8), true);
      bool touched = false;
      const size_t whole = NextUnit(c.kind, text, &touched);
      for (size_t size = 1; size < text.size(); ++size) {
        const std::string_view prefix(text.data(), size);
        if (IncompleteTail(prefix) != 0) continue;
        bool prefix_touched = false;
        const size_t length = NextUnit(c.kind, prefix, &prefix_touched);
        EXPECT_LE(length, size);
        if (!prefix_touched) {
          EXPECT_EQ(length, whole) << c.name << ": '" << text << "' cut at " << size;
        }
      }
    }
  }
}

TEST(PreTokenizerTest, NamesAreKnownOrRefused) {
  EXPECT_EQ(FindPreTokenizer("llama-bpe")->kind, PreTokenizer::kLlama3);
  EXPECT_TRUE(FindPreTokenizer("llama-bpe")->ignore_merges);
  EXPECT_FALSE(FindPreTokenizer("dbrx")->ignore_merges);
  EXPECT_EQ(FindPreTokenizer("qwen2")->kind, PreTokenizer::kQwen2);
  EXPECT_EQ(FindPreTokenizer("qwen35")->kind, PreTokenizer::kQwen35);
  EXPECT_TRUE(FindPreTokenizer("lfm2")->adds_bos);
  EXPECT_TRUE(FindPreTokenizer("glm4")->ignore_merges);
  EXPECT_FALSE(FindPreTokenizer("glm4")->adds_bos);
  EXPECT_FALSE(FindPreTokenizer("no-such-thing").has_value());
  EXPECT_FALSE(FindPreTokenizer("").has_value());
}

}  // namespace
}  // namespace mneme
