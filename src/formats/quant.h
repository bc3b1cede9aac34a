// Scalar codecs of the number encodings: what kernels are compared with, and what converters use.
//
// All functions are pure: any number of threads may call them at once on different outputs. Pointers to
// encoded data need no alignment. num_values must be a multiple of EncodingBlockValues(encoding) (a bug
// otherwise); encoded data is EncodedBytes(encoding, num_values) bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/types.h"

namespace mneme {

// Whether DecodeBlocks knows the encoding: every one except I8, I16, I32 and I64, which occur in files but
// are not weights.
bool CanDecode(Encoding encoding);
// Whether EncodeBlocks knows the encoding: as CanDecode, without F64 and IQ4_XS.
bool CanEncode(Encoding encoding);

// Writes num_values floats. Each is the encoded number correctly rounded to float (for all block encodings
// and F64 at most one rounding; F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q3_K, Q6_K, MXFP4 and the IQ4 are exact).
// Infinities and NaN in the input come out as such. Throws Error(kUnsupported) if !CanDecode(encoding);
// nothing is written then.
void DecodeBlocks(Encoding encoding, const void* blocks, size_t num_values, float* out);

// The same in double, where every encoding is exact: the twin that tests compare with. Written value by value
// from the layout's definition, not from DecodeBlocks. Same errors.
void DecodeBlocksReference(Encoding encoding, const void* blocks, size_t num_values, double* out);

// Writes EncodedBytes(encoding, num_values) bytes. F16 and BF16 round to nearest even. Block encodings search
// scale (and minimum) per block for the least squared error, then round each value to the nearest level.
// The result depends only on the values of each block, so a tensor may be encoded in parts.
// Throws Error(kUnsupported) if !CanEncode(encoding), and Error(kInput), naming the index of the first
// offender, for NaN, infinity, or a magnitude the encoding cannot hold (F16 and all blocks end at 65504);
// `out` holds unspecified bytes then.
void EncodeBlocks(Encoding encoding, const float* values, size_t num_values, void* out);

// Scale and minimum number `index` (0..7) of the 12 packed bytes of a Q4_K or Q5_K block: for index < 4 the
// low six bits of bytes index and index + 4; else the nibbles of byte index + 4, with the top two bits of
// bytes index - 4 and index as bits 4 and 5.
inline void UnpackScaleMin(const uint8_t* packed, int index, uint8_t* scale, uint8_t* minimum) {
  if (index < 4) {
    *scale = packed[index] & 63;
    *minimum = packed[index + 4] & 63;
  } else {
    *scale = static_cast<uint8_t>((packed[index + 4] & 15) | ((packed[index - 4] >> 6) << 4));
    *minimum = static_cast<uint8_t>((packed[index + 4] >> 4) | ((packed[index] >> 6) << 4));
  }
}

}  // namespace mneme
