// The words that everything shares: token ids, stream positions, number encodings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "mneme/export.h"

namespace mneme {

// Index of a token in the stream plus the position of the first. 64 bits everywhere: a stream has no end.
// Never packed, never truncated.
using Position = int64_t;
using TokenId = int32_t;

// How numbers are stored, in weights and in K/V caches. Block encodings follow the layouts of GGUF.
enum class Encoding : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF64,
  kI8,
  kI16,
  kI32,
  kI64,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kMXFP4,
  kIQ4_NL,
  kIQ4_XS,
};

// "f32", "q8_0", "q4_k": lower case, as options take them. Thread-safe, as the next one.
MNEME_API std::string_view EncodingName(Encoding encoding);
// Case-insensitive inverse of EncodingName; empty for an unknown name.
MNEME_API std::optional<Encoding> ParseEncoding(std::string_view name);

}  // namespace mneme
