#include "base/text/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace mneme {
namespace {

TEST(Printable, ShowsWhatWouldActOnATerminal) {
  EXPECT_EQ(Printable("Llama 3 – größer, 文字 🙂"), "Llama 3 – größer, 文字 🙂");
  EXPECT_EQ(Printable("a\x1b[31mb\x07\r\n\tc"), "a\\x1b[31mb\\x07\\x0d\\n\\x09c");
  EXPECT_EQ(Printable(std::string("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(Printable("\xC2\x9B"), "\\x9b") << "the one-character form of ESC [";
  EXPECT_EQ(Printable("x\u202Egpj.exe\u2066\u200Bz"), "x\\u{202e}gpj.exe\\u{2066}\\u{200b}z");
  EXPECT_EQ(Printable("a\xFF\xED\xA0\x80z"), "a\\xff\\xed\\xa0\\x80z");
  EXPECT_EQ(Printable("क्‍ष"), "क्‍ष") << "joiners that letters need stay";
}

TEST(Printable, CutsAtACharacter) {
  EXPECT_EQ(Printable("aé", 2), "a...");
  EXPECT_EQ(Printable("aé", 3), "aé");
  EXPECT_EQ(Printable(std::string(5000, 'x')).size(), 1003u);
}

TEST(Printable, LinesStayLines) {
  EXPECT_EQ(PrintableLines("a\n\tb\x1b"), "a\n\tb\\x1b");
  EXPECT_EQ(PrintableLines(std::string(5000, 'x')).size(), 5000u);
}

}  // namespace
}  // namespace mneme
