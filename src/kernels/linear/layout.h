// Layouts shared by the parts of linear.cc; private to them and to their test.
//
// Everything is cut into groups of 16 output rows and chunks of 512 columns; the last chunk may have up to
// 640, so that a few columns beyond the last whole chunk do not cost a pass of their own. The kernels want
// weights of one group with lanes as output rows: for each step of 4 columns, 16 rows x 4 bytes, so that one
// instruction multiplies 64 bytes with 4 broadcast bytes of activations. Packed weights lie like that in
// memory, in the size of their stored encoding; other weights are brought into that form chunk by chunk in
// the cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/types.h"
#include "formats/quant_blocks.h"
#include "kernels/linear/linear.h"

namespace mneme::linear {

inline constexpr size_t kGroupRows = 16;
inline constexpr size_t kBlockCols = 32;
inline constexpr size_t kChunkBlocks = 512 / kBlockCols;
inline constexpr size_t kMaxChunkBlocks = 640 / kBlockCols;
inline constexpr size_t kMaxChunkCols = kMaxChunkBlocks * kBlockCols;
inline constexpr size_t kStepsPerBlock = kBlockCols / 4;
inline constexpr size_t kBlockBytes = kGroupRows * kBlockCols;  // one block of one group as bytes
// Rows of activations that lie interleaved: what the widest tile takes at once.
inline constexpr size_t kActTile = 6;
// Float products restart their sums every so many columns: shorter chains round less, and independent ones
// can run at once.
inline constexpr size_t kStripCols = 128;
inline constexpr size_t kFloatChunkCols = 2 * kStripCols;
inline constexpr size_t kFloatTile = 12;
// Products of bfloat16 restart their sums every so many pairs of columns. Rows of a tile's rounded copy lie
// kPairStep pairs apart: not a power of two, so that they do not meet in one set of the first-level cache.
inline constexpr size_t kPairPiece = 128;
inline constexpr size_t kPairStep = kPairPiece + 16;
inline constexpr size_t kPairColBytes = kGroupRows * 4;  // of one pair of columns of a group
// A block of activations, or a strip of weights, whose largest magnitude is below this counts as zero: the
// inverse of its scale would overflow.
inline constexpr float kTiny = 1e-30f;
// Blocks of 16-bit integers: the largest magnitude, 32 products of which fit in 32 bits; blocks of a row of
// weights that share a scale; bytes of one row's block and of a group's.
inline constexpr int32_t kInt16Most = 8191;
static_assert(int64_t{kBlockCols} * kInt16Most * kInt16Most < int64_t{1} << 31);
inline constexpr size_t kInt16StripBlocks = 8;
inline constexpr size_t kInt16RowBytes = kBlockCols * 2;
inline constexpr size_t kInt16BlockBytes = kGroupRows * kInt16RowBytes;
inline constexpr size_t kInt16ScaleBytes = kGroupRows * 4;  // of one strip of a group

inline constexpr size_t RoundUp(size_t value, size_t step) { return (value + step - 1) / step * step; }
inline constexpr size_t CeilDivide(size_t value, size_t step) { return (value + step - 1) / step; }

// Blocks of the chunk that starts at `block` of a row.
inline constexpr size_t ChunkBlocksAt(size_t block, size_t num_blocks) {
  return num_blocks - block <= kMaxChunkBlocks ? num_blocks - block : kChunkBlocks;
}

inline bool IsFloat(Encoding encoding) {
  return encoding == Encoding::kF32 || encoding == Encoding::kF16 || encoding == Encoding::kBF16;
}

// Integer encodings in the unpacked form fall into four kinds. With a minimum, value = scale * q - min and q
// is stored as it is; without, value = scale * (q - 128) on bytes that hold q. Scale (and minimum) per 32
// columns, or per 16.
struct BlockKind {
  bool halves = false;  // scale per 16 columns
  bool minimum = false;
};

inline BlockKind KindOf(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ4_1:
    case Encoding::kQ5_1:
    case Encoding::kQ4_K:
    case Encoding::kQ5_K:
      return {.halves = false, .minimum = true};
    case Encoding::kQ2_K:
      return {.halves = true, .minimum = true};
    case Encoding::kQ3_K:
    case Encoding::kQ6_K:
      return {.halves = true, .minimum = false};
    default:
      return {};
  }
}

// How the weights of a chunk lie when a tile kernel reads them.
enum class ChunkLayout {
  kBytes,  // [block][8 steps][16 rows][4 columns], scales and minimums apart as float
  // Packed, see linear_pack.cc: units of some blocks, their factors and scales in front of their weights.
  // Memory then is one run of whole cache lines, which a core reads faster than two that alternate.
  kQ8_0,
  kQ4_0,
  kQ4_K,
  kQ6_K,
};

// One chunk of one group as the tile kernels read it.
struct UnpackedChunk {
  const uint8_t* weights = nullptr;  // as ChunkLayout says
  const float* scales = nullptr;     // kBytes only: [blocks][1, or 2 with halves][16 rows]
  const float* mins = nullptr;       // as scales
  // Packed bytes that will be read after this chunk, or null, and how many of them each block asks for.
  const uint8_t* next = nullptr;
  size_t next_bytes = 0;
};

struct UnpackScratch {
  alignas(64) uint8_t weights[kMaxChunkBlocks * kBlockBytes];
  alignas(64) float scales[kMaxChunkBlocks * 2 * kGroupRows];
  alignas(64) float mins[kMaxChunkBlocks * 2 * kGroupRows];
  alignas(64) uint8_t rows[kGroupRows * kMaxChunkCols];
};

inline ChunkLayout PackedLayout(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ8_0:
      return ChunkLayout::kQ8_0;
    case Encoding::kQ4_0:
      return ChunkLayout::kQ4_0;
    case Encoding::kQ4_K:
      return ChunkLayout::kQ4_K;
    case Encoding::kQ6_K:
      return ChunkLayout::kQ6_K;
    default:
      return ChunkLayout::kBytes;
  }
}

// Up to so many rows of activations the memory's own prefetchers keep up.
inline constexpr size_t RowsOfPrefetchers(ChunkLayout layout) { return layout == ChunkLayout::kQ8_0 ? 2 : 1; }

// Bytes of the weights of one block of one group.
inline constexpr size_t LayoutBlockBytes(ChunkLayout layout) {
  switch (layout) {
    case ChunkLayout::kQ4_0:
    case ChunkLayout::kQ4_K:
      return kBlockBytes / 2;
    case ChunkLayout::kQ6_K:
      return kBlockBytes / 4 * 3;
    default:
      return kBlockBytes;
  }
}

// Blocks of a unit of a packed layout; the last unit of a row may have fewer.
inline constexpr size_t UnitBlocks(ChunkLayout layout) { return layout == ChunkLayout::kQ6_K ? 8 : 2; }

// Blocks and units whose factors q4_k stores once.
inline constexpr size_t kSuperBlocks = 8;
inline constexpr size_t kSuperUnits = kSuperBlocks / UnitBlocks(ChunkLayout::kQ4_K);
// Of the [16] d and [16] dmin of a super-block, what one of its units holds.
inline constexpr size_t kUnitFactorsQ4_K = 2 * kGroupRows / kSuperUnits;
static_assert(kChunkBlocks % kSuperBlocks == 0);  // chunks begin with a super-block

// A cache line of half-precision factors of the 16 rows.
inline constexpr size_t kUnitFactorBytes = 64;

// Factors and integer scales in front of a unit's weights.
inline constexpr size_t UnitHeadBytes(ChunkLayout layout) {
  switch (layout) {
    case ChunkLayout::kBytes:
      return 0;
    case ChunkLayout::kQ4_K:
      return 3 * kGroupRows + 2 * kUnitFactorsQ4_K;
    case ChunkLayout::kQ6_K:
      return kUnitFactorBytes + 16 * kGroupRows;
    default:
      return kUnitFactorBytes;
  }
}

inline constexpr size_t UnitBytes(ChunkLayout layout) {
  return UnitHeadBytes(layout) + UnitBlocks(layout) * LayoutBlockBytes(layout);
}

// What a block of a chunk takes in memory, with its part of the factors and scales.
inline constexpr size_t BlockShareBytes(ChunkLayout layout) {
  return LayoutBlockBytes(layout) + UnitHeadBytes(layout) / UnitBlocks(layout);
}

// Distance of block `block` of a chunk from the chunk's first byte.
inline constexpr size_t BlockOffset(ChunkLayout layout, size_t block) {
  if (layout == ChunkLayout::kBytes) return block * kBlockBytes;
  const size_t unit = UnitBlocks(layout);
  return block / unit * UnitBytes(layout) + UnitHeadBytes(layout) + block % unit * LayoutBlockBytes(layout);
}

// q4_k: distance of factor `i` of a super-block, [16] d and [16] dmin, from the super-block's first byte.
inline constexpr size_t FactorOffsetQ4_K(size_t i) {
  constexpr size_t kPart = kUnitFactorsQ4_K;
  return i / kPart * UnitBytes(ChunkLayout::kQ4_K) + 3 * kGroupRows + i % kPart * 2;
}

inline bool HasPackedForm(Encoding encoding) {
  return IsFloat(encoding) || encoding == Encoding::kQ8_0 || encoding == Encoding::kQ4_0 ||
         encoding == Encoding::kQ4_K || encoding == Encoding::kQ6_K;
}

inline size_t PackedChunkBytes(Encoding encoding, size_t blocks) {
  const ChunkLayout layout = PackedLayout(encoding);
  return CeilDivide(blocks, UnitBlocks(layout)) * UnitHeadBytes(layout) + blocks * LayoutBlockBytes(layout);
}

// The scales in front of a group of 16-bit blocks.
inline constexpr size_t Int16HeadBytes(size_t num_blocks) {
  return CeilDivide(num_blocks, kInt16StripBlocks) * kInt16ScaleBytes;
}

// 0 where the encoding has no packed form.
inline size_t PackedGroupBytes(Encoding encoding, size_t num_cols,
                               FloatProducts products = FloatProducts::kFloat32) {
  if (!HasPackedForm(encoding)) return 0;
  if (IsFloat(encoding) && products == FloatProducts::kBFloat16)
    return CeilDivide(num_cols, 2) * kPairColBytes;
  if (IsFloat(encoding) && products == FloatProducts::kInt16) {
    const size_t num_blocks = CeilDivide(num_cols, kBlockCols);
    return Int16HeadBytes(num_blocks) + num_blocks * kInt16BlockBytes;
  }
  if (IsFloat(encoding)) return RoundUp(EncodedBytes(encoding, num_cols) * kGroupRows, 64);
  const size_t num_blocks = num_cols / kBlockCols;
  size_t bytes = 0;
  for (size_t block = 0, blocks; block < num_blocks; block += blocks) {
    blocks = ChunkBlocksAt(block, num_blocks);
    bytes += PackedChunkBytes(encoding, blocks);
  }
  return bytes;
}

// Up to kActTile rows of quantised activations, interleaved. Five planes one after the other, `rows` and
// `blocks` being those of this tile:
//   values   [block][step][row][4]   int8
//   heads    [block][2][row]         float scale; int32 -128 * sum of the block's values
//   halves   [block][2][row]         int32 -128 * sum of the first and of the last 16 values
//   sums     [block][row]            float -scale * sum
//   half_sums[block][2][row]         float -scale * sum of each 16
struct ActTileView {
  uint8_t* base = nullptr;
  size_t rows = 0;
  size_t blocks = 0;

  uint8_t* values(size_t block) const { return base + block * kBlockCols * rows; }
  uint8_t* heads(size_t block) const { return base + (blocks * 32 + block * 8) * rows; }
  uint8_t* halves(size_t block) const { return base + (blocks * 40 + block * 8) * rows; }
  uint8_t* sums(size_t block) const { return base + (blocks * 48 + block * 4) * rows; }
  uint8_t* half_sums(size_t block) const { return base + (blocks * 52 + block * 8) * rows; }
};

inline size_t QuantisedRowBytes(size_t num_cols) {
  return RoundUp(CeilDivide(num_cols, kBlockCols) * 60, 64);
}

inline ActTileView TileOf(const ActivationRows& x, size_t tile) {
  const size_t first = tile * kActTile;
  return {.base = const_cast<uint8_t*>(x.quantised()) + first * x.quantised_row_bytes(),
          .rows = std::min(kActTile, x.num_rows() - first),
          .blocks = x.num_cols() / kBlockCols};
}

// Up to kActTile rows of activations as blocks of 16-bit integers:
//   values [block][row][32] int16
//   scales [block][row]     float
// Columns beyond the last are zero.
struct Int16TileView {
  uint8_t* base = nullptr;
  size_t rows = 0;
  size_t blocks = 0;

  uint8_t* values(size_t block) const { return base + block * rows * kInt16RowBytes; }
  uint8_t* scales(size_t block) const { return base + (blocks * kInt16RowBytes + block * 4) * rows; }
};

inline size_t Int16RowBytes(size_t num_cols) {
  return RoundUp(CeilDivide(num_cols, kBlockCols) * (kInt16RowBytes + 4), 64);
}

inline Int16TileView Int16TileOf(const ActivationRows& x, size_t tile) {
  const size_t first = tile * kActTile;
  return {.base = const_cast<uint8_t*>(x.int16()) + first * Int16RowBytes(x.num_cols()),
          .rows = std::min(kActTile, x.num_rows() - first),
          .blocks = CeilDivide(x.num_cols(), kBlockCols)};
}

// 16 rows of one of several matrices.
struct GroupPlace {
  const MatMulJob* job;
  size_t group;

  const uint8_t* packed() const { return job->weights->packed() + group * job->weights->group_stride(); }
};

// With so many rows of activations or fewer memory sets the pace: weights are read in long runs, from job to
// job without a break.
inline constexpr size_t kRunRows = kFloatTile;

// The groups of several jobs in the order in which they are multiplied: one job after the other, or in turns
// where two were packed together and rows are few.
class JobGroups {
 public:
  JobGroups(std::span<const MatMulJob> jobs, size_t num_rows) : jobs_(jobs) {
    const LinearWeights& first = *jobs[0].weights;
    bool alike = first.is_packed();
    for (const MatMulJob& job : jobs) {
      num_groups_ += CeilDivide(job.weights->num_rows(), kGroupRows);
      alike &= job.weights->is_packed() && job.weights->encoding() == first.encoding() &&
               job.weights->products() == first.products() &&
               job.weights->group_stride() == first.group_stride();
    }
    is_run_ = jobs.size() == 1 || (alike && num_rows <= kRunRows);
    in_turns_ = jobs.size() == 2 && alike && num_rows <= kRunRows &&
                first.packed() + first.group_stride() / 2 == jobs[1].weights->packed();
  }
  std::span<const MatMulJob> jobs() const { return jobs_; }
  size_t num_groups() const { return num_groups_; }
  // Whether a kernel may go from job to job.
  bool is_run() const { return is_run_; }
  bool in_turns() const { return in_turns_; }
  GroupPlace At(size_t group) const {
    if (in_turns_) return {&jobs_[group % 2], group / 2};
    const MatMulJob* job = jobs_.data();
    for (size_t count; group >= (count = CeilDivide(job->weights->num_rows(), kGroupRows)); ++job)
      group -= count;
    return {job, group};
  }

 private:
  std::span<const MatMulJob> jobs_;
  size_t num_groups_ = 0;
  bool is_run_ = false;
  bool in_turns_ = false;
};

// The values that integer products see, as float: scale * q. For tests. The second, of the 16-bit form.
void DequantiseRow(const ActivationRows& x, size_t row, float* out);
void DequantiseInt16Row(const ActivationRows& x, size_t row, float* out);

}  // namespace mneme::linear
