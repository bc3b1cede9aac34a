// The words that every layer shares: token ids, stream positions, number encodings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace mneme {

// Index of a token in the stream, from 0. 64 bits everywhere: a stream has no end. Never packed, never
// truncated.
using Position = int64_t;
using TokenId = int32_t;

// How numbers are stored, in weights and in K/V caches. Block encodings follow the layouts of GGUF; their
// codecs are in formats/quant.h.
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
};

// "f32", "q8_0", "q4_k": lower case, as the command line takes them.
std::string_view EncodingName(Encoding encoding);
// Case-insensitive inverse of EncodingName; empty for an unknown name.
std::optional<Encoding> ParseEncoding(std::string_view name);
// Values in one block: 1 for plain types, 32 for *_0 and *_1, 256 for *_K.
size_t EncodingBlockValues(Encoding encoding);
// Bytes of one block.
size_t EncodingBlockBytes(Encoding encoding);
// Bytes of num_values values; num_values must be a multiple of EncodingBlockValues (a bug otherwise).
size_t EncodedBytes(Encoding encoding, size_t num_values);

}  // namespace mneme
