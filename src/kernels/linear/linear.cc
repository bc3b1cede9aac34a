// Products: what runs per task, for each target, and how a call is cut into tasks.
#include "kernels/linear/linear.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "formats/quant.h"
#include "kernels/linear/layout.h"
#include "kernels/simd/targets.h"

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear/linear.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/linear/ahead-inl.h"
#include "kernels/linear/float-inl.h"
#include "kernels/linear/int16-inl.h"
#include "kernels/linear/outputs-inl.h"
#include "kernels/linear/row-inl.h"
#include "kernels/linear/tile-inl.h"
#include "kernels/linear/unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {

// What products of bfloat16 pairs are made of (linear_pairs-inl.h).
struct LinearPairKernels {
  void (*round_rows)(const float* x, size_t stride, size_t rows, size_t cols, uint32_t* out);
  void (*multiply_tile)(const uint8_t* const* weights, const uint32_t* x, size_t rows, size_t num_pairs,
                        float* totals, size_t out_stride);
};

}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#define MNEME_PAIRS_NAMESPACE portable_pairs
#define MNEME_PAIRS_NATIVE 0
#include "kernels/linear/pairs-inl.h"
#undef MNEME_PAIRS_NAMESPACE
#undef MNEME_PAIRS_NATIVE

// Highway 1.0.3 has no target with bfloat16 products: asked for beside the target that comes nearest.
#if HWY_TARGET == HWY_AVX3_DL
#define MNEME_PAIRS_NAMESPACE native_pairs
#define MNEME_PAIRS_NATIVE 1
#include "kernels/linear/pairs-inl.h"
#undef MNEME_PAIRS_NAMESPACE
#undef MNEME_PAIRS_NATIVE
#endif

HWY_BEFORE_NAMESPACE();
namespace mneme::linear::HWY_NAMESPACE {

inline const mneme::HWY_NAMESPACE::LinearPairKernels& PairKernelsOfMachine() {
#if HWY_TARGET == HWY_AVX3_DL
  static const bool kNative = __builtin_cpu_supports("avx512bf16");
  if (kNative) return mneme::HWY_NAMESPACE::native_pairs::kLinearPairs;
#endif
  return mneme::HWY_NAMESPACE::portable_pairs::kLinearPairs;
}

// Row tiles whose activations, of one chunk, stay in the second-level cache while all weights pass.
constexpr size_t kTilesPerPass = 86;

// Distances in the packed form of one matrix.
struct PackedStrides {
  explicit PackedStrides(const LinearWeights& weights)
      : group_stride(weights.group_stride()),
        chunk_bytes(PackedChunkBytes(weights.encoding(), kChunkBlocks)) {}
  size_t group_stride;
  size_t chunk_bytes;  // of every chunk but a row's last
};

// One chunk of one group. What this thread reads next lies `distance` after its packed form. Sets the members
// of `chunk` one by one: a result that is copied as a whole is loaded wider than it was stored, and that load
// waits until everything before it is done, reads from memory among it.
void UnpackGroup(const LinearWeights& weights, const PackedStrides& strides, size_t group, size_t first_block,
                 size_t blocks, bool to_bytes, size_t distance, UnpackScratch& scratch,
                 UnpackedChunk& chunk) {
  if (!weights.is_packed()) {
    UnpackStored(weights.view(), group, first_block * kBlockCols, blocks, scratch, chunk);
    return;
  }
  const uint8_t* packed =
      weights.packed() + group * strides.group_stride + first_block / kChunkBlocks * strides.chunk_bytes;
  if (to_bytes) {
    UnpackPacked(PackedLayout(weights.encoding()), packed, blocks, scratch, chunk);
  } else {
    chunk.weights = packed;
  }
  chunk.next = packed + distance;
  chunk.next_bytes = BlockShareBytes(PackedLayout(weights.encoding()));
}

#if HWY_TARGET != HWY_SCALAR
// One row of activations may have been rounded by another thread: its lines come all at once if they are
// asked for so, and a few at a time, from that thread's cache, if the first products wait for them.
void AskForRow(const ActivationRows& x, ChunkLayout layout) {
  const ActTileView tile = TileOf(x, 0);
  const BlockKind kind = TraitsOf(layout).kind;
  const uint8_t* const end = kind.halves && kind.minimum ? tile.half_sums(tile.blocks)
                             : kind.minimum              ? tile.half_sums(0)
                             : kind.halves               ? tile.sums(0)
                                                         : tile.halves(0);
  for (const uint8_t* line = tile.values(0); line < end; line += 64) hwy::Prefetch(line);
}

// One row and packed weights: what decoding one token does.
void MultiplyOneRow(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  const ChunkLayout layout = PackedLayout(groups.jobs()[0].weights->encoding());
  const Streams streams(begin, end);
  AskForRow(x, layout);
  Totals totals;
  for (size_t i = 0; i < streams.length; ++i) {
    const StreamStep step(groups, streams, i);
    step.Load(1, totals);
    const uint8_t* packed[kGroups];
    step.Locate(0, packed);
    MultiplyRow(layout, packed, TileOf(x, 0), totals.values[0]);
    step.Store(1, totals);
  }
}
#endif

// Few rows: weights are read from end to end, sums stay in the cache.
void MultiplyFewTiles(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  const LinearWeights& weights = *groups.jobs()[0].weights;  // the others are like it
  const BlockKind kind = KindOf(weights.encoding());
  // Packed weights are taken apart in registers where a tile kernel does that; the scalar kernel reads bytes.
  const ChunkLayout packed_layout = PackedLayout(weights.encoding());
  const bool to_bytes =
      !weights.is_packed() || HWY_TARGET == HWY_SCALAR || !TraitsOf(packed_layout).has_tile_kernel;
  const ChunkLayout layout = to_bytes ? ChunkLayout::kBytes : packed_layout;
  const size_t num_blocks = x.num_cols() / kBlockCols;
  const size_t num_tiles = CeilDivide(x.num_rows(), kActTile);
  const bool asks = weights.is_packed() && x.num_rows() > RowsOfPrefetchers(layout);
  const PackedStrides strides(weights);
  const Streams streams(begin, end);
  UnpackScratch scratch[kGroups];
  UnpackedChunk chunks[kGroups];
  Totals totals;
  for (size_t i = 0; i < streams.length; ++i) {
    const StreamStep step(groups, streams, i);
    step.Load(x.num_rows(), totals);
    for (size_t block = 0, blocks; block < num_blocks; block += blocks) {
      blocks = ChunkBlocksAt(block, num_blocks);
      const size_t chunk_bytes = PackedChunkBytes(weights.encoding(), blocks);
      for (size_t g = 0; g < kGroups; ++g) {
        if (step.has(g)) {
          const GroupPlace& place = step.place(g);
          UnpackGroup(*place.job->weights, strides, place.group, block, blocks, to_bytes, chunk_bytes,
                      scratch[g], chunks[g]);
        } else {
          chunks[g] = chunks[0];  // where a stream has ended the first is computed twice, and stored once
        }
        if (!asks) chunks[g].next = nullptr;
      }
      for (size_t t = 0; t < num_tiles; ++t) {
        float* values = totals.values[t * kActTile];
        const TileSums sums = {.from = values,
                               .from_stride = kGroups * kGroupRows,
                               .to = values,
                               .to_stride = kGroups * kGroupRows};
        const ActTileView tile = TileOf(x, t);
        // Each tile asks for its part of what comes next, so that memory is never idle.
        const size_t part = CeilDivide(chunk_bytes * tile.rows, x.num_rows() * blocks);
        for (UnpackedChunk& chunk : chunks) chunk.next_bytes = part;
        MultiplyTile(kind, layout, chunks, tile, block, blocks, sums);
        for (UnpackedChunk& chunk : chunks) {
          if (asks) chunk.next += part * blocks;
        }
      }
    }
    step.Store(x.num_rows(), totals);
  }
}

// Many rows: a chunk of weights stays in the first-level cache while the rows' tiles pass.
void MultiplyTiles(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  const BlockKind kind = KindOf(job.weights->encoding());
  const size_t num_tiles = CeilDivide(x.num_rows(), kActTile);
  const size_t num_blocks = x.num_cols() / kBlockCols;
  UnpackScratch scratch[kGroups];
  UnpackedChunk chunks[kGroups];
  Totals totals;
  const PackedStrides strides(*job.weights);
  for (size_t pass = 0; pass < num_tiles; pass += kTilesPerPass) {
    const size_t pass_end = std::min(num_tiles, pass + kTilesPerPass);
    for (size_t block = 0, blocks; block < num_blocks; block += blocks) {
      blocks = ChunkBlocksAt(block, num_blocks);
      for (size_t group = begin; group < end; group += kGroups) {
        for (size_t g = 0; g < kGroups; ++g) {
          if (group + g < end) {
            UnpackGroup(*job.weights, strides, group + g, block, blocks, true, kGroups * strides.group_stride,
                        scratch[g], chunks[g]);
          } else {
            chunks[g] = chunks[0];
          }
        }
        const OutputTiles outputs(job, group, end, block == 0);
        for (size_t t = pass; t < pass_end; ++t) {
          const ActTileView tile = TileOf(x, t);
          const TileSums sums = outputs.Begin(t * kActTile, tile.rows, totals);
          MultiplyTile(kind, ChunkLayout::kBytes, chunks, tile, block, blocks, sums);
          outputs.End(t * kActTile, tile.rows, totals);
          for (UnpackedChunk& chunk : chunks) chunk.next = nullptr;  // asked for once
        }
      }
    }
  }
}

// Few rows: weights pass once, in streams as in MultiplyFewTiles, and in pieces that stay in the first-level
// cache for the second tile of rows.
template <Encoding kEncoding>
void MultiplyFewFloat(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  const size_t tile = x.num_rows() <= 6 ? x.num_rows() : CeilDivide(x.num_rows(), 2);
  const size_t piece = x.num_rows() <= 6 ? x.num_cols() : kFloatChunkCols;
  const Streams streams(begin, end);
  Totals totals;
  for (size_t i = 0; i < streams.length; ++i) {
    const StreamStep step(groups, streams, i);
    step.Load(x.num_rows(), totals);
    for (size_t col = 0; col < x.num_cols(); col += piece) {
      const size_t cols = std::min(piece, x.num_cols() - col);
      const uint8_t* at[kGroups];
      step.Locate(col * kGroupRows * kWeightBytes<kEncoding>, at);
      for (size_t row = 0; row < x.num_rows(); row += tile) {
        const size_t rows = std::min(tile, x.num_rows() - row);
        PackedFloatDirect<kEncoding>(at, x.x() + row * x.stride() + col, x.stride(), rows, cols,
                                     totals.values[row], kGroups * kGroupRows);
      }
    }
    step.Store(x.num_rows(), totals);
  }
}

template <Encoding kEncoding>
void MultiplyManyFloat(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  constexpr size_t kColBytes = kGroupRows * kWeightBytes<kEncoding>;
  const size_t group_stride = job.weights->group_stride();
  Totals totals;
  const uint8_t* at[kGroups];
  const auto locate = [&](size_t group, size_t col) {
    for (size_t g = 0; g < kGroups; ++g) {
      at[g] = job.weights->packed() + std::min(group + g, end - 1) * group_stride + col * kColBytes;
    }
  };
  alignas(64) float copy[kFloatTile * kCopyStep] = {};
  for (size_t col = 0; col < x.num_cols(); col += kFloatChunkCols) {
    const size_t cols = std::min(kFloatChunkCols, x.num_cols() - col);
    for (size_t row = 0; row < x.num_rows(); row += kFloatTile) {
      const size_t rows = std::min(kFloatTile, x.num_rows() - row);
      CopyActivations(x.x() + row * x.stride() + col, x.stride(), rows, cols, copy);
      for (size_t group = begin; group < end; group += kGroups) {
        locate(group, col);
        // Sums of whole groups run in the output itself.
        const size_t n0 = group * kGroupRows;
        const bool whole = rows == kFloatTile && group + kGroups <= end &&
                           n0 + kGroups * kGroupRows <= job.weights->num_rows();
        if (!whole || col == 0) LoadTotals(job, row, rows, group, end, col == 0, totals);
        if (whole && col == 0) StoreTotals(job, row, rows, group, end, totals);
        float* sums = whole ? job.out + row * job.out_stride + n0 : totals.values[0];
        PackedFloatCopied<kEncoding>(at, copy, rows, cols, sums,
                                     whole ? job.out_stride : kGroups * kGroupRows);
        if (!whole) StoreTotals(job, row, rows, group, end, totals);
      }
    }
  }
}

// Pieces that are multiplied before sums go back to memory. More is faster until the weights of a task, 32 KB
// for each group, outgrow the second-level cache.
constexpr size_t kPassPieces = 4;

// Float weights packed as pairs of bfloat16. Activations are rounded piece by piece where they are used.
constexpr size_t kPieceCols = 2 * kPairPiece;

// Weights pass once, in streams as in MultiplyFewTiles. Rounding a piece again for every group costs less
// than a buffer for whole rows, of any length, would.
void MultiplyFewPairs(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  const auto& kernels = PairKernelsOfMachine();
  alignas(64) uint32_t rounded[kFloatTile * kPairStep] = {};
  const Streams streams(begin, end);
  Totals totals;
  for (size_t i = 0; i < streams.length; ++i) {
    const StreamStep step(groups, streams, i);
    step.Load(x.num_rows(), totals);
    for (size_t col = 0; col < x.num_cols(); col += kPieceCols) {
      const size_t cols = std::min(kPieceCols, x.num_cols() - col);
      kernels.round_rows(x.x() + col, x.stride(), x.num_rows(), cols, rounded);
      const uint8_t* at[kGroups];
      step.Locate(col / 2 * kPairColBytes, at);
      kernels.multiply_tile(at, rounded, x.num_rows(), CeilDivide(cols, 2), totals.values[0],
                            kGroups * kGroupRows);
    }
    step.Store(x.num_rows(), totals);
  }
}

// A row tile's sums stay in the cache for kPassPieces pieces.
void MultiplyManyPairs(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  const auto& kernels = PairKernelsOfMachine();
  const size_t group_stride = job.weights->group_stride();
  const uint8_t* at[kGroups];
  Totals totals;
  alignas(64) uint32_t rounded[kPassPieces][kFloatTile * kPairStep] = {};
  constexpr size_t kPassCols = kPassPieces * kPieceCols;
  for (size_t pass = 0; pass < x.num_cols(); pass += kPassCols) {
    const size_t pass_end = std::min(pass + kPassCols, x.num_cols());
    for (size_t row = 0; row < x.num_rows(); row += kFloatTile) {
      const size_t rows = std::min(kFloatTile, x.num_rows() - row);
      for (size_t col = pass, piece = 0; col < pass_end; col += kPieceCols, ++piece) {
        kernels.round_rows(x.x() + row * x.stride() + col, x.stride(), rows,
                           std::min(kPieceCols, pass_end - col), rounded[piece]);
      }
      for (size_t group = begin; group < end; group += kGroups) {
        LoadTotals(job, row, rows, group, end, pass == 0, totals);
        for (size_t col = pass, piece = 0; col < pass_end; col += kPieceCols, ++piece) {
          for (size_t g = 0; g < kGroups; ++g) {
            at[g] =
                job.weights->packed() + std::min(group + g, end - 1) * group_stride + col / 2 * kPairColBytes;
          }
          kernels.multiply_tile(at, rounded[piece], rows, CeilDivide(std::min(kPieceCols, pass_end - col), 2),
                                totals.values[0], kGroups * kGroupRows);
        }
        StoreTotals(job, row, rows, group, end, totals);
      }
    }
  }
}

// One strip of the groups at `at`, which begin with its scales and end with num_blocks blocks.
void LocateStrip(const uint8_t* const* at, size_t block, size_t num_blocks, Int16Strip& strip) {
  strip.first_block = block;
  strip.blocks = std::min(kInt16StripBlocks, num_blocks - block);
  for (size_t g = 0; g < kGroups; ++g) {
    strip.scales[g] = at[g] + block / kInt16StripBlocks * kInt16ScaleBytes;
    strip.weights[g] = at[g] + Int16HeadBytes(num_blocks) + block * kInt16BlockBytes;
  }
}

// Float weights packed as 16-bit integers, in streams as in MultiplyFewTiles.
void MultiplyFewInt16(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  const size_t num_blocks = CeilDivide(x.num_cols(), kBlockCols);
  const Streams streams(begin, end);
  Int16Strip strip;
  Totals totals;
  for (size_t i = 0; i < streams.length; ++i) {
    const StreamStep step(groups, streams, i);
    step.Load(x.num_rows(), totals);
    const uint8_t* at[kGroups];
    step.Locate(0, at);
    for (size_t block = 0; block < num_blocks; block += kInt16StripBlocks) {
      LocateStrip(at, block, num_blocks, strip);
      for (size_t row = 0; row < x.num_rows(); row += kActTile) {
        float* const values = totals.values[row];
        MultiplyInt16Tile(strip, Int16TileOf(x, row / kActTile),
                          {.from = values,
                           .from_stride = kGroups * kGroupRows,
                           .to = values,
                           .to_stride = kGroups * kGroupRows});
      }
    }
    step.Store(x.num_rows(), totals);
  }
}

// The strips of a task with many rows: all groups for one strip of columns, then all for the next.
class StripWalk {
 public:
  StripWalk(const MatMulJob& job, size_t begin, size_t end)
      : weights_(*job.weights),
        num_blocks_(CeilDivide(weights_.num_cols(), kBlockCols)),
        begin_(begin),
        end_(end),
        group_(begin) {
    Locate();
  }
  bool done() const { return block_ >= num_blocks_; }
  size_t group() const { return group_; }
  const Int16Strip& strip() const { return strip_; }
  void Next() {
    group_ += kGroups;
    if (group_ >= end_) {
      group_ = begin_;
      block_ += kInt16StripBlocks;
    }
    if (!done()) Locate();
  }

 private:
  void Locate() {
    const uint8_t* at[kGroups];
    for (size_t g = 0; g < kGroups; ++g)
      at[g] = weights_.packed() + std::min(group_ + g, end_ - 1) * weights_.group_stride();
    LocateStrip(at, block_, num_blocks_, strip_);
  }
  const LinearWeights& weights_;
  size_t num_blocks_, begin_, end_, group_;
  size_t block_ = 0;
  Int16Strip strip_;
};

// Many rows: a strip of weights stays in the first-level cache while the rows' tiles pass.
void MultiplyManyInt16(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  const size_t num_tiles = CeilDivide(x.num_rows(), kActTile);
  Totals totals;
  for (size_t pass = 0; pass < num_tiles; pass += kTilesPerPass) {
    const size_t pass_end = std::min(num_tiles, pass + kTilesPerPass);
    for (StripWalk walk(job, begin, end); !walk.done();) {
      const Int16Strip strip = walk.strip();
      const OutputTiles outputs(job, walk.group(), end, strip.first_block == 0);
      walk.Next();
      AskBitByBit ask(walk.strip().weights, walk.strip().blocks * kInt16BlockBytes, pass_end - pass);
      for (size_t t = pass; t < pass_end; ++t) {
        ask.Next();
        if (t + 1 < pass_end) outputs.Ask((t + 1) * kActTile, Int16TileOf(x, t + 1).rows);
        const Int16TileView tile = Int16TileOf(x, t);
        MultiplyInt16Tile(strip, tile, outputs.Begin(t * kActTile, tile.rows, totals));
        outputs.End(t * kActTile, tile.rows, totals);
      }
    }
  }
}

template <Encoding kEncoding>
void MultiplyStoredFloat(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  const WeightView& view = job.weights->view();
  const size_t first = begin * kGroupRows;
  const size_t last = std::min(end * kGroupRows, view.num_rows);
  for (size_t row = 0; row < x.num_rows(); row += kStoredRows) {
    const size_t rows = std::min(kStoredRows, x.num_rows() - row);
    for (size_t n = first; n < last; n += kStoredWeights) {
      const uint8_t* at[kStoredWeights];
      for (size_t j = 0; j < kStoredWeights; ++j) {
        at[j] = view.data + std::min(n + j, view.num_rows - 1) * view.row_bytes();
      }
      float sums[kStoredRows][kStoredWeights];
      StoredFloatRows<kEncoding>(at, x.x() + row * x.stride(), x.stride(), rows, x.num_cols(), sums);
      for (size_t i = 0; i < rows; ++i) {
        float* out = job.out + (row + i) * job.out_stride + n;
        for (size_t j = 0; j < std::min(kStoredWeights, last - n); ++j) {
          const float start =
              (job.accumulate ? out[j] : 0.0f) + (job.bias != nullptr ? job.bias[n + j] : 0.0f);
          out[j] = start + sums[i][j];
        }
      }
    }
  }
}

template <Encoding kEncoding>
void MultiplyFloat(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  const MatMulJob& job = groups.jobs()[0];
  if (!job.weights->is_packed()) return MultiplyStoredFloat<kEncoding>(job, x, begin, end);
  if (x.num_rows() <= kFloatTile) return MultiplyFewFloat<kEncoding>(groups, x, begin, end);
  MultiplyManyFloat<kEncoding>(job, x, begin, end);
}

// Outputs of groups [begin, end) of one job, or of a run of several alike.
void MultiplyRun(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  const MatMulJob& job = groups.jobs()[0];
  if (job.weights->products() == FloatProducts::kBFloat16) {
    if (x.num_rows() <= kFloatTile) return MultiplyFewPairs(groups, x, begin, end);
    return MultiplyManyPairs(job, x, begin, end);
  }
  if (job.weights->products() == FloatProducts::kInt16) {
    if (x.num_rows() <= kFloatTile) return MultiplyFewInt16(groups, x, begin, end);
    return MultiplyManyInt16(job, x, begin, end);
  }
  switch (job.weights->encoding()) {
    case Encoding::kF32:
      return MultiplyFloat<Encoding::kF32>(groups, x, begin, end);
    case Encoding::kF16:
      return MultiplyFloat<Encoding::kF16>(groups, x, begin, end);
    case Encoding::kBF16:
      return MultiplyFloat<Encoding::kBF16>(groups, x, begin, end);
    default:
#if HWY_TARGET != HWY_SCALAR
      if (x.num_rows() == 1 && job.weights->is_packed()) return MultiplyOneRow(groups, x, begin, end);
#endif
      if (x.num_rows() <= kFewRows) return MultiplyFewTiles(groups, x, begin, end);
      return MultiplyTiles(job, x, begin, end);
  }
}

// Outputs of groups [begin, end) of all jobs.
void MultiplyGroups(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  if (groups.is_run()) return MultiplyRun(groups, x, begin, end);
  size_t first = 0;  // of the job
  for (const MatMulJob& job : groups.jobs()) {
    const JobGroups one({&job, 1}, x.num_rows());
    const size_t last = first + one.num_groups();
    if (begin < last && first < end)
      MultiplyRun(one, x, std::max(begin, first) - first, std::min(end, last) - first);
    first = last;
  }
}

bool HasPairInstruction() { return MNEME_LINEAR_VNNI != 0; }

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {
namespace linear {
HWY_EXPORT(MultiplyGroups);
HWY_EXPORT(HasPairInstruction);

void Multiply(const JobGroups& groups, const ActivationRows& x, size_t begin, size_t end) {
  HWY_DYNAMIC_DISPATCH(MultiplyGroups)(groups, x, begin, end);
}

bool HasPairs() { return HWY_DYNAMIC_DISPATCH(HasPairInstruction)(); }
}  // namespace linear

bool HasFastInt16Products() { return linear::HasPairs(); }

namespace {

using linear::JobGroups;
using linear::kGroupRows;

// A call below both limits takes a few microseconds on one thread, less than sharing it would cost.
constexpr size_t kBytesWorthSharing = 96 << 10;
constexpr size_t kProductsWorthSharing = 512 << 10;
// With many rows of activations a task brings them into its caches once: equal tasks, at least so many for
// each thread, of at most so many groups that a chunk of their weights stays in the second-level cache.
constexpr size_t kManyRows = linear::kRunRows + 1;
constexpr size_t kMaxTaskGroups = 32;
constexpr size_t kEqualTasksPerThread = 4;
// With few rows memory sets the pace, and every run that a thread starts costs some of it: the task is
// claimed from other cores, its first lines are waited for. So each thread reads one long run. Where that
// lasts, an eighth of it is left to one small task per thread, which whoever is first takes, so that all
// threads end together.
constexpr size_t kLongEighths = 7;
constexpr size_t kShareWorthTail = size_t{2} << 20;  // bytes of one thread

// How the groups of all jobs, in their order, are cut into tasks: pairs of groups stay together.
class TaskCuts {
 public:
  TaskCuts(size_t num_groups, size_t bytes, size_t num_rows, size_t num_threads)
      : num_groups_(num_groups), num_pairs_(linear::CeilDivide(num_groups, 2)) {
    if (num_rows >= kManyRows) {
      const size_t share = linear::CeilDivide(num_pairs_, num_threads);
      num_equal_ =
          num_threads * std::max(kEqualTasksPerThread, linear::CeilDivide(2 * share, kMaxTaskGroups));
      num_equal_ = std::min(num_equal_, num_pairs_);
    } else if (num_threads == 1 || bytes / num_threads < kShareWorthTail) {
      num_equal_ = std::min(num_threads, num_pairs_);
    } else {
      num_long_ = num_threads;
      long_pairs_ = num_pairs_ / num_threads * kLongEighths / 8;
      num_equal_ = std::min(num_threads, num_pairs_ - num_long_ * long_pairs_);
    }
  }
  size_t num_tasks() const { return num_long_ + num_equal_; }
  // First group of a task; of num_tasks(), the end.
  size_t Begin(size_t task) const {
    if (task <= num_long_ && num_long_ > 0) return 2 * task * long_pairs_;
    const size_t first = num_long_ * long_pairs_;
    const size_t pair = first + (num_pairs_ - first) * (task - num_long_) / num_equal_;
    return std::min(2 * pair, num_groups_);
  }

 private:
  size_t num_groups_;
  size_t num_pairs_;
  size_t num_long_ = 0;  // tasks [0, num_long_) have long_pairs_ each, the others equal parts of the rest
  size_t long_pairs_ = 0;
  size_t num_equal_ = 0;
};

void CheckJob(const MatMulJob& job, const ActivationRows& x) {
  MNEME_CHECK(job.weights != nullptr && job.out != nullptr);
  MNEME_CHECK(job.weights->num_cols() == x.num_cols() && x.num_cols() > 0);
  const ActivationForm form = FormFor(*job.weights);
  MNEME_CHECK(x.has_quantised() || form.block8 == 0);
  MNEME_CHECK(x.has_int16() || !form.int16);
}

// Whether the products of all jobs are worth sharing, and what is read for them.
struct Work {
  Work(const ActivationRows& x, std::span<const MatMulJob> jobs) {
    size_t products = 0;
    for (const MatMulJob& job : jobs) {
      CheckJob(job, x);
      bytes += job.weights->read_bytes();
      products += job.weights->num_rows() * x.num_cols() * x.num_rows();
    }
    worth_sharing = bytes >= kBytesWorthSharing || products >= kProductsWorthSharing;
  }
  size_t bytes = 0;
  bool worth_sharing = false;
};

// Calls fn(begin, end) for ranges of groups that cover [0, num_groups).
template <typename Fn>
void ShareGroups(const Work& work, size_t num_groups, size_t num_rows, ThreadPool& pool, const Fn& fn) {
  if (!work.worth_sharing) return fn(size_t{0}, num_groups);
  const TaskCuts cuts(num_groups, work.bytes, num_rows, pool.num_threads());
  pool.Run(cuts.num_tasks(), [&](size_t task, size_t) { fn(cuts.Begin(task), cuts.Begin(task + 1)); });
}

}  // namespace

ActivationForm FormFor(Encoding encoding, FloatProducts products) {
  if (linear::IsFloat(encoding))
    return products == FloatProducts::kInt16 ? ActivationForm::kInt16 : ActivationForm::kFloat;
  return {.block8 = EncodingBlockValues(encoding) == 256 ? size_t{256} : size_t{32}};
}

ActivationForm FormFor(const LinearWeights& weights) {
  return FormFor(weights.encoding(), weights.products());
}

ActivationForm CommonForm(ActivationForm a, ActivationForm b) {
  const bool both = a.block8 != 0 && b.block8 != 0;
  return {.block8 = both ? std::min(a.block8, b.block8) : std::max(a.block8, b.block8),
          .int16 = a.int16 || b.int16};
}

bool NeedsQuantised(Encoding encoding) { return FormFor(encoding).block8 != 0; }

void MatMul(const ActivationRows& x, std::span<const MatMulJob> jobs, ThreadPool& pool) {
  if (x.num_rows() == 0 || jobs.empty()) return;
  const Work work(x, jobs);
  const JobGroups groups(jobs, x.num_rows());
  ShareGroups(work, groups.num_groups(), x.num_rows(), pool,
              [&](size_t begin, size_t end) { linear::Multiply(groups, x, begin, end); });
}

void MatMulThen(const ActivationRows& x, std::span<const MatMulJob> jobs, ThreadPool& pool,
                const OutputsFn& finish) {
  if (x.num_rows() == 0 || jobs.empty()) return;
  const Work work(x, jobs);
  const size_t num_outputs = jobs[0].weights->num_rows();
  for (const MatMulJob& job : jobs) MNEME_CHECK(job.weights->num_rows() == num_outputs);
  const JobGroups groups(jobs, x.num_rows());
  const size_t groups_per_job = groups.num_groups() / jobs.size();
  const size_t step = groups.in_turns() ? jobs.size() : 1;
  ShareGroups(work, step * groups_per_job, x.num_rows(), pool, [&](size_t begin, size_t end) {
    if (groups.in_turns()) {
      linear::Multiply(groups, x, begin, end);
    } else {
      for (const MatMulJob& job : jobs) linear::Multiply(JobGroups({&job, 1}, x.num_rows()), x, begin, end);
    }
    finish.call(finish.fn, begin / step * kGroupRows, std::min(end / step * kGroupRows, num_outputs));
  });
}

void DecodeRow(const WeightView& weights, size_t row, float* out) {
  MNEME_CHECK(row < weights.num_rows);
  DecodeBlocks(weights.encoding, weights.data + row * weights.row_bytes(), weights.num_cols, out);
}

}  // namespace mneme
#endif  // HWY_ONCE
