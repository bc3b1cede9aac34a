// Attention of the queries of one chunk over spans of cached keys and values, and the blocks those are cached
// in.
//
//   out[r, h, :] = softmax over all visible keys of (scale * <q, k>, soft cap, ALiBi bias) applied to v
//
// One softmax over several spans: each span is a run of keys with its own rotated queries and its own
// distance rule (docs/architecture.md, "The one idea"). Online softmax (Milakov & Gimelshein 2018;
// FlashAttention, Dao et al. 2022), all sums in float32. The order of operations for a row depends on its
// visible keys and their place in blocks alone; rows of the chunk, threads and sessions beside it change
// nothing, bit for bit.
//
// Error: relative difference (of the row of one head) at most kAttendError against AttendReference on the
// decoded K and V, for logits up to about 30 in magnitude; float32 logits of size L cost L * 1e-7 more.
// Weights inside a sum reach 2^8: the magnitude of a value times that and the number of visible tokens must
// fit float32. A NaN in a query or in a visible key or value makes that row NaN; what lies in hidden slots
// has no effect.
//
// bf16 is an arithmetic too, for processors that multiply pairs of bfloat16 twice as fast: with bf16 keys the
// scaled queries are rounded to bfloat16 (a logit is off by at most kAttendRounding * scale * sum |q_i k_i|),
// with bf16 values the weights of softmax are (each off by a factor of at most 1 + kAttendWeightError, and
// divided by the sum of the rounded ones); products are exact and sums float32. Then every element of the
// output is off by at most (exp(2 (logit error + weight error)) - 1 + kAttendError) times the attention over
// the magnitudes of the values. bfloat16 numbers, their products and sums below
// 2^-126 count as zero on some processors. Where values are in keys all products are of float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "base/types.h"
#include "kernels/attend/rope.h"

namespace mneme {

inline constexpr double kAttendError = 2e-5;
inline constexpr double kAttendRounding = 0x1p-8;               // to nearest, eight bits
inline constexpr double kAttendWeightError = 0x1p-8 + 0x1p-13;  // and of the exponential before it

// Tokens in a block: a multiple of every SIMD width, small enough that a partly filled block wastes little.
inline constexpr size_t kBlockTokens = 64;

// How the K and V of one layer lie in a block of kBlockTokens tokens. Blocks are opaque bytes outside
// attend.cc; inside, per KV head, keys are stored dimension-major (lanes are tokens) and values token-major
// (lanes are dimensions), both in pairs for bf16. q8_0 and q4_0 round each token's head in groups of 32
// values (the last group may be shorter), one float16 scale each.
struct KvLayout {
  size_t num_kv_heads = 0;
  size_t key_dim = 0;                      // per head; even for q4_0
  size_t value_dim = 0;                    // per head; even for q4_0
  Encoding key_encoding = Encoding::kF16;  // f32, f16, bf16, q8_0, q4_0
  Encoding value_encoding = Encoding::kF16;
  // Values are the last value_dim of the keys, and stored once (latent attention): of one encoding, and where
  // that has scales the keys before them are whole groups.
  bool values_in_keys = false;

  // Bytes of one block: a multiple of 64.
  size_t block_bytes() const;
  bool operator==(const KvLayout&) const = default;
};

// Throws Error(kUnsupported) for an encoding or dimension that KvLayout cannot hold.
void CheckKvLayout(const KvLayout& layout);
// Whether values that are the last of the keys can be read out of these.
bool CanKeepValuesInKeys(Encoding encoding, size_t key_dim, size_t value_dim);

// Stores the K and V of one token at slot [0, kBlockTokens) of a block. k [num_kv_heads, key_dim], v
// [num_kv_heads, value_dim]. Non-finite values are stored as they are (float encodings) or as zero (integer
// encodings).
void KvStore(const KvLayout& layout, uint8_t* block, size_t slot, const float* k, const float* v);
// The same for one KV head: k [key_dim], v [value_dim]; v is not read where values are in keys. Threads may
// store different heads of a token at once.
void KvStoreHead(const KvLayout& layout, uint8_t* block, size_t slot, size_t kv_head, const float* k,
                 const float* v);
// Decodes one token. Either pointer may be null.
void KvLoad(const KvLayout& layout, const uint8_t* block, size_t slot, float* k, float* v);
// Copies one token's stored bits from one block to another of the same layout, exactly.
void KvCopy(const KvLayout& layout, const uint8_t* from, size_t from_slot, uint8_t* to, size_t to_slot);
// Makes every byte of an unused block defined.
void KvClear(const KvLayout& layout, uint8_t* block);

// Some keys, and what the rows of the chunk see of them. Key t of the span is slot (first_slot + t) % 64 of
// block (first_slot + t) / 64; the distance of row r to key t is distance[r] - distance_step * t.
struct KvSpan {
  const uint8_t* const* blocks = nullptr;
  size_t first_slot = 0;  // < kBlockTokens
  // Number of blocks[0] among all blocks that this run of keys ever had. Sums are split at fixed block
  // numbers: where a span's first block moves on (a sliding window), pass its true number and the same key
  // always falls in the same split.
  int64_t first_block_number = 0;
  // Row r sees keys begin[r] <= t < end[r] (none if begin >= end). [num_rows] each.
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  // Queries, not scaled: [num_rows, num_heads, key_dim]. They are rotated by rope[row], a table of
  // AttendShape::rope (RopeTable), where they are packed; rope null: taken as they are.
  const float* q = nullptr;
  const float* const* rope = nullptr;
  // Used for ALiBi only: [num_rows], and 1 (true distances) or 0 (one constant). Any size: the bias is taken
  // in integers relative to the row's nearest visible key.
  const int64_t* distance = nullptr;
  int distance_step = 1;
  // Not 0: of the keys that a row sees, each head takes the top_k with the largest logits (before the ALiBi
  // bias, which must be one constant: distance_step 0), the older one where two are equal. LM-Infinite's
  // middle, arXiv 2308.16137, section 4. Such spans come last.
  int64_t top_k = 0;
  // Added to every logit of the span (after the soft cap), natural logarithm: how much its keys count beside
  // those of other spans. 0 for spans with top_k.
  float bias = 0.0f;
};

// Keys and values of rows, stored before anything is read: row r becomes token first_token + r, which lies in
// slot t % 64 of blocks[t / 64].
struct KvWrite {
  uint8_t* const* blocks = nullptr;
  int64_t first_token = 0;
  size_t num_rows = 0;                 // the first of the chunk's rows
  const float* const* rope = nullptr;  // [num_rows]: tables that rotate the keys; null: stored as they are
};

struct AttendShape {
  size_t num_rows = 0;
  size_t num_heads =
      0;            // a multiple of layout.num_kv_heads; head h reads KV head h / (num_heads / num_kv_heads)
  KvLayout layout;  // of all that is stored and read
  const Rope* rope = nullptr;  // what the tables of writes and spans belong to; null: nothing is rotated
  float scale = 1.0f;
  float soft_cap = 0.0f;                // 0: none; else logits become cap * tanh(logit / cap) before the bias
  const float* alibi_slopes = nullptr;  // [num_heads]: logit -= slope * distance; null: none
  const float* sink_logits =
      nullptr;  // [num_heads]: one more logit without a value in the denominator; null: none
  // [key_dim]: what every query is multiplied with, value by value, once it is rotated; null: nothing. So
  // norms that follow the rotation are done (Hunyuan): their weights, of queries and of keys, meet in the
  // product.
  const float* query_factors = nullptr;
};

// The attention of one session's rows in one layer: stores what the rows bring, then one softmax over all
// spans.
struct AttendCall {
  AttendShape shape = {};
  // Of the rows, before any position encoding: [num_rows, num_kv_heads, key_dim] and [num_rows, num_kv_heads,
  // value_dim]. Read by writes alone.
  const float* k = nullptr;
  const float* v = nullptr;
  std::span<const KvWrite> writes = {};
  // Must not share a key that one row sees twice.
  std::span<const KvSpan> spans = {};
  // [num_rows, num_heads, value_dim]. A row that sees no key (and no sink logit) is 0.
  float* out = nullptr;
  // [num_rows, num_heads], natural logarithm, -inf for a row that sees nothing; null: not wanted.
  float* log_sum_exp = nullptr;
};

// Scratch bytes for Attend of calls with at most max_rows rows on num_threads threads, whatever the number of
// keys: partial results are merged in waves.
size_t AttendScratchBytes(size_t max_rows, size_t num_heads, size_t key_dim, size_t value_dim,
                          size_t num_threads);

// Several sessions together: the bits of each are those of running alone. scratch: AttendScratchBytes of the
// largest call, 64-byte aligned. Where a chunk has one row it is stored by who attends, and is in its cache
// then. Allocates nothing that grows with keys or rows, but for top_k.
void Attend(std::span<const AttendCall> calls, uint8_t* scratch, ThreadPool& pool);

// The same in double precision from the definition, one key at a time, on decoded K and V: the oracle.
void AttendReference(const AttendShape& shape, std::span<const KvSpan> spans, double* out,
                     double* log_sum_exp);

// Scores of one row and head against keys [begin, end) of a span, before softmax: scores[t - begin] = scale *
// <q, k_t>, soft cap applied, no bias. For top-k selection. q [key_dim].
void ScoreKeys(const AttendShape& shape, const KvSpan& span, const float* q, size_t kv_head, size_t begin,
               size_t end, float* scores);

// (out_a, lse_a) becomes the attention over the union of two disjoint key sets. out_a, out_b [num_rows,
// num_heads, value_dim]; lse [num_rows, num_heads]. A side with lse -inf leaves the other exactly as it is.
void MergePartials(size_t num_rows, size_t num_heads, size_t value_dim, float* out_a, float* lse_a,
                   const float* out_b, const float* lse_b);

}  // namespace mneme
