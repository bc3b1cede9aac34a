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

// How the weights of a chunk lie when a kernel reads them.
enum class ChunkLayout {
  kBytes,  // [block][8 steps][16 rows][4 columns], scales and minimums apart as float
  // Packed, see pack.cc: units of some blocks, their factors and scales in front of their weights. Memory
  // then is one run of whole cache lines, which a core reads faster than two that alternate.
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
  kMXFP4,
  kIQ4_NL,
  kIQ4_XS,
};

// The packed ones by number, from 0.
inline constexpr size_t kNumPackedLayouts = static_cast<size_t>(ChunkLayout::kIQ4_XS);
inline constexpr ChunkLayout PackedLayoutAt(size_t index) { return static_cast<ChunkLayout>(index + 1); }
inline constexpr size_t PackedIndex(ChunkLayout layout) { return static_cast<size_t>(layout) - 1; }

// What lies in front of a unit's weights, in whole cache lines.
enum class UnitHead {
  kNone,
  kFactors,          // [2 blocks][16] half-precision d
  kFactorsMinimums,  // the same, then [2 blocks][16] half-precision minimums
  kPowers,           // [4 blocks][16] bytes e, of 2^(e - 128)
  kSixBits,          // scales and minimums of 2 blocks, a part of the factors of 8 (pack.cc)
  kNibbles,          // [16] d, [16] dmin, [16 halves of blocks][16] bytes: a scale, and above it a minimum
  kBytes,            // [16] d, nothing up to 64, [8 blocks, or 16 halves][16] signed scales
};

// 128 + each of the 16 levels that nibbles choose from.
struct ByteLevels {
  explicit constexpr ByteLevels(const int8_t* levels) {
    for (size_t i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(levels[i] + 128);
  }
  alignas(16) uint8_t bytes[16] = {};
};
inline constexpr ByteLevels kMxfp4Bytes(kMxfp4Levels);
inline constexpr ByteLevels kIq4Bytes(kIq4Levels);

// By name: sanitizers take a comparison of addresses for no constant.
enum class Levels { kNone, kMxfp4, kIq4 };
inline constexpr const ByteLevels& BytesOf(Levels levels) {
  return levels == Levels::kMxfp4 ? kMxfp4Bytes : kIq4Bytes;
}

// What is to be known of a layout; everything else follows from it.
struct LayoutTraits {
  UnitHead head = UnitHead::kNone;
  BlockKind kind;
  // Bits of a weight: in a plane of bytes, nibbles or fields of two, and in a second one, of higher bits.
  size_t low_bits = 8;
  size_t high_bits = 0;
  // What the bytes that kernels make of them exceed the signed value by.
  int offset = 128;
  Levels levels = Levels::kNone;  // what nibbles choose from, or none where they are the value
  bool has_tile_kernel = false;   // or several rows of activations meet it as bytes
};

inline constexpr LayoutTraits TraitsOf(ChunkLayout layout) {
  switch (layout) {
    case ChunkLayout::kBytes:
      return {};
    case ChunkLayout::kQ8_0:
      return {.head = UnitHead::kFactors, .kind = {}, .has_tile_kernel = true};
    case ChunkLayout::kQ4_0:
      return {.head = UnitHead::kFactors, .kind = {}, .low_bits = 4, .offset = 8, .has_tile_kernel = true};
    case ChunkLayout::kQ4_1:
      return {.head = UnitHead::kFactorsMinimums, .kind = {.minimum = true}, .low_bits = 4, .offset = 0};
    case ChunkLayout::kQ5_0:
      return {.head = UnitHead::kFactors, .kind = {}, .low_bits = 4, .high_bits = 1, .offset = 16};
    case ChunkLayout::kQ5_1:
      return {.head = UnitHead::kFactorsMinimums,
              .kind = {.minimum = true},
              .low_bits = 4,
              .high_bits = 1,
              .offset = 0};
    case ChunkLayout::kQ2_K:
      return {
          .head = UnitHead::kNibbles, .kind = {.halves = true, .minimum = true}, .low_bits = 2, .offset = 0};
    case ChunkLayout::kQ3_K:
      return {.head = UnitHead::kBytes, .kind = {.halves = true}, .low_bits = 2, .high_bits = 1, .offset = 4};
    case ChunkLayout::kQ4_K:
      return {.head = UnitHead::kSixBits,
              .kind = {.minimum = true},
              .low_bits = 4,
              .offset = 0,
              .has_tile_kernel = true};
    case ChunkLayout::kQ5_K:
      return {
          .head = UnitHead::kSixBits, .kind = {.minimum = true}, .low_bits = 4, .high_bits = 1, .offset = 0};
    case ChunkLayout::kQ6_K:
      return {.head = UnitHead::kBytes,
              .kind = {.halves = true},
              .low_bits = 4,
              .high_bits = 2,
              .offset = 32,
              .has_tile_kernel = true};
    case ChunkLayout::kMXFP4:
      return {.head = UnitHead::kPowers, .kind = {}, .low_bits = 4, .levels = Levels::kMxfp4};
    case ChunkLayout::kIQ4_NL:
      return {.head = UnitHead::kFactors, .kind = {}, .low_bits = 4, .levels = Levels::kIq4};
    case ChunkLayout::kIQ4_XS:
      return {.head = UnitHead::kBytes, .kind = {}, .low_bits = 4, .levels = Levels::kIq4};
  }
  return {};
}

inline constexpr ChunkLayout PackedLayout(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ8_0:
      return ChunkLayout::kQ8_0;
    case Encoding::kQ4_0:
      return ChunkLayout::kQ4_0;
    case Encoding::kQ4_1:
      return ChunkLayout::kQ4_1;
    case Encoding::kQ5_0:
      return ChunkLayout::kQ5_0;
    case Encoding::kQ5_1:
      return ChunkLayout::kQ5_1;
    case Encoding::kQ2_K:
      return ChunkLayout::kQ2_K;
    case Encoding::kQ3_K:
      return ChunkLayout::kQ3_K;
    case Encoding::kQ4_K:
      return ChunkLayout::kQ4_K;
    case Encoding::kQ5_K:
      return ChunkLayout::kQ5_K;
    case Encoding::kQ6_K:
      return ChunkLayout::kQ6_K;
    case Encoding::kMXFP4:
      return ChunkLayout::kMXFP4;
    case Encoding::kIQ4_NL:
      return ChunkLayout::kIQ4_NL;
    case Encoding::kIQ4_XS:
      return ChunkLayout::kIQ4_XS;
    default:
      return ChunkLayout::kBytes;
  }
}

inline BlockKind KindOf(Encoding encoding) { return TraitsOf(PackedLayout(encoding)).kind; }

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

// Up to so many rows of activations the memory's own prefetchers keep up.
inline constexpr size_t RowsOfPrefetchers(ChunkLayout layout) { return layout == ChunkLayout::kQ8_0 ? 2 : 1; }

// Bytes of a plane of the weights of one block of one group.
inline constexpr size_t PlaneBytes(size_t bits) { return kBlockBytes / 8 * bits; }

// Bytes of the weights of one block of one group.
inline constexpr size_t LayoutBlockBytes(ChunkLayout layout) {
  return PlaneBytes(TraitsOf(layout).low_bits + TraitsOf(layout).high_bits);
}

// Blocks of a unit of a packed layout; the last unit of a row may have fewer.
inline constexpr size_t UnitBlocks(ChunkLayout layout) {
  switch (TraitsOf(layout).head) {
    case UnitHead::kPowers:
      return 4;
    case UnitHead::kNibbles:
    case UnitHead::kBytes:
      return 8;
    default:
      return 2;
  }
}

// Parts of a block that have a scale of their own.
inline constexpr size_t PartsOf(ChunkLayout layout) { return TraitsOf(layout).kind.halves ? 2 : 1; }

// Blocks and units whose factors q4_k and q5_k store once.
inline constexpr size_t kSuperBlocks = 8;
inline constexpr size_t kSuperUnits = kSuperBlocks / 2;
// Of the [16] d and [16] dmin of a super-block, what one of its units holds.
inline constexpr size_t kUnitSuperFactors = 2 * kGroupRows / kSuperUnits;
static_assert(kChunkBlocks % kSuperBlocks == 0);  // chunks begin with a super-block

// A cache line of half-precision factors of the 16 rows.
inline constexpr size_t kUnitFactorBytes = 64;

// Factors and integer scales in front of a unit's weights.
inline constexpr size_t UnitHeadBytes(ChunkLayout layout) {
  switch (TraitsOf(layout).head) {
    case UnitHead::kNone:
      return 0;
    case UnitHead::kFactors:
      return kUnitFactorBytes;
    case UnitHead::kFactorsMinimums:
      return 2 * kUnitFactorBytes;
    case UnitHead::kPowers:
      return 4 * kGroupRows;
    case UnitHead::kSixBits:
      return 3 * kGroupRows + 2 * kUnitSuperFactors;
    case UnitHead::kNibbles:
    case UnitHead::kBytes:
      return kUnitFactorBytes + UnitBlocks(layout) * PartsOf(layout) * kGroupRows;
  }
  return 0;
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

// q4_k, q5_k: distance of factor `i` of a super-block, [16] d and [16] dmin, from the super-block's first
// byte.
inline constexpr size_t SuperFactorOffset(ChunkLayout layout, size_t i) {
  return i / kUnitSuperFactors * UnitBytes(layout) + 3 * kGroupRows + i % kUnitSuperFactors * 2;
}

// Floats, and every encoding in blocks of integers.
inline bool HasPackedForm(Encoding encoding) {
  return IsFloat(encoding) || PackedLayout(encoding) != ChunkLayout::kBytes;
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
