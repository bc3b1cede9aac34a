// The public words, and the sizes of encodings.
#pragma once

#include <cstddef>

#include "mneme/types.h"

namespace mneme {

// Values in one block: 1 for plain types, 32 for *_0, *_1, MXFP4 and IQ4_NL, 256 for *_K and IQ4_XS. Codecs
// are in formats/quant.h.
size_t EncodingBlockValues(Encoding encoding);
// Bytes of one block.
size_t EncodingBlockBytes(Encoding encoding);
// Bytes of num_values values; num_values must be a multiple of EncodingBlockValues (a bug otherwise).
size_t EncodedBytes(Encoding encoding, size_t num_values);

}  // namespace mneme
