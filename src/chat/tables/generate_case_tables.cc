// Writes case_tables.inc from ICU's character data: upper, lower and title case of every character that
// changes, and which characters repr does not show as they are. Runs on the build machine only; the library
// does not link ICU.
#include <unicode/uchar.h>
#include <unicode/ustring.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace {

constexpr UChar32 kNumCodes = 0x110000;
enum class Case { kUpper, kLower, kTitle };

// As UTF-8; empty if it cannot be.
std::string Changed(UChar32 code, Case to) {
  UChar from[2], changed[16];
  int32_t length = 0;
  UErrorCode status = U_ZERO_ERROR;
  UBool failed = false;
  U16_APPEND(from, length, 2, code, failed);
  if (failed) return "";
  int32_t size = to == Case::kLower   ? u_strToLower(changed, 16, from, length, "", &status)
                 : to == Case::kUpper ? u_strToUpper(changed, 16, from, length, "", &status)
                                      : u_strToTitle(changed, 16, from, length, nullptr, "", &status);
  char text[64];
  u_strToUTF8(text, sizeof(text), nullptr, changed, size, &status);
  return U_FAILURE(status) ? "" : text;
}

std::string Literal(const std::string& text) {
  std::string literal;
  char byte[8];
  for (const char c : text) {
    std::snprintf(byte, sizeof(byte), "\\x%02x", static_cast<unsigned char>(c));
    literal += byte;
  }
  return literal;
}

std::string Utf8(UChar32 code) {
  char text[8];
  int32_t length = 0;
  U8_APPEND_UNSAFE(text, length, code);
  return std::string(text, static_cast<size_t>(length));
}

void WriteCase(FILE* out, const char* name, Case to) {
  std::fprintf(out, "constexpr CaseEntry %s[] = {\n", name);
  for (UChar32 code = 0x80; code < kNumCodes; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    const std::string text = Changed(code, to);
    const std::string same = to == Case::kTitle ? Changed(code, Case::kUpper) : Utf8(code);
    if (!text.empty() && text != same)
      std::fprintf(out, "{0x%X, \"%s\"},\n", static_cast<unsigned>(code), Literal(text).c_str());
  }
  std::fprintf(out, "};\n");
}

bool IsPrintable(UChar32 code) {
  switch (u_charType(code)) {
    case U_CONTROL_CHAR:
    case U_FORMAT_CHAR:
    case U_SURROGATE:
    case U_PRIVATE_USE_CHAR:
    case U_UNASSIGNED:
    case U_LINE_SEPARATOR:
    case U_PARAGRAPH_SEPARATOR:
      return false;
    case U_SPACE_SEPARATOR:
      return code == ' ';
    default:
      return true;
  }
}

void WriteNotPrintable(FILE* out) {
  std::fprintf(out, "constexpr CodeRange kNotPrintable[] = {\n");
  for (UChar32 code = 0x7F; code < kNumCodes; ++code) {
    if (IsPrintable(code)) continue;
    const UChar32 first = code;
    while (code + 1 < kNumCodes && !IsPrintable(code + 1)) ++code;
    std::fprintf(out, "{0x%X, 0x%X},\n", static_cast<unsigned>(first), static_cast<unsigned>(code));
  }
  std::fprintf(out, "};\n");
}

}  // namespace

int main(int argc, char** argv) {
  FILE* out = argc == 2 ? std::fopen(argv[1], "w") : nullptr;
  if (out == nullptr) return 1;
  WriteCase(out, "kUpperCase", Case::kUpper);
  WriteCase(out, "kLowerCase", Case::kLower);
  WriteCase(out, "kTitleCase", Case::kTitle);
  WriteNotPrintable(out);
  return std::fclose(out) == 0 ? 0 : 1;
}
