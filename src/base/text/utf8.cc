#include "base/text/utf8.h"

#include <fmt/core.h>

namespace mneme {
namespace {

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

// Characters that act on what stands around them and show nothing themselves.
bool IsHidden(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) ||        // controls
         code == 0x061C || code == 0x200E || code == 0x200F ||  // marks of direction
         (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069) || code == 0x200B ||
         code == 0x2060 || code == 0xFEFF ||  // without width
         code == 0x2028 || code == 0x2029 ||  // ends of lines and paragraphs
         (code >= 0xFFF9 && code <= 0xFFFB) || (code >= 0xE0000 && code <= 0xE007F);
}

void AppendEscape(uint32_t code, std::string* out) {
  if (code == '\n') {
    *out += "\\n";
  } else {
    *out += code < 0x100 ? fmt::format("\\x{:02x}", code) : fmt::format("\\u{{{:x}}}", code);
  }
}

std::string Cleaned(std::string_view text, bool keeps_lines) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text.data() + at, text.size() - at);
    if (!c.valid) {
      AppendEscape(static_cast<uint8_t>(text[at]), &out);
    } else if (IsHidden(c.code) && !(keeps_lines && (c.code == '\n' || c.code == '\t'))) {
      AppendEscape(c.code, &out);
    } else {
      out.append(text.substr(at, c.length));
    }
    at += c.length;
  }
  return out;
}

}  // namespace

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

std::string Printable(std::string_view text, size_t most_bytes) {
  if (text.size() <= most_bytes) return Cleaned(text, false);
  std::string_view kept = text.substr(0, most_bytes);
  kept.remove_suffix(IncompleteTail(kept));
  return Cleaned(kept, false) + "...";
}

std::string PrintableLines(std::string_view text) { return Cleaned(text, true); }

}  // namespace mneme
