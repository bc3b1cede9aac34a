// How one Attend call is cut into tasks, and the memory a task works in. Private to attend.cc and the code it
// compiles per SIMD target.
//
// The queries of one KV head are "pairs": pair p is row p / group and query head p % group of that KV head. A
// tile is up to kTilePairs pairs that walk the same blocks together, so that K and V are decoded once for all
// of them. The keys of a span are cut at multiples of kSplitBlocks absolute block numbers; each split gives
// one partial (reference, sum, weighted values), and partials are merged in the order of spans and splits.
// That order is the same whether one task does all splits of a tile (many rows) or each split is a task
// (decode).
//
// A block has the keys and values of all KV heads, one head behind the other. Where a KV head is one small
// tile (decode), up to kTilesTogether tiles take a block in turns before the next one, so that memory is read
// as it lies: going through all blocks of one head first is up to a fifth slower where they come from memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/attend/attend.h"
#include "kernels/attend/kv_block.h"

namespace mneme {

inline constexpr size_t kTilePairs = 48;
inline constexpr size_t kMicroPairs = 6;  // rows of the register tile where there are many
inline constexpr size_t kSmallTile = 8;   // up to this many pairs are one register tile that decodes in place
// Short enough that a window of a thousand keys is shared by threads where heads are few.
inline constexpr size_t kSplitBlocks = 4;
// So many small tiles of a thread go through the blocks together.
inline constexpr size_t kTilesTogether = 8;
inline constexpr size_t kSumLanes = 16;  // of the widest vectors

// Row stride of accumulators and of decoded values: whole vectors of every target.
inline size_t ValueStride(size_t value_dim) { return (value_dim + 15) / 16 * 16; }

// Exponents of a row are counted from a reference that no logit exceeds by more than this, in units of log2:
// the largest logit of some block. Moving it with every new maximum would rescale what was summed for
// nothing.
inline constexpr float kReferenceSlack = 8.0f;

// Reference m, sum l and weighted values acc of the pairs of a tile over some keys; m in units of log2.
struct TileState {
  float* references = nullptr;  // [padded pairs]
  float* sums = nullptr;        // [padded pairs]
  float* acc = nullptr;         // [padded pairs, value_stride]

  static size_t Floats(size_t num_pairs, size_t value_stride) {
    return 2 * PaddedPairs(num_pairs) + PaddedPairs(num_pairs) * value_stride;
  }
  // The last register tile may reach past the last pair; multiples of 16 keep rows aligned.
  static size_t PaddedPairs(size_t num_pairs) { return (num_pairs + kMicroPairs + 15) / 16 * 16; }
  static TileState At(float* memory, size_t num_pairs, size_t value_stride) {
    const size_t padded = PaddedPairs(num_pairs);
    (void)value_stride;
    return {memory, memory + padded, memory + 2 * padded};
  }
};

// One thread's working memory for a tile; of tiles that go through the blocks together each has its own
// queries, sums and states.
struct ThreadScratch {
  float* q = nullptr;           // packed and scaled queries, [key_dim] per pair; for bf16 keys as pairs
  float* s = nullptr;           // [pair, kBlockTokens] logits, then weights
  float* scaled_p = nullptr;    // [2, kSmallTile, kBlockTokens]
  uint32_t* p_pairs = nullptr;  // [kSmallTile, kBlockTokens / 2] weights as bfloat16 pairs of tokens
  float* keys = nullptr;        // decoded [key_dim, kBlockTokens]
  float* values = nullptr;      // decoded [kBlockTokens, value_stride]
  float* corrections = nullptr;
  float* lane_sums = nullptr;  // [pair, kSumLanes] sums of weights, lane by lane
  int32_t* low = nullptr;      // per pair, visible slots [low, high) of the current block
  int32_t* high = nullptr;
  int64_t* nearest = nullptr;  // per pair, distance that ALiBi counts from
  TileState partial, total;

  static size_t Bytes(size_t num_pairs, size_t key_dim, size_t value_stride, size_t num_tiles = 1) {
    return (SharedFloats(num_pairs, key_dim, value_stride) +
            num_tiles * OwnFloats(num_pairs, key_dim, value_stride)) *
           sizeof(float);
  }

  // For tile `tile` of those that memory was taken for.
  static ThreadScratch At(uint8_t* memory, size_t num_pairs, size_t key_dim, size_t value_stride,
                          size_t tile = 0) {
    const size_t padded = TileState::PaddedPairs(num_pairs);
    const size_t key_stride = KeyStride(key_dim);
    float* next = reinterpret_cast<float*>(memory);
    const auto take = [&next](size_t count) {
      float* taken = next;
      next += count;
      return taken;
    };
    ThreadScratch scratch;
    scratch.s = take(padded * kBlockTokens);
    scratch.scaled_p = take(2 * kSmallTile * kBlockTokens);
    scratch.p_pairs = reinterpret_cast<uint32_t*>(take(kSmallTile * kBlockTokens / 2));
    scratch.keys = take(key_stride * kBlockTokens);
    scratch.values = take(kBlockTokens * value_stride);
    scratch.corrections = take(padded);
    scratch.low = reinterpret_cast<int32_t*>(take(padded));
    scratch.high = reinterpret_cast<int32_t*>(take(padded));
    take(tile * OwnFloats(num_pairs, key_dim, value_stride));
    scratch.q = take(padded * key_stride);
    scratch.lane_sums = take(padded * kSumLanes);
    scratch.nearest = reinterpret_cast<int64_t*>(take(2 * padded));
    scratch.partial =
        TileState::At(take(TileState::Floats(num_pairs, value_stride)), num_pairs, value_stride);
    scratch.total = TileState::At(take(TileState::Floats(num_pairs, value_stride)), num_pairs, value_stride);
    return scratch;
  }

 private:
  static size_t KeyStride(size_t key_dim) { return (key_dim + 15) / 16 * 16; }
  static size_t SharedFloats(size_t num_pairs, size_t key_dim, size_t value_stride) {
    const size_t padded = TileState::PaddedPairs(num_pairs);
    return padded * (kBlockTokens + 3) + 2 * kSmallTile * kBlockTokens + kSmallTile * kBlockTokens / 2 +
           kBlockTokens * (KeyStride(key_dim) + value_stride);
  }
  static size_t OwnFloats(size_t num_pairs, size_t key_dim, size_t value_stride) {
    const size_t padded = TileState::PaddedPairs(num_pairs);
    return padded * (KeyStride(key_dim) + kSumLanes + 2) + 2 * TileState::Floats(num_pairs, value_stride);
  }
};

// Blocks [first, last) of a span, as indices into KvSpan::blocks.
struct BlockRange {
  int64_t first = 0;
  int64_t last = 0;
  bool empty() const { return first >= last; }
};

inline int64_t FloorDiv(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0)); }

// The blocks of a span that rows [row_begin, row_end) see some key of.
inline BlockRange VisibleBlocks(const KvSpan& span, size_t row_begin, size_t row_end) {
  int64_t first_key = INT64_MAX;
  int64_t last_key = -1;
  for (size_t row = row_begin; row < row_end; ++row) {
    const int64_t begin = std::max(span.begin[row], int32_t{0});
    if (begin >= span.end[row]) continue;
    first_key = std::min(first_key, begin);
    last_key = std::max(last_key, int64_t{span.end[row]});
  }
  if (last_key < 0) return {};
  const int64_t slot = static_cast<int64_t>(span.first_slot);
  const int64_t block = static_cast<int64_t>(kBlockTokens);
  return {(first_key + slot) / block, (last_key + slot + block - 1) / block};
}

// Number of the split that block `index` of the span falls in, and the first index of a split.
inline int64_t SplitOf(const KvSpan& span, int64_t index) {
  return FloorDiv(span.first_block_number + index, int64_t{kSplitBlocks});
}
inline int64_t SplitBegin(const KvSpan& span, int64_t split) {
  return split * int64_t{kSplitBlocks} - span.first_block_number;
}

// Stores one row of one KV head wherever the call wants it. rotated: room for a key.
void StoreHead(const AttendCall& call, size_t row, size_t kv_head, float* rotated);

struct AttendJob {
  // attend_spans: of the call, those of one softmax. attend_log_sum_exp: in place of the call's.
  AttendJob(const AttendCall& attend_call, std::span<const KvSpan> attend_spans, float* attend_log_sum_exp)
      : call(&attend_call),
        shape(&attend_call.shape),
        spans(attend_spans),
        out(attend_call.out),
        log_sum_exp(attend_log_sum_exp),
        section(shape->layout),
        group(shape->num_heads / shape->layout.num_kv_heads),
        num_pairs(shape->num_rows * group),
        num_tiles((num_pairs + kTilePairs - 1) / kTilePairs),
        tile_pairs(std::min(num_pairs, kTilePairs)),
        tiles_together(num_pairs <= kSmallTile ? kTilesTogether : 1),
        value_stride(ValueStride(shape->layout.value_dim)) {}

  size_t all_tiles() const { return num_tiles * shape->layout.num_kv_heads; }

  const AttendCall* call;
  const AttendShape* shape;
  std::span<const KvSpan> spans;
  float* out;
  float* log_sum_exp;
  KvSection section;
  size_t group;       // query heads per KV head
  size_t num_pairs;   // per KV head
  size_t num_tiles;   // per KV head
  size_t tile_pairs;  // largest tile
  size_t tiles_together;
  size_t value_stride;
  bool stores_in_tiles = false;  // one row, which is stored by who attends
};

// The pairs [first, first + count) of one KV head.
struct Tile {
  Tile(const AttendJob& job, size_t tile_task)
      : kv_head(tile_task / job.num_tiles), first(tile_task % job.num_tiles * kTilePairs) {
    count = std::min(kTilePairs, job.num_pairs - first);
    row_begin = first / job.group;
    row_end = (first + count - 1) / job.group + 1;
  }
  size_t kv_head;
  size_t first;
  size_t count;
  size_t row_begin, row_end;

  size_t Row(const AttendJob& job, size_t pair) const { return (first + pair) / job.group; }
  size_t Head(const AttendJob& job, size_t pair) const {
    return kv_head * job.group + (first + pair) % job.group;
  }
};

}  // namespace mneme
