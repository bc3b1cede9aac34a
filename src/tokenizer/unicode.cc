#include "tokenizer/unicode.h"

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

// Bytes that a lead byte asks for, and the range of the second byte; 0 if it is no lead byte.
uint32_t SequenceLength(uint8_t lead, uint8_t* low, uint8_t* high) {
  *low = 0x80;
  *high = 0xBF;
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) {
    if (lead == 0xE0) *low = 0xA0;
    if (lead == 0xED) *high = 0x9F;
    return 3;
  }
  if (lead > 0xF4) return 0;
  if (lead == 0xF0) *low = 0x90;
  if (lead == 0xF4) *high = 0x8F;
  return 4;
}

// How many of the bytes agree with one well-formed sequence; *wanted its whole length (0: none).
uint32_t GoodPrefix(const char* data, size_t available, uint32_t* wanted) {
  uint8_t low, high;
  *wanted = SequenceLength(static_cast<uint8_t>(data[0]), &low, &high);
  uint32_t good = 1;
  while (good < *wanted && good < available) {
    const uint8_t byte = static_cast<uint8_t>(data[good]);
    if (byte < low || byte > high) break;
    low = 0x80;
    high = 0xBF;
    ++good;
  }
  return good;
}

}  // namespace

CharClass ClassOf(uint32_t code) { return static_cast<CharClass>(TableEntry(code) & 0x0F); }

bool IsNormalizationBoundary(uint32_t code) { return (TableEntry(code) & kBoundaryBit) != 0; }

Utf8Char DecodeUtf8(const char* data, size_t available) {
  const uint8_t lead = static_cast<uint8_t>(data[0]);
  if (lead < 0x80) return {lead, 1, true};
  uint32_t wanted;
  const uint32_t good = GoodPrefix(data, available, &wanted);
  if (wanted == 0 || good < wanted) return {0xFFFD, 1, false};
  uint32_t code = lead & (0x7Fu >> wanted);
  for (uint32_t i = 1; i < wanted; ++i) code = code << 6 | (static_cast<uint8_t>(data[i]) & 0x3F);
  return {code, wanted, true};
}

size_t IncompleteTail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const char* start = text.data() + text.size() - back;
    const uint8_t byte = static_cast<uint8_t>(*start);
    if (byte < 0x80) return 0;
    if (byte < 0xC0) continue;
    uint32_t wanted;
    const uint32_t good = GoodPrefix(start, back, &wanted);
    return wanted > back && good == back ? back : 0;
  }
  return 0;
}

size_t InvalidPartLength(const char* data, size_t available) {
  uint32_t wanted;
  return GoodPrefix(data, available, &wanted);
}

void AppendUtf8(uint32_t code, std::string* out) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xC0 | code >> 6));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | code >> 12));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | code >> 18));
    out->push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

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
