#include "tokenizer/text/charsmap.h"

#include <cstring>

#include "base/error.h"

namespace mneme {
namespace {

// No real sequence comes near; bounds what a hostile, cyclic trie makes an encoder hold back.
constexpr size_t kMaxSequenceBytes = 256;

uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
uint32_t Label(uint32_t unit) { return unit & ((1u << 31) | 0xFF); }
bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t Value(uint32_t unit) { return unit & ((1u << 31) - 1); }

uint32_t ReadU32(const char* data) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(data);
  return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
}

}  // namespace

Charsmap::Charsmap(std::string_view blob, std::string_view source_name) {
  if (blob.empty()) return;
  const size_t trie_bytes = blob.size() < 4 ? 0 : ReadU32(blob.data());
  if (blob.size() < 4 || trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > blob.size() - 4)
    Fail(
        ErrorKind::kFile,
        "{}: the character map of the normaliser is damaged ({} bytes, its trie is said to have {}); get the "
        "file again",
        source_name, blob.size(), trie_bytes);
  units_.resize(trie_bytes / 4);
  for (size_t i = 0; i < units_.size(); ++i) units_[i] = ReadU32(blob.data() + 4 + 4 * i);
  replacements_ = blob.substr(4 + trie_bytes);
  replacements_.push_back('\0');
}

std::string Charsmap::Blob() const {
  if (units_.empty()) return "";
  std::string blob;
  const auto put = [&](uint32_t word) {
    for (int shift = 0; shift < 32; shift += 8) blob.push_back(static_cast<char>(word >> shift & 0xFF));
  };
  put(static_cast<uint32_t>(4 * units_.size()));
  for (const uint32_t unit : units_) put(unit);
  return blob + replacements_.substr(0, replacements_.size() - 1);
}

size_t Charsmap::LongestMatch(std::string_view text, std::string_view* replacement, bool* touched) const {
  size_t longest = 0;
  size_t node = Offset(units_[0]);
  for (size_t i = 0; i < kMaxSequenceBytes; ++i) {
    if (i == text.size()) {
      *touched = true;
      break;
    }
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    if (byte == 0) break;
    node ^= byte;
    if (node >= units_.size() || Label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= Offset(unit);
    if (!HasLeaf(unit) || node >= units_.size()) continue;
    const uint32_t at = Value(units_[node]);
    if (at >= replacements_.size()) continue;
    longest = i + 1;
    *replacement = std::string_view(replacements_.c_str() + at);
  }
  return longest;
}

}  // namespace mneme
