#include "kernels/attend/attend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "base/aligned.h"
#include "base/error.h"
#include "base/half.h"
#include "kernels/attend/job.h"
#include "kernels/attend/kv_block.h"
#include "kernels/attend/top_k.h"
#include "kernels/simd/targets.h"
// The target beside which products of bfloat16 are asked for (attend_tile-inl.h).
#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attend/attend.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
//
#include "hwy/highway.h"
#include "kernels/attend/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace {

// Some tiles that see the same blocks: each block is read for one tile after the other, so that memory is
// read as it lies. What is computed for a tile does not depend on the others.
class TileGroup {
 public:
  TileGroup(const AttendJob& job, size_t first_tile, size_t count, uint8_t* thread_scratch)
      : job_(job), first_tile_(job, first_tile), count_(count) {
    for (size_t i = 0; i < count; ++i) {
      scratch_[i] =
          ThreadScratch::At(thread_scratch, job.tile_pairs, job.shape->layout.key_dim, job.value_stride, i);
      kernels_[i].emplace(job, Tile(job, first_tile + i), scratch_[i]);
    }
  }

  // All keys, then the outputs. next: the section that is read after all of them, null if unknown.
  void AttendAll(const uint8_t* next) {
    TileState partial[kTilesTogether];
    for (size_t i = 0; i < count_; ++i) {
      kernels_[i]->Reset(scratch_[i].total);
      partial[i] = scratch_[i].partial;
    }
    for (const KvSpan& span : job_.spans) {
      const BlockRange blocks = SetSpan(span, 0, INT64_MAX);
      for (int64_t first = blocks.first; first < blocks.last;) {
        const int64_t last = std::min(blocks.last, SplitBegin(span, SplitOf(span, first) + 1));
        AddBlocks(first, last, last < blocks.last ? kernels_[0]->Section(last) : next, partial);
        for (size_t i = 0; i < count_; ++i) kernels_[i]->Merge(scratch_[i].total, partial[i]);
        first = last;
      }
    }
    for (size_t i = 0; i < count_; ++i) kernels_[i]->Finish(scratch_[i].total);
  }

  // One split of a span into a state for each tile.
  void AttendSplit(const KvSpan& span, int64_t split, const TileState* states) {
    const BlockRange blocks = SetSpan(span, SplitBegin(span, split), SplitBegin(span, split + 1));
    AddBlocks(blocks.first, blocks.last, nullptr, states);
  }

 private:
  // Makes ready for those of the blocks [begin, end) that are seen, and says which.
  BlockRange SetSpan(const KvSpan& span, int64_t begin, int64_t end) {
    BlockRange blocks = VisibleBlocks(span, first_tile_.row_begin, first_tile_.row_end);
    blocks = {std::max(blocks.first, begin), std::min(blocks.last, end)};
    if (blocks.empty()) return {};
    for (size_t i = 0; i < count_; ++i) kernels_[i]->SetSpan(span);
    AskForKeys(job_, kernels_[0]->Section(blocks.first));  // no block before it does
    return blocks;
  }

  // Blocks [first, last) into states, which are reset. next: as in AttendAll.
  void AddBlocks(int64_t first, int64_t last, const uint8_t* next, const TileState* states) {
    for (size_t i = 0; i < count_; ++i) {
      kernels_[i]->Reset(states[i]);
      kernels_[i]->BeginBlocks();
    }
    for (int64_t block = first; block < last; ++block) {
      for (size_t i = 0; i < count_; ++i) {
        const uint8_t* after = i + 1 < count_     ? kernels_[i + 1]->Section(block)
                               : block + 1 < last ? kernels_[0]->Section(block + 1)
                                                  : next;
        kernels_[i]->AddBlock(block, after, states[i]);
      }
    }
    for (size_t i = 0; i < count_; ++i) kernels_[i]->EndBlocks(states[i]);
  }

  const AttendJob& job_;
  Tile first_tile_;
  size_t count_;
  ThreadScratch scratch_[kTilesTogether];
  std::optional<TileKernel> kernels_[kTilesTogether];
};

// The section that a tile reads first; null if it sees no key.
const uint8_t* FirstSection(const AttendJob& job, const Tile& tile) {
  for (const KvSpan& span : job.spans) {
    const BlockRange blocks = VisibleBlocks(span, tile.row_begin, tile.row_end);
    if (!blocks.empty()) return span.blocks[blocks.first] + tile.kv_head * job.section.bytes;
  }
  return nullptr;
}

// Tiles [begin, end) by one thread, which stores their KV heads if that is wanted. The first keys are asked
// for before that, as nothing else would.
void AttendTiles(const AttendJob& job, size_t begin, size_t end, uint8_t* thread_scratch) {
  for (size_t i = begin, count; i < end; i += count) {
    count = std::min(job.tiles_together, end - i);
    if (job.stores_in_tiles) {
      if (const uint8_t* keys = FirstSection(job, Tile(job, i))) AskForKeys(job, keys);
      auto* const rotated = reinterpret_cast<float*>(thread_scratch);
      for (size_t t = i; t < i + count; ++t) StoreHead(*job.call, 0, Tile(job, t).kv_head, rotated);
    }
    const uint8_t* next = i + count < end ? FirstSection(job, Tile(job, i + count)) : nullptr;
    TileGroup(job, i, count, thread_scratch).AttendAll(next);
  }
}

// One split of the tiles [begin, end), at most tiles_together, each into its own state.
void AttendSplit(const AttendJob& job, size_t begin, size_t end, const KvSpan& span, int64_t split,
                 const TileState* states, uint8_t* thread_scratch) {
  TileGroup(job, begin, end - begin, thread_scratch).AttendSplit(span, split, states);
}

// Merges the states of consecutive splits of one tile in order; on the first and last call of the tile resets
// the total and writes the output.
void MergeSplits(const AttendJob& job, size_t tile_task, const TileState& total, float* states,
                 size_t num_states, bool is_first, bool is_last, uint8_t* thread_scratch) {
  const Tile tile(job, tile_task);
  const TileKernel kernel(
      job, tile,
      ThreadScratch::At(thread_scratch, job.tile_pairs, job.shape->layout.key_dim, job.value_stride));
  if (is_first) kernel.Reset(total);
  for (size_t i = 0; i < num_states; ++i) {
    float* memory = states + i * TileState::Floats(job.tile_pairs, job.value_stride);
    kernel.Merge(total, TileState::At(memory, job.tile_pairs, job.value_stride));
  }
  if (is_last) kernel.Finish(total);
}

void ScoreBlocks(const AttendShape& shape, const KvSpan& span, const float* q, size_t kv_head, size_t begin,
                 size_t end, float* scores) {
  const DF d;
  const KvLayout& layout = shape.layout;
  const KvSection section(layout);
  HWY_ALIGN float s[kBlockTokens];
  for (size_t t = begin; t < end;) {
    const size_t slot = (span.first_slot + t) % kBlockTokens;
    const size_t count = std::min(kBlockTokens - slot, end - t);
    const uint8_t* data = span.blocks[(span.first_slot + t) / kBlockTokens] + kv_head * section.bytes;
    const uint8_t* scales = HasScales(layout.key_encoding) ? data + section.key_scales : nullptr;
    WithKeySource(layout.key_encoding, data + section.keys, [&](const auto& source) {
      ScoreRows<1>(source, scales, layout.key_dim, q, Prefetcher(), s);
    });
    for (size_t i = 0; i < kBlockTokens; i += kLanes) {
      VF score = hn::Mul(hn::Load(d, s + i), hn::Set(d, shape.scale));
      if (shape.soft_cap != 0) {
        const VF cap = hn::Set(d, shape.soft_cap);
        score = hn::Mul(TanhF32(d, hn::Div(score, cap)), cap);
      }
      hn::Store(score, d, s + i);
    }
    std::copy_n(s + slot, count, scores + (t - begin));
    t += count;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {

HWY_EXPORT(AttendTiles);
HWY_EXPORT(AttendSplit);
HWY_EXPORT(MergeSplits);
HWY_EXPORT(ScoreBlocks);

namespace {

// With at least this many tiles per thread, whole tiles are the tasks; with fewer, the splits of each tile
// are, in waves of about kWaveTasks tasks per thread whose partial results fit a fixed memory.
constexpr size_t kTilesPerThread = 4;
constexpr size_t kWaveTasks = 16;

size_t RoundUp64(size_t bytes) { return (bytes + 63) / 64 * 64; }

// A split of a span, one task per tile.
struct SplitItem {
  const KvSpan* span;
  int64_t split;
};

// Walks the visible splits of all spans in order.
class SplitWalk {
 public:
  explicit SplitWalk(const AttendJob& job) : job_(job) { Settle(); }
  bool done() const { return span_ == job_.spans.size(); }
  SplitItem Next() {
    const SplitItem item{&job_.spans[span_], split_};
    if (++split_ > last_split_) {
      ++span_;
      Settle();
    }
    return item;
  }

 private:
  void Settle() {
    for (; span_ < job_.spans.size(); ++span_) {
      const KvSpan& span = job_.spans[span_];
      const BlockRange blocks = VisibleBlocks(span, 0, job_.shape->num_rows);
      if (blocks.empty()) continue;
      split_ = SplitOf(span, blocks.first);
      last_split_ = SplitOf(span, blocks.last - 1);
      return;
    }
  }
  const AttendJob& job_;
  size_t span_ = 0;
  int64_t split_ = 0;
  int64_t last_split_ = 0;
};

size_t MaxWaveItems(size_t num_tiles, size_t num_threads) {
  return (kWaveTasks * num_threads + num_tiles - 1) / num_tiles;
}

void AttendBySplits(const AttendJob& job, size_t num_tiles, uint8_t* scratch, size_t thread_bytes,
                    ThreadPool& pool) {
  const size_t num_threads = pool.num_threads();
  const size_t max_items = MaxWaveItems(num_tiles, num_threads);
  const size_t state_floats = TileState::Floats(job.tile_pairs, job.value_stride);
  uint8_t* next = scratch + num_threads * thread_bytes;
  SplitItem* items = reinterpret_cast<SplitItem*>(next);
  next += RoundUp64(max_items * sizeof(SplitItem));
  float* totals = reinterpret_cast<float*>(next);
  float* states = totals + num_tiles * state_floats;

  SplitWalk walk(job);
  bool is_first = true;
  do {
    size_t num_items = 0;
    while (num_items < max_items && !walk.done()) items[num_items++] = walk.Next();
    // Small tiles go together as long as every thread gets as many splits; the others are shared by tile.
    const size_t whole_items = num_tiles <= job.tiles_together ? num_items / num_threads * num_threads : 0;
    pool.Run(whole_items + (num_items - whole_items) * num_tiles, [&](size_t task, size_t thread) {
      const bool is_whole = task < whole_items;
      const size_t item = is_whole ? task : whole_items + (task - whole_items) / num_tiles;
      const size_t begin = is_whole ? 0 : (task - whole_items) % num_tiles;
      const size_t end = is_whole ? num_tiles : begin + 1;
      TileState of_tiles[kTilesTogether];
      for (size_t tile = begin; tile < end; ++tile) {
        of_tiles[tile - begin] = TileState::At(states + (tile * max_items + item) * state_floats,
                                               job.tile_pairs, job.value_stride);
      }
      HWY_DYNAMIC_DISPATCH(AttendSplit)
      (job, begin, end, *items[item].span, items[item].split, of_tiles, scratch + thread * thread_bytes);
    });
    pool.Run(num_tiles, [&](size_t tile, size_t thread) {
      const TileState total = TileState::At(totals + tile * state_floats, job.tile_pairs, job.value_stride);
      HWY_DYNAMIC_DISPATCH(MergeSplits)
      (job, tile, total, states + tile * max_items * state_floats, num_items, is_first, walk.done(),
       scratch + thread * thread_bytes);
    });
    is_first = false;
  } while (!walk.done());
}

// Every task that is taken costs transfers between cores, and tiles of one task may go together: small tiles
// are cut into as few tasks as give every thread the same number.
size_t TilesPerTask(const AttendJob& job, size_t num_tiles, size_t num_threads) {
  const bool is_even = num_tiles % num_threads == 0;
  if (job.tiles_together > 1 && (is_even || num_tiles >= kTilesPerThread * num_threads)) {
    const size_t most = job.tiles_together * num_threads;
    const size_t num_tasks = (num_tiles + most - 1) / most * num_threads;
    return (num_tiles + num_tasks - 1) / num_tasks;
  }
  return is_even && num_tiles < kTilesPerThread * num_threads ? num_tiles / num_threads : 1;
}

// Whether more than one split is visible, so that sharing splits can help.
bool HasManySplits(const AttendJob& job) {
  SplitWalk walk(job);
  if (walk.done()) return false;
  walk.Next();
  return !walk.done();
}

// Rows of a chunk that one task stores.
constexpr size_t kRowsPerStore = 16;

size_t ThreadBytes(const AttendJob& job) {
  const KvLayout& layout = job.shape->layout;
  return RoundUp64(ThreadScratch::Bytes(job.tile_pairs, layout.key_dim, job.value_stride,
                                        std::min(job.tiles_together, layout.num_kv_heads)));
}

// A call, and how its work is cut.
struct AttendPart {
  explicit AttendPart(const AttendCall& call) : job(call, WithoutTopK(call.spans), call.log_sum_exp) {
    if (job.spans.size() < call.spans.size() && job.log_sum_exp == nullptr) {
      own_log_sum_exp.resize(call.shape.num_rows * call.shape.num_heads);
      job.log_sum_exp = own_log_sum_exp.data();
    }
  }

  // num_tiles: of all calls together.
  void Cut(size_t num_tiles, size_t num_threads) {
    by_splits = num_threads > 1 && num_tiles < kTilesPerThread * num_threads && HasManySplits(job);
    const bool one_row = job.shape->num_rows == 1;
    // A task that is all of a KV head stores it.
    job.stores_in_tiles = one_row && !by_splits && job.num_tiles == 1;
    if (!job.call->writes.empty() && !job.stores_in_tiles) {
      num_stores = one_row ? job.shape->layout.num_kv_heads
                           : (job.shape->num_rows + kRowsPerStore - 1) / kRowsPerStore;
    }
    if (by_splits) return;
    tiles_per_task = TilesPerTask(job, job.all_tiles(), num_threads);
    num_tasks = (job.all_tiles() + tiles_per_task - 1) / tiles_per_task;
  }

  void Store(size_t task, float* rotated) const {
    const size_t num_rows = job.shape->num_rows;
    if (num_rows == 1) return StoreHead(*job.call, 0, task, rotated);
    for (size_t row = task * kRowsPerStore; row < std::min(num_rows, (task + 1) * kRowsPerStore); ++row) {
      for (size_t head = 0; head < job.shape->layout.num_kv_heads; ++head)
        StoreHead(*job.call, row, head, rotated);
    }
  }

  static std::span<const KvSpan> WithoutTopK(std::span<const KvSpan> spans) {
    size_t count = spans.size();
    while (count > 0 && spans[count - 1].top_k > 0) --count;
    return spans.first(count);
  }

  AttendJob job;
  std::vector<float> own_log_sum_exp;  // where top_k needs it and the call does not want it
  bool by_splits = false;
  size_t num_stores = 0;  // tasks that store rows before anything is read
  size_t num_tasks = 0;   // tasks of whole tiles
  size_t tiles_per_task = 0;
};

// Calls fn(part, task of the part, thread) for all tasks of all parts, of which part has count(part).
template <typename Count, typename Fn>
void RunParts(std::span<const AttendPart> parts, ThreadPool& pool, const Count& count, const Fn& fn) {
  size_t total = 0;
  for (const AttendPart& part : parts) total += count(part);
  pool.Run(total, [&](size_t task, size_t thread) {
    const AttendPart* part = parts.data();
    while (task >= count(*part)) task -= count(*part++);
    fn(*part, task, thread);
  });
}

}  // namespace

size_t AttendScratchBytes(size_t max_rows, size_t num_heads, size_t key_dim, size_t value_dim,
                          size_t num_threads) {
  const size_t pairs = std::min(kTilePairs, max_rows * num_heads);
  const size_t value_stride = ValueStride(value_dim);
  const size_t small = std::min(kSmallTile, pairs);
  const size_t thread_bytes = RoundUp64(
      std::max(ThreadScratch::Bytes(pairs, key_dim, value_stride),
               ThreadScratch::Bytes(small, key_dim, value_stride, std::min(kTilesTogether, num_heads))));
  const size_t max_tiles = kTilesPerThread * num_threads;  // with more, there are no splits
  const size_t max_items = MaxWaveItems(1, num_threads);
  // tiles * items of one wave is below kWaveTasks * threads + tiles; one total per tile.
  const size_t states = kWaveTasks * num_threads + 2 * max_tiles;
  return num_threads * thread_bytes + RoundUp64(max_items * sizeof(SplitItem)) +
         states * TileState::Floats(pairs, value_stride) * sizeof(float) + kAlignment;
}

void Attend(std::span<const AttendCall> calls, uint8_t* scratch, ThreadPool& pool) {
  MNEME_CHECK(reinterpret_cast<uintptr_t>(scratch) % kAlignment == 0);
  std::vector<AttendPart> parts;
  parts.reserve(calls.size());
  size_t num_tiles = 0, thread_bytes = 0;
  for (const AttendCall& call : calls) {
    const size_t num_kv_heads = call.shape.layout.num_kv_heads;
    MNEME_CHECK(num_kv_heads > 0 && call.shape.num_heads % num_kv_heads == 0);
    if (call.shape.num_rows == 0 || call.shape.num_heads == 0) continue;
    parts.emplace_back(call);
    num_tiles += parts.back().job.all_tiles();
    thread_bytes = std::max(thread_bytes, ThreadBytes(parts.back().job));
  }
  for (AttendPart& part : parts) part.Cut(num_tiles, pool.num_threads());
  RunParts(
      parts, pool, [](const AttendPart& part) { return part.num_stores; },
      [&](const AttendPart& part, size_t task, size_t thread) {
        part.Store(task, reinterpret_cast<float*>(scratch + thread * thread_bytes));
      });
  RunParts(
      parts, pool, [](const AttendPart& part) { return part.num_tasks; },
      [&](const AttendPart& part, size_t task, size_t thread) {
        const size_t begin = task * part.tiles_per_task;
        HWY_DYNAMIC_DISPATCH(AttendTiles)
        (part.job, begin, std::min(begin + part.tiles_per_task, part.job.all_tiles()),
         scratch + thread * thread_bytes);
      });
  for (const AttendPart& part : parts) {
    if (part.by_splits) AttendBySplits(part.job, part.job.all_tiles(), scratch, ThreadBytes(part.job), pool);
    for (const KvSpan& span : part.job.call->spans.subspan(part.job.spans.size())) {
      MergeTopK(*part.job.call, span, part.job.log_sum_exp, pool);
    }
  }
}

void ScoreKeys(const AttendShape& shape, const KvSpan& span, const float* q, size_t kv_head, size_t begin,
               size_t end, float* scores) {
  MNEME_CHECK(kv_head < shape.layout.num_kv_heads);
  HWY_DYNAMIC_DISPATCH(ScoreBlocks)(shape, span, q, kv_head, begin, end, scores);
}

void MergePartials(size_t num_rows, size_t num_heads, size_t value_dim, float* out_a, float* lse_a,
                   const float* out_b, const float* lse_b) {
  constexpr float kEmpty = -std::numeric_limits<float>::infinity();
  for (size_t pair = 0; pair < num_rows * num_heads; ++pair) {
    if (lse_b[pair] == kEmpty) continue;
    float* a = out_a + pair * value_dim;
    const float* b = out_b + pair * value_dim;
    if (lse_a[pair] == kEmpty) {
      std::copy_n(b, value_dim, a);
      lse_a[pair] = lse_b[pair];
      continue;
    }
    const double maximum = std::max(lse_a[pair], lse_b[pair]);
    const double mass_a = std::exp(lse_a[pair] - maximum);
    const double mass_b = std::exp(lse_b[pair] - maximum);
    const float weight_a = static_cast<float>(mass_a / (mass_a + mass_b));
    const float weight_b = static_cast<float>(mass_b / (mass_a + mass_b));
    for (size_t i = 0; i < value_dim; ++i) a[i] = a[i] * weight_a + b[i] * weight_b;
    lse_a[pair] = static_cast<float>(maximum + std::log(mass_a + mass_b));
  }
}

}  // namespace mneme
#endif  // HWY_ONCE
