// The architecture of a model as data. A family is one row of a table that turns file metadata into this; the
// forward pass knows no family (docs/architecture.md, "Architecture is data").
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "context/context.h"
#include "kernels/attend/rope.h"
#include "kernels/pointwise/elementwise.h"

namespace mneme {

// How position enters.
enum class PositionKind : uint8_t { kRope, kAlibi, kLearned };

// Shape of the residual block.
enum class BlockKind : uint8_t {
  kSequential,    // x += attn(norm(x)); x += ffn(norm(x))
  kParallel,      // x += attn(norm1(x)) + ffn(norm2(x)), norm2 may be norm1 (gptneox, gptj, falcon)
  kPostNormOnly,  // x += norm(attn(x)); x += norm(ffn(x)) (olmo2)
};

// Tokens that a model was trained to act with; -1: it was not.
struct ActionTokens {
  TokenId pause = -1;      // time to compute before an answer (arXiv 2310.02226)
  TokenId backspace = -1;  // takes the last token back (arXiv 2306.05426)
  TokenId sink = -1;       // stands first in every stream (arXiv 2309.17453, section 3.3)
};

struct ModelConfig {
  std::string family;  // "llama", "qwen2", ...
  std::string name;    // from the file, for people
  size_t num_layers = 0;
  size_t model_dim = 0;
  size_t vocab_size = 0;
  int64_t trained_length = 0;

  size_t num_heads = 0;
  std::vector<size_t> num_kv_heads;  // [num_layers]
  size_t key_dim = 0;                // per head
  size_t value_dim = 0;
  std::vector<size_t> ffn_dim;  // [num_layers]

  NormKind norm = NormKind::kRms;
  float norm_epsilon = 1e-5f;
  BlockKind block = BlockKind::kSequential;
  bool post_norms = false;  // a norm after attention and after ffn, before the residual sum, besides the
                            // pre-norms (gemma2, gemma3)
  bool qk_norm_per_head = false;  // RMS norm of each head of q and k (qwen3, gemma3; stablelm by LayerNorm)
  bool qk_norm_whole = false;     // RMS norm over all heads together (olmo2)
  Activation activation = Activation::kSilu;
  // GELU as the engines that GGUF files are made for compute it: argument and result rounded to half
  // precision (a table of 65536 entries), 0 below -10, the argument itself above 10.
  bool half_gelu = false;
  bool gated_ffn = true;
  float embedding_scale = 1.0f;     // gemma: sqrt(model_dim)
  float attention_scale = 0.0f;     // multiplies q.k
  float attention_soft_cap = 0.0f;  // 0: none
  float final_soft_cap = 0.0f;      // 0: none
  float clamp_qkv = 0.0f;           // 0: none (mpt)

  PositionKind position = PositionKind::kRope;
  std::vector<Rope> ropes;            // distinct ones
  std::vector<size_t> layer_rope;     // [num_layers] index into ropes; empty without RoPE
  std::vector<float> alibi_slopes;    // [num_heads], or empty
  std::vector<int64_t> layer_window;  // [num_layers], 0: none

  MemoryRules memory;  // Infini-attention; segment 0: none
  ActionTokens actions;
  bool softmax_off_by_one = false;  // a sink logit of 0 in every head
};

class GgufFile;

// The keys mneme.infini.*, mneme.*_token_id and mneme.attention.softmax_off_by_one, where the file has them.
// vocab_size of *config is known. Throws
// Error(kFile) for a value that makes no sense, naming the key.
void ReadMemoryMetadata(const GgufFile& file, ModelConfig* config);

}  // namespace mneme
