#include "tokenizer/text/unicode.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace mneme {
namespace {

struct CombiningClass {
  uint32_t code;
  uint32_t value;
};
struct Decomposition {
  uint32_t code, first, second;  // second 0: a single character
};
struct Composition {
  uint32_t first, second, code;
};

#include "unicode_tables.inc"

constexpr uint8_t kBoundaryBit = 0x80;

uint8_t TableEntry(uint32_t code) {
  if (code >= 0x110000) return kBoundaryBit;
  return kClassBlocks[size_t{kClassIndex[code >> 7]} * 128 + (code & 127)];
}

uint32_t CombiningClassOf(uint32_t code) {
  if (code < 0x300) return 0;
  const auto* at = std::lower_bound(std::begin(kCombiningClasses), std::end(kCombiningClasses), code,
                                    [](const CombiningClass& c, uint32_t value) { return c.code < value; });
  return at != std::end(kCombiningClasses) && at->code == code ? at->value : 0;
}

constexpr uint32_t kHangulBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTrailBase = 0x11A7;
constexpr uint32_t kNumLeads = 19, kNumVowels = 21, kNumTrails = 28;
constexpr uint32_t kNumHangul = kNumLeads * kNumVowels * kNumTrails;

void Decompose(uint32_t code, std::vector<uint32_t>* out) {
  if (code - kHangulBase < kNumHangul) {
    const uint32_t index = code - kHangulBase;
    out->push_back(kLeadBase + index / (kNumVowels * kNumTrails));
    out->push_back(kVowelBase + index / kNumTrails % kNumVowels);
    if (index % kNumTrails != 0) out->push_back(kTrailBase + index % kNumTrails);
    return;
  }
  const auto* at = code < 0xC0
                       ? std::end(kDecompositions)
                       : std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), code,
                                          [](const Decomposition& d, uint32_t v) { return d.code < v; });
  if (at == std::end(kDecompositions) || at->code != code) {
    out->push_back(code);
    return;
  }
  Decompose(at->first, out);
  if (at->second != 0) Decompose(at->second, out);
}

// 0 if the two do not compose.
uint32_t Compose(uint32_t first, uint32_t second) {
  if (first - kLeadBase < kNumLeads && second - kVowelBase < kNumVowels)
    return kHangulBase + ((first - kLeadBase) * kNumVowels + (second - kVowelBase)) * kNumTrails;
  if (first - kHangulBase < kNumHangul && (first - kHangulBase) % kNumTrails == 0 &&
      second - kTrailBase - 1 < kNumTrails - 1)
    return first + (second - kTrailBase);
  const auto* at =
      std::lower_bound(std::begin(kCompositions), std::end(kCompositions), Composition{first, second, 0},
                       [](const Composition& a, const Composition& b) {
                         return a.first != b.first ? a.first < b.first : a.second < b.second;
                       });
  return at != std::end(kCompositions) && at->first == first && at->second == second ? at->code : 0;
}

// Unicode Standard Annex 15 on one stretch of valid characters.
void NormalizeCodes(std::vector<uint32_t>* codes) {
  for (size_t i = 0; i < codes->size();) {
    if (CombiningClassOf((*codes)[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < codes->size() && CombiningClassOf((*codes)[end]) != 0) ++end;
    std::stable_sort(codes->begin() + static_cast<std::ptrdiff_t>(i),
                     codes->begin() + static_cast<std::ptrdiff_t>(end),
                     [](uint32_t a, uint32_t b) { return CombiningClassOf(a) < CombiningClassOf(b); });
    i = end;
  }
  size_t kept = 0;
  constexpr size_t kNone = ~size_t{0};
  size_t starter = kNone;
  uint32_t last_class = 0;  // of the character before, among those since the starter
  for (uint32_t code : *codes) {
    const uint32_t combining = CombiningClassOf(code);
    const bool adjacent = starter != kNone && starter + 1 == kept;
    if (starter != kNone && (adjacent || (last_class != 0 && last_class < combining))) {
      if (const uint32_t composed = Compose((*codes)[starter], code); composed != 0) {
        (*codes)[starter] = composed;
        continue;
      }
    }
    if (combining == 0) starter = kept;
    last_class = combining;
    (*codes)[kept++] = code;
  }
  codes->resize(kept);
}

}  // namespace

CharClass ClassOf(uint32_t code) { return static_cast<CharClass>(TableEntry(code) & 0x0F); }

bool IsNormalizationBoundary(uint32_t code) { return (TableEntry(code) & kBoundaryBit) != 0; }

void AppendNfc(std::string_view text, std::string* out) {
  std::vector<uint32_t> codes;
  const auto flush = [&] {
    if (codes.empty()) return;
    NormalizeCodes(&codes);
    for (uint32_t code : codes) AppendUtf8(code, out);
    codes.clear();
  };
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text.data() + i, text.size() - i);
    if (!c.valid || IsNormalizationBoundary(c.code)) {
      // A lone boundary character is its own NFC: append it straight unless something combines with it.
      flush();
      const size_t next = i + c.length;
      const bool alone = next >= text.size() || static_cast<uint8_t>(text[next]) < 0x80;
      if (!c.valid || alone) {
        out->append(text.substr(i, c.length));
        i = next;
        continue;
      }
    }
    Decompose(c.code, &codes);
    i += c.length;
  }
  flush();
}

}  // namespace mneme
