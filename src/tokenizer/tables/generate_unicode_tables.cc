// Writes unicode_tables.inc from ICU's character data: classes for the pre-tokenizers and what NFC needs.
// Runs on the build machine only; the library does not link ICU.
#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/ustring.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <vector>

namespace {

constexpr uint32_t kNumCodes = 0x110000;
constexpr uint32_t kBlock = 128;

// The order of CharClass in unicode.h.
uint8_t ClassOf(UChar32 code) {
  if (u_hasBinaryProperty(code, UCHAR_WHITE_SPACE)) return 1;
  switch (u_charType(code)) {
    case U_UPPERCASE_LETTER:
    case U_TITLECASE_LETTER:
      return 2;
    case U_LOWERCASE_LETTER:
      return 3;
    case U_MODIFIER_LETTER:
    case U_OTHER_LETTER:
      return 4;
    case U_NON_SPACING_MARK:
    case U_ENCLOSING_MARK:
    case U_COMBINING_SPACING_MARK:
      return 5;
    case U_DECIMAL_DIGIT_NUMBER:
    case U_LETTER_NUMBER:
    case U_OTHER_NUMBER:
      return 6;
    case U_DASH_PUNCTUATION:
    case U_START_PUNCTUATION:
    case U_END_PUNCTUATION:
    case U_CONNECTOR_PUNCTUATION:
    case U_OTHER_PUNCTUATION:
    case U_INITIAL_PUNCTUATION:
    case U_FINAL_PUNCTUATION:
      return 7;
    case U_MATH_SYMBOL:
    case U_CURRENCY_SYMBOL:
    case U_MODIFIER_SYMBOL:
    case U_OTHER_SYMBOL:
      return 8;
    default:
      return 0;
  }
}

// Low bits: class; kStarterBoundary (0x80): combining class 0 and never composing with what precedes, so that
// normalisation may be cut before it.
uint8_t Entry(UChar32 code) {
  const bool boundary =
      u_getCombiningClass(code) == 0 && u_getIntPropertyValue(code, UCHAR_NFC_QUICK_CHECK) == UNORM_YES;
  return ClassOf(code) | (boundary ? 0x80 : 0);
}

void WriteClasses(std::FILE* out) {
  std::map<std::vector<uint8_t>, uint32_t> blocks;
  std::vector<const std::vector<uint8_t>*> in_order;
  std::vector<uint32_t> index;
  for (uint32_t start = 0; start < kNumCodes; start += kBlock) {
    std::vector<uint8_t> block;
    for (uint32_t i = 0; i < kBlock; ++i) block.push_back(Entry(static_cast<UChar32>(start + i)));
    auto [at, added] = blocks.emplace(block, static_cast<uint32_t>(blocks.size()));
    if (added) in_order.push_back(&at->first);
    index.push_back(at->second);
  }
  std::fprintf(out, "const uint16_t kClassIndex[%zu] = {", index.size());
  for (uint32_t value : index) std::fprintf(out, "%u,", value);
  std::fprintf(out, "};\nconst uint8_t kClassBlocks[%zu] = {", in_order.size() * kBlock);
  for (const auto* block : in_order)
    for (uint8_t value : *block) std::fprintf(out, "%u,", value);
  std::fprintf(out, "};\n");
}

bool WriteNormalization(std::FILE* out) {
  UErrorCode status = U_ZERO_ERROR;
  const UNormalizer2* nfc = unorm2_getNFCInstance(&status);
  if (U_FAILURE(status)) return false;
  std::fprintf(out, "const CombiningClass kCombiningClasses[] = {");
  for (UChar32 code = 0; code < static_cast<UChar32>(kNumCodes); ++code) {
    const int combining = u_getCombiningClass(code);
    if (combining != 0) std::fprintf(out, "{%d,%d},", code, combining);
  }
  std::fprintf(out, "};\n");
  std::vector<std::pair<std::pair<UChar32, UChar32>, UChar32>> pairs;
  std::fprintf(out, "const Decomposition kDecompositions[] = {");
  for (UChar32 code = 0; code < static_cast<UChar32>(kNumCodes); ++code) {
    if (code >= 0xAC00 && code <= 0xD7A3) continue;  // Hangul is arithmetic
    UChar raw[8];
    const int32_t length = unorm2_getRawDecomposition(nfc, code, raw, 8, &status);
    if (length < 0) continue;
    UChar32 parts[2] = {0, 0};
    int32_t offset = 0, count = 0;
    while (offset < length && count < 2) {
      UChar32 part;
      U16_NEXT(raw, offset, length, part);
      parts[count++] = part;
    }
    if (offset != length || U_FAILURE(status)) return false;
    std::fprintf(out, "{%d,%d,%d},", code, parts[0], parts[1]);
    if (count == 2 && unorm2_composePair(nfc, parts[0], parts[1]) == code)
      pairs.push_back({{parts[0], parts[1]}, code});
  }
  std::map<std::pair<UChar32, UChar32>, UChar32> sorted(pairs.begin(), pairs.end());
  std::fprintf(out, "};\nconst Composition kCompositions[] = {");
  for (const auto& [pair, code] : sorted) std::fprintf(out, "{%d,%d,%d},", pair.first, pair.second, code);
  std::fprintf(out, "};\n");
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s OUTPUT\n", argv[0]), 1;
  std::FILE* out = std::fopen(argv[1], "w");
  if (out == nullptr) return std::perror(argv[1]), 1;
  std::fprintf(out, "// Made by tables/generate_unicode_tables.cc from ICU, Unicode %s.\n",
               U_UNICODE_VERSION);
  WriteClasses(out);
  const bool good = WriteNormalization(out);
  return std::fclose(out) == 0 && good ? 0 : 1;
}
