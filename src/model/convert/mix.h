// Mixes of encodings under the names that people know from llama.cpp's files (Q4_K_M and its like): most
// matrices in one encoding, and those whose rounding costs most with more bits.
//
// The rule, as llama.cpp's quantize has it without an importance matrix:
//   head      the output matrix, or the embedding where it is the head too: Q6_K (Q8_0 for Falcon, and where
//             columns do not fill super-blocks)
//   values    attn_v, and the fused attn_qkv: more bits in the outer eighths of the layers and every third
//             between (_M), in the first ones (_S), or everywhere (Q2_K, Q3_K_L); Q8_0 with eight experts
//   ffn_down  likewise
//   the rest  attn_output has more in Q2_K and Q3_K, attn_k is Q8_0 with eight experts
// Where columns do not fill blocks of 256, the encoding of 32 next above: Q4_0, Q5_0, Q5_1, Q8_0; else F16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace mneme {

struct Mix {
  std::string_view name;  // "q4_k_m"
  Encoding base;
  uint32_t file_type;  // general.file_type
};

// Null for a name that is none of MixNames() in mneme/convert.h. Case does not matter.
const Mix* FindMix(std::string_view name);

// What the rule asks about a model.
struct MixModel {
  std::string family;  // as GGUF names it
  int64_t num_layers = 0;
  int64_t heads_per_kv_head = 1;
  int64_t num_experts = 0;
  bool has_output = false;           // a matrix of its own for the head
  std::vector<int64_t> with_values;  // the layers that have attn_v or attn_qkv, ascending
};

// The encoding of a matrix by its name in GGUF ("blk.3.attn_v.weight"), with its columns. num_matrices: 1, or
// that of the experts in one tensor.
Encoding EncodingInMix(const Mix& mix, const MixModel& model, std::string_view name, size_t num_cols,
                       size_t num_matrices);

}  // namespace mneme
