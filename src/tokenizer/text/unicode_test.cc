#include "tokenizer/text/unicode.h"

#include <gtest/gtest.h>

namespace mneme {
namespace {

std::string Nfc(std::string_view text) {
  std::string out;
  AppendNfc(text, &out);
  return out;
}

TEST(UnicodeTest, Classes) {
  EXPECT_EQ(ClassOf('a'), CharClass::kLower);
  EXPECT_EQ(ClassOf(0x1C5), CharClass::kUpper);  // Lt
  EXPECT_EQ(ClassOf(0x4E2D), CharClass::kOtherLetter);
  EXPECT_EQ(ClassOf(0x301), CharClass::kMark);
  EXPECT_EQ(ClassOf(0xBD), CharClass::kNumber);
  EXPECT_EQ(ClassOf(0x3002), CharClass::kPunctuation);
  EXPECT_EQ(ClassOf('$'), CharClass::kSymbol);
  EXPECT_EQ(ClassOf(0x1F600), CharClass::kSymbol);
  EXPECT_EQ(ClassOf(0x10FFFF), CharClass::kOther);
  EXPECT_EQ(ClassOf(0x110000), CharClass::kOther);
  for (uint32_t space : {0x9u, 0xAu, 0xDu, 0x20u, 0x85u, 0xA0u, 0x1680u, 0x2028u, 0x202Fu, 0x3000u})
    EXPECT_EQ(ClassOf(space), CharClass::kSpace) << space;
  for (uint32_t none : {0x1Cu, 0x180Eu, 0x200Bu, 0xFEFFu})
    EXPECT_NE(ClassOf(none), CharClass::kSpace) << none;
}

TEST(UnicodeTest, DecodesOnlyWellFormedSequences) {
  for (uint32_t code : {0u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xD7FFu, 0xE000u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    AppendUtf8(code, &text);
    const Utf8Char c = DecodeUtf8(text.data(), text.size());
    EXPECT_TRUE(c.valid);
    EXPECT_EQ(c.code, code);
    EXPECT_EQ(c.length, text.size());
    for (size_t size = 1; size < text.size(); ++size) EXPECT_EQ(IncompleteTail(text.substr(0, size)), size);
    EXPECT_EQ(IncompleteTail(text), 0u);
  }
  for (std::string_view bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3(", "\xE4\xB8x"}) {
    EXPECT_FALSE(DecodeUtf8(bad.data(), bad.size()).valid) << bad;
    EXPECT_EQ(DecodeUtf8(bad.data(), bad.size()).length, 1u);
  }
  EXPECT_EQ(IncompleteTail("\xED\xA0"), 0u) << "a surrogate can never become whole";
  EXPECT_EQ(IncompleteTail("a\xF0\x9F\x98"), 3u);
}

TEST(UnicodeTest, Nfc) {
  EXPECT_EQ(Nfc("plain"), "plain");
  EXPECT_EQ(Nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(Nfc("\u212B"), "\u00C5");               // singleton
  EXPECT_EQ(Nfc("a\u0328\u0301"), "\u0105\u0301");  // one composes, the other stays
  EXPECT_EQ(Nfc("a\u0301\u0328"), "\u0105\u0301");  // order of classes
  EXPECT_EQ(Nfc("q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(Nfc("\u1E0A\u0323"), "\u1E0C\u0307");  // from UAX 15
  EXPECT_EQ(Nfc("\u1112\u1161\u11AB"), "\uD55C");  // Hangul
  EXPECT_EQ(Nfc("\uD558\u11AB"), "\uD55C");
  EXPECT_EQ(Nfc("\u0958"), "\u0915\u093C");      // excluded from composition
  EXPECT_EQ(Nfc("\uFB01"), "\uFB01");            // compatibility forms stay
  EXPECT_EQ(Nfc("e\xFF\u0301"), "e\xFF\u0301");  // bad bytes stand between
  EXPECT_EQ(Nfc("中文 и\u0306"), "中文 й");
}

}  // namespace
}  // namespace mneme
