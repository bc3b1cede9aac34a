// Where things lie inside a K/V block. Private to the attention kernels.
//
// A block is one section per KV head; a section is four arrays:
//   keys          [key_dim][kBlockTokens], q4_0: [key_dim / 2][kBlockTokens] bytes, dimensions 2i (low
//                 nibble) and 2i + 1 (high nibble); bf16: [key_dim / 2, rounded up][kBlockTokens] pairs of
//                 dimensions 2i and 2i + 1
//   key scales    [groups of key_dim][kBlockTokens] float16, integer encodings only
//   values        [kBlockTokens][value_dim], q4_0: per token and group of n <= 32 values n / 2 bytes, byte i
//                 holding values i (low) and i + n / 2 (high); bf16: [kBlockTokens / 2][value_dim] pairs of
//                 tokens 2t and 2t + 1, and room to read a vector of 64 bytes anywhere
//   value scales  [groups of value_dim][kBlockTokens] float16
// Where values are in keys the last two are empty.
// Nibbles hold value + 8. Pairs of bfloat16 are what processors multiply: the sum over dimensions, or over
// tokens, takes two steps in one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/types.h"
#include "kernels/attend/attend.h"

namespace mneme {

inline constexpr size_t kKvGroup = 32;  // values that share a scale

inline bool HasScales(Encoding encoding) {
  return encoding == Encoding::kQ8_0 || encoding == Encoding::kQ4_0;
}
inline size_t NumKvGroups(size_t dim) { return (dim + kKvGroup - 1) / kKvGroup; }

// Byte offsets inside the section of one head, and its size. All multiples of 64.
struct KvSection {
  explicit KvSection(const KvLayout& layout);
  size_t keys = 0;
  size_t key_scales = 0;
  size_t values = 0;
  size_t value_scales = 0;
  size_t bytes = 0;
};

// Where values are in keys: the first dimension that is one.
inline size_t FirstValueKey(const KvLayout& layout) { return layout.key_dim - layout.value_dim; }
// Their scales, as they would lie if they were stored apart.
inline size_t ValueKeyScales(const KvLayout& layout, const KvSection& section) {
  return section.key_scales + FirstValueKey(layout) / kKvGroup * kBlockTokens * sizeof(uint16_t);
}

}  // namespace mneme
