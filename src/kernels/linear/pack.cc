// Packed form of weights: groups of 16 rows, interleaved; the same number of bytes as stored, but for padding
// (q3_k 5%, iq4_xs 3%, q6_k 1%; of one head per group where a row's last unit has fewer blocks) and for
// floats as bfloat16 (two bytes each) or as int16 (two bytes and 1/64, columns padded to 32).
//
// Integers: per group, units of some blocks, of each a head of whole cache lines with half-precision factors
// and scales, then the weights of each block.
//
// Heads of 2 blocks:
//   q8_0, q4_0, q5_0, iq4_nl  [2 blocks][16] d
//   q4_1, q5_1  the same, then [2 blocks][16] -m
//   q4_k, q5_k  [3][16 rows] bytes, 8 of the super-block's [16] d, [16] dmin. Low six bits of the bytes:
//       scale of block 0, scale of block 1, minimum of block 0; high two bits, the lowest first: minimum of
//       block 1. Units are alike so that loads of weights and scales move on by the same distance each time,
//       which a core's prefetchers follow.
// Of 4:
//   mxfp4  [4 blocks][16] e
// Of 8, a super-block:
//   q2_k  [16] d, [16] dmin, [16 sub-blocks][16] bytes: low nibble the scale, high nibble the minimum
//   q3_k, q6_k, iq4_xs  [16] d, nothing up to 64, [16 or 8 sub-blocks][16] signed scales
//
// Weights of a block, in planes:
//   q8_0  [8 steps][16 rows][4] bytes q + 128
//   q4_0, q4_1, q4_k, mxfp4, iq4_nl, iq4_xs  [4][16 rows][4] nibbles: step 2j low, step 2j + 1 high
//   q5_0, q5_1, q5_k  the same, then [16 rows][4] bytes of fifth bits: bit t for step t
//   q6_k  nibbles, then [2][16 rows][4] bytes of four 2-bit fields: field t for step 4e + t
//   q2_k  [2][16 rows][4] bytes of such fields
//   q3_k  the same, then [16 rows][4] bytes of third bits
//
// Floats:
//   f32, f16, bf16  [column][16 rows]; as bfloat16 products [pair of columns][16 rows][2] bfloat16; as int16
//       products, per group, [strips of 8 blocks][16] float scales, then [blocks][16 pairs of columns]
//       [16 rows][2] int16
// Rows beyond the last are zero.
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "formats/quant.h"
#include "kernels/linear/layout.h"
#include "kernels/linear/linear.h"

namespace mneme {
namespace {

using linear::ChunkLayout;
using linear::IsFloat;
using linear::kGroupRows;

// The lowest kBits bits of q[32], one row's block, into their plane.
template <size_t kBits>
void PackPlane(const uint8_t* q, size_t row, uint8_t* out) {
  constexpr size_t kSteps = 8 / kBits;  // whose fields share a byte
  for (size_t line = 0; line < kBits; ++line, q += 4 * kSteps, out += 4 * kGroupRows) {
    for (size_t c = 0; c < 4; ++c) {
      unsigned byte = 0;
      for (size_t t = 0; t < kSteps; ++t) byte |= (q[4 * t + c] & ((1u << kBits) - 1)) << (kBits * t);
      out[row * 4 + c] = static_cast<uint8_t>(byte);
    }
  }
}

template <ChunkLayout kLayout>
void PackBlock(const uint8_t* q, size_t row, uint8_t* out) {
  constexpr linear::LayoutTraits kTraits = linear::TraitsOf(kLayout);
  PackPlane<kTraits.low_bits>(q, row, out);
  if constexpr (kTraits.high_bits != 0) {
    uint8_t high[32];
    for (size_t i = 0; i < 32; ++i) high[i] = q[i] >> kTraits.low_bits;
    PackPlane<kTraits.high_bits>(high, row, out + linear::PlaneBytes(kTraits.low_bits));
  }
}

// 16 bytes: the low nibbles first.
void SplitNibbles(const uint8_t* pairs, uint8_t* q) {
  for (size_t i = 0; i < 16; ++i) {
    q[i] = pairs[i] & 15;
    q[i + 16] = pairs[i] >> 4;
  }
}

void ValuesOf(const BlockQ8_0& block, uint8_t* q) {
  for (size_t i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(block.qs[i] + 128);
}

// Blocks of 32 of four bits, or of five.
template <typename Block>
void ValuesOf(const Block& block, uint8_t* q) {
  SplitNibbles(block.qs, q);
  if constexpr (requires { block.qh; }) {
    for (size_t i = 0; i < 32; ++i) q[i] |= static_cast<uint8_t>((block.qh[i / 8] >> i % 8 & 1) << 4);
  }
}

// What the head of a unit holds for block `b` of it.
template <typename Block>
void PackFactors(const Block& block, size_t b, size_t row, uint8_t* head) {
  if constexpr (requires { block.e; }) {
    head[b * kGroupRows + row] = block.e;
  } else {
    std::memcpy(head + (b * kGroupRows + row) * 2, &block.d, 2);
  }
  if constexpr (requires { block.m; }) {
    const uint16_t minimum = block.m ^ 0x8000u;
    std::memcpy(head + linear::kUnitFactorBytes + (b * kGroupRows + row) * 2, &minimum, 2);
  }
}

// The structs have alignment 2 and the file's data may have none: copied first.
template <typename Block>
Block BlockAt(const uint8_t* data, size_t index) {
  Block block;
  std::memcpy(&block, data + index * sizeof(Block), sizeof(Block));
  return block;
}

template <ChunkLayout kLayout, typename Block>
void PackRow(const uint8_t* data, size_t num_blocks, size_t row, uint8_t* out) {
  constexpr size_t kUnit = linear::UnitBlocks(kLayout);
  for (size_t b = 0; b < num_blocks; ++b) {
    const auto block = BlockAt<Block>(data, b);
    PackFactors(block, b % kUnit, row, out + b / kUnit * linear::UnitBytes(kLayout));
    uint8_t q[32];
    ValuesOf(block, q);
    PackBlock<kLayout>(q, row, out + linear::BlockOffset(kLayout, b));
  }
}

// Scales and minimums of two blocks, as the head of a unit holds them.
void PackSixBits(const uint8_t* packed_scales, size_t unit, size_t row, uint8_t* head) {
  uint8_t scales[2], minimums[2];
  for (size_t b = 0; b < 2; ++b)
    UnpackScaleMin(packed_scales, static_cast<int>(unit * 2 + b), &scales[b], &minimums[b]);
  const uint8_t low[3] = {scales[0], scales[1], minimums[0]};
  for (size_t plane = 0; plane < 3; ++plane) {
    const unsigned high = minimums[1] >> (2 * plane) & 3;
    head[plane * kGroupRows + row] = static_cast<uint8_t>(low[plane] | high << 6);
  }
}

template <ChunkLayout kLayout, typename Block>
void PackSixBitHeads(const Block& block, size_t row, uint8_t* out) {
  std::memcpy(out + linear::SuperFactorOffset(kLayout, row), &block.d, 2);
  std::memcpy(out + linear::SuperFactorOffset(kLayout, kGroupRows + row), &block.dmin, 2);
  for (size_t unit = 0; unit < linear::kSuperUnits; ++unit)
    PackSixBits(block.scales, unit, row, out + unit * linear::UnitBytes(kLayout));
}

// Scale `i` of a super-block as one byte.
uint8_t ScaleByte(const BlockQ2_K& block, size_t i) { return block.scales[i]; }
uint8_t ScaleByte(const BlockQ3_K& block, size_t i) {
  const int low = i < 8 ? block.scales[i] & 15 : block.scales[i - 8] >> 4;
  const int high = (block.scales[8 + i % 4] >> (2 * (i / 4))) & 3;
  return static_cast<uint8_t>((low | (high << 4)) - 32);
}
uint8_t ScaleByte(const BlockQ6_K& block, size_t i) { return static_cast<uint8_t>(block.scales[i]); }
uint8_t ScaleByte(const BlockIQ4_XS& block, size_t i) {
  return static_cast<uint8_t>(UnpackScaleIQ4_XS(block.scales_h, block.scales_l, static_cast<int>(i)));
}

template <ChunkLayout kLayout, typename Block>
void PackByteHead(const Block& block, size_t row, uint8_t* out) {
  std::memcpy(out + row * 2, &block.d, 2);
  if constexpr (requires { block.dmin; }) std::memcpy(out + (kGroupRows + row) * 2, &block.dmin, 2);
  uint8_t* scales = out + linear::kUnitFactorBytes;
  for (size_t i = 0; i < linear::kSuperBlocks * linear::PartsOf(kLayout); ++i)
    scales[i * kGroupRows + row] = ScaleByte(block, i);
}

// The 32 values of sub-block `b` of a super-block.
void ValuesOf(const BlockQ2_K& block, size_t b, uint8_t* q) {
  for (size_t i = 0; i < 32; ++i) q[i] = block.qs[b / 4 * 32 + i] >> (2 * (b % 4)) & 3;
}
void ValuesOf(const BlockQ3_K& block, size_t b, uint8_t* q) {
  for (size_t i = 0; i < 32; ++i) {
    const int low = block.qs[b / 4 * 32 + i] >> (2 * (b % 4)) & 3;
    q[i] = static_cast<uint8_t>(low | (block.hmask[i] >> b & 1) << 2);
  }
}
void ValuesOf(const BlockQ4_K& block, size_t b, uint8_t* q) {
  for (size_t i = 0; i < 32; ++i) q[i] = block.qs[b / 2 * 32 + i] >> (4 * (b % 2)) & 15;
}
void ValuesOf(const BlockQ5_K& block, size_t b, uint8_t* q) {
  for (size_t i = 0; i < 32; ++i) {
    const int low = block.qs[b / 2 * 32 + i] >> (4 * (b % 2)) & 15;
    q[i] = static_cast<uint8_t>(low | (block.qh[i] >> b & 1) << 4);
  }
}
void ValuesOf(const BlockQ6_K& block, size_t b, uint8_t* q) {
  const size_t half = b / 4;
  const size_t group = b % 4;
  for (size_t i = 0; i < 32; ++i) {
    const int low = block.ql[64 * half + 32 * (group % 2) + i] >> (4 * (group / 2)) & 15;
    q[i] = static_cast<uint8_t>(low | (block.qh[32 * half + i] >> (2 * group) & 3) << 4);
  }
}
void ValuesOf(const BlockIQ4_XS& block, size_t b, uint8_t* q) { SplitNibbles(block.qs + 16 * b, q); }

// Rows of super-blocks.
template <ChunkLayout kLayout, typename Block>
void PackSuperRow(const uint8_t* data, size_t num_blocks, size_t row, uint8_t* out) {
  constexpr size_t kUnits = linear::kSuperBlocks / linear::UnitBlocks(kLayout);
  for (size_t super = 0; super < num_blocks / linear::kSuperBlocks; ++super) {
    const auto block = BlockAt<Block>(data, super);
    if constexpr (linear::TraitsOf(kLayout).head == linear::UnitHead::kSixBits) {
      PackSixBitHeads<kLayout>(block, row, out);
    } else {
      PackByteHead<kLayout>(block, row, out);
    }
    for (size_t b = 0; b < linear::kSuperBlocks; ++b) {
      uint8_t q[32];
      ValuesOf(block, b, q);
      PackBlock<kLayout>(q, row, out + linear::BlockOffset(kLayout, b));
    }
    out += kUnits * linear::UnitBytes(kLayout);
  }
}

template <typename Word>
void PackRowFloat(const uint8_t* values, size_t num_cols, size_t row, uint8_t* out) {
  for (size_t k = 0; k < num_cols; ++k) {
    std::memcpy(out + (k * kGroupRows + row) * sizeof(Word), values + k * sizeof(Word), sizeof(Word));
  }
}

// Rounded to bfloat16, two columns beside each other; the last pair of an odd row ends in zero.
void PackRowPairs(const WeightView& view, size_t from_row, size_t row, uint8_t* out) {
  constexpr size_t kPiece = 256;
  float values[kPiece];
  const size_t bytes = EncodedBytes(view.encoding, 1);
  for (size_t first = 0; first < view.num_cols; first += kPiece) {
    const size_t count = std::min(kPiece, view.num_cols - first);
    DecodeBlocks(view.encoding, view.data + from_row * view.row_bytes() + first * bytes, count, values);
    for (size_t i = 0; i < count; ++i) {
      const uint16_t half = F32ToBF16(values[i]);
      const size_t col = first + i;
      std::memcpy(out + col / 2 * linear::kPairColBytes + row * 4 + col % 2 * 2, &half, 2);
    }
  }
}

// scales[16] and weights of a strip, kInt16StripBlocks blocks or fewer: the largest magnitude of a row
// becomes kInt16Most. A row with a value that is not finite gets a scale that is not. values[count] has room
// for one more. Loops that compilers vectorise: a model has a billion values.
void PackRowInt16(float* values, size_t count, size_t row, uint8_t* scales, uint8_t* weights) {
  uint32_t most_bits = 0;  // magnitudes compare like their bits, and NaN above infinity above every number
  for (size_t i = 0; i < count; ++i)
    most_bits = std::max(most_bits, std::bit_cast<uint32_t>(values[i]) & 0x7FFFFFFFu);
  constexpr float kLevels = linear::kInt16Most;
  const float most = std::bit_cast<float>(most_bits);
  const bool is_finite = most_bits < 0x7F800000u;
  const bool is_zero = !is_finite || most < linear::kTiny;
  const float scale = is_zero ? 0.0f : most / kLevels;
  const float stored = is_finite ? scale : std::numeric_limits<float>::quiet_NaN();
  std::memcpy(scales + row * 4, &stored, 4);
  if (is_zero) return;  // zeros, as the caller has set them
  const float inverse = kLevels / most;
  constexpr float kShift = 12582912.0f;  // a sum with 1.5 * 2^23 has no room for a fraction
  values[count] = 0.0f;
  for (size_t i = 0; i < count; i += 2) {
    const auto low = std::bit_cast<uint32_t>(values[i] * inverse + kShift);
    const auto high = std::bit_cast<uint32_t>(values[i + 1] * inverse + kShift);
    const uint32_t pair = (low & 0xFFFFu) | high << 16;
    std::memcpy(weights + i / 2 * linear::kPairColBytes + row * 4, &pair, 4);
  }
}

void PackRowChunk(ChunkLayout layout, const uint8_t* data, size_t num_blocks, size_t row, uint8_t* out) {
  switch (layout) {
    case ChunkLayout::kQ8_0:
      return PackRow<ChunkLayout::kQ8_0, BlockQ8_0>(data, num_blocks, row, out);
    case ChunkLayout::kQ4_0:
      return PackRow<ChunkLayout::kQ4_0, BlockQ4_0>(data, num_blocks, row, out);
    case ChunkLayout::kQ4_1:
      return PackRow<ChunkLayout::kQ4_1, BlockQ4_1>(data, num_blocks, row, out);
    case ChunkLayout::kQ5_0:
      return PackRow<ChunkLayout::kQ5_0, BlockQ5_0>(data, num_blocks, row, out);
    case ChunkLayout::kQ5_1:
      return PackRow<ChunkLayout::kQ5_1, BlockQ5_1>(data, num_blocks, row, out);
    case ChunkLayout::kMXFP4:
      return PackRow<ChunkLayout::kMXFP4, BlockMXFP4>(data, num_blocks, row, out);
    case ChunkLayout::kIQ4_NL:
      return PackRow<ChunkLayout::kIQ4_NL, BlockIQ4_NL>(data, num_blocks, row, out);
    case ChunkLayout::kQ2_K:
      return PackSuperRow<ChunkLayout::kQ2_K, BlockQ2_K>(data, num_blocks, row, out);
    case ChunkLayout::kQ3_K:
      return PackSuperRow<ChunkLayout::kQ3_K, BlockQ3_K>(data, num_blocks, row, out);
    case ChunkLayout::kQ4_K:
      return PackSuperRow<ChunkLayout::kQ4_K, BlockQ4_K>(data, num_blocks, row, out);
    case ChunkLayout::kQ5_K:
      return PackSuperRow<ChunkLayout::kQ5_K, BlockQ5_K>(data, num_blocks, row, out);
    case ChunkLayout::kQ6_K:
      return PackSuperRow<ChunkLayout::kQ6_K, BlockQ6_K>(data, num_blocks, row, out);
    case ChunkLayout::kIQ4_XS:
      return PackSuperRow<ChunkLayout::kIQ4_XS, BlockIQ4_XS>(data, num_blocks, row, out);
    case ChunkLayout::kBytes:
      MNEME_CHECK(false);
  }
}

void PackGroupPairs(const WeightView& view, size_t group, uint8_t* out) {
  std::memset(out, 0, linear::PackedGroupBytes(view.encoding, view.num_cols, FloatProducts::kBFloat16));
  const size_t num_rows = std::min(kGroupRows, view.num_rows - group * kGroupRows);
  for (size_t row = 0; row < num_rows; ++row) PackRowPairs(view, group * kGroupRows + row, row, out);
}

void PackGroupInt16(const WeightView& view, size_t group, uint8_t* out) {
  constexpr size_t kStripCols = linear::kInt16StripBlocks * linear::kBlockCols;
  std::memset(out, 0, linear::PackedGroupBytes(view.encoding, view.num_cols, FloatProducts::kInt16));
  const size_t num_rows = std::min(kGroupRows, view.num_rows - group * kGroupRows);
  const size_t num_blocks = linear::CeilDivide(view.num_cols, linear::kBlockCols);
  uint8_t* const weights = out + linear::Int16HeadBytes(num_blocks);
  float values[kStripCols + 1];
  for (size_t col = 0, strip = 0; col < view.num_cols; col += kStripCols, ++strip) {
    const size_t count = std::min(kStripCols, view.num_cols - col);
    for (size_t row = 0; row < num_rows; ++row) {
      const uint8_t* const stored = view.data + (group * kGroupRows + row) * view.row_bytes();
      DecodeBlocks(view.encoding, stored + EncodedBytes(view.encoding, col), count, values);
      PackRowInt16(values, count, row, out + strip * linear::kInt16ScaleBytes,
                   weights + col / 2 * linear::kPairColBytes);
    }
  }
}

void PackGroup(const WeightView& view, size_t group, uint8_t* out) {
  const size_t num_rows = std::min(kGroupRows, view.num_rows - group * kGroupRows);
  const linear::ChunkLayout layout = linear::PackedLayout(view.encoding);
  const bool has_padding = linear::TraitsOf(layout).head == linear::UnitHead::kBytes ||
                           view.num_cols / linear::kBlockCols % linear::UnitBlocks(layout) != 0;
  if (num_rows < kGroupRows || IsFloat(view.encoding) || has_padding) {
    std::memset(out, 0, linear::PackedGroupBytes(view.encoding, view.num_cols));
  }
  const uint8_t* first_row = view.data + group * kGroupRows * view.row_bytes();
  if (IsFloat(view.encoding)) {
    for (size_t row = 0; row < num_rows; ++row) {
      const uint8_t* values = first_row + row * view.row_bytes();
      if (view.encoding == Encoding::kF32) {
        PackRowFloat<uint32_t>(values, view.num_cols, row, out);
      } else {
        PackRowFloat<uint16_t>(values, view.num_cols, row, out);
      }
    }
    return;
  }
  const size_t row_blocks = view.num_cols / linear::kBlockCols;
  for (size_t block = 0, num_blocks; block < row_blocks; block += num_blocks) {
    num_blocks = linear::ChunkBlocksAt(block, row_blocks);
    const uint8_t* data = first_row + EncodedBytes(view.encoding, block * linear::kBlockCols);
    for (size_t row = 0; row < num_rows; ++row) {
      PackRowChunk(layout, data + row * view.row_bytes(), num_blocks, row, out);
    }
    out += linear::PackedChunkBytes(view.encoding, num_blocks);
  }
}

// Bytes from one group of a matrix to its next.
size_t GroupStride(const PackJob& job) {
  return job.num_together * linear::PackedGroupBytes(job.view.encoding, job.view.num_cols, job.products);
}

// Groups [first, last) of a job: what a thread packs before it looks for more.
struct Piece {
  size_t job = 0;
  size_t first = 0;
  size_t last = 0;
};

// Appends the pieces of a job and returns how many they are.
size_t CutIntoPieces(const PackJob& job, size_t number, std::vector<Piece>* pieces) {
  constexpr size_t kPieceBytes = size_t{256} << 10;  // some tenths of a millisecond
  const size_t num_groups = linear::CeilDivide(job.view.num_rows, kGroupRows);
  const size_t group_bytes = GroupStride(job) / job.num_together;
  MNEME_CHECK(group_bytes > 0);
  const size_t step = std::max<size_t>(1, kPieceBytes / group_bytes);
  size_t count = 0;
  for (size_t first = 0; first < num_groups; first += step, ++count)
    pieces->push_back({number, first, std::min(num_groups, first + step)});
  return count;
}

void PackPiece(const PackJob& job, const Piece& piece) {
  const bool is_float = IsFloat(job.view.encoding);
  const auto pack = is_float && job.products == FloatProducts::kBFloat16 ? PackGroupPairs
                    : is_float && job.products == FloatProducts::kInt16  ? PackGroupInt16
                                                                         : PackGroup;
  const size_t stride = GroupStride(job);
  for (size_t group = piece.first; group < piece.last; ++group)
    pack(job.view, group, job.memory + group * stride);
}

}  // namespace

LinearWeights LinearWeights::InPlace(const WeightView& view) {
  MNEME_CHECK(view.num_cols % EncodingBlockValues(view.encoding) == 0);
  LinearWeights weights;
  weights.view_ = view;
  return weights;
}

size_t LinearWeights::PackedBytes(Encoding encoding, size_t num_rows, size_t num_cols,
                                  FloatProducts products) {
  return linear::CeilDivide(num_rows, kGroupRows) * linear::PackedGroupBytes(encoding, num_cols, products);
}

LinearWeights LinearWeights::Packed(const WeightView& view, ThreadPool& pool, FloatProducts products) {
  const size_t bytes = PackedBytes(view.encoding, view.num_rows, view.num_cols, products);
  AlignedArray<uint8_t> memory = MakeHuge(bytes);
  LinearWeights weights = PackedInto(view, memory.get(), pool, products);
  weights.owned_ = std::move(memory);
  return weights;
}

LinearWeights LinearWeights::AlreadyPacked(const PackJob& job) {
  LinearWeights weights = InPlace(job.view);
  if (IsFloat(job.view.encoding)) weights.products_ = job.products;
  weights.packed_ = job.memory;
  weights.group_stride_ = GroupStride(job);
  weights.view_.data = nullptr;
  return weights;
}

LinearWeights LinearWeights::PackedInto(const WeightView& view, uint8_t* memory, ThreadPool& pool,
                                        FloatProducts products) {
  const PackJob job = {.view = view, .memory = memory, .products = products};
  PackAll({&job, 1}, pool);
  return AlreadyPacked(job);
}

std::pair<LinearWeights, LinearWeights> LinearWeights::PackedTogether(const WeightView& a,
                                                                      const WeightView& b, uint8_t* memory,
                                                                      ThreadPool& pool,
                                                                      FloatProducts products) {
  const std::array<PackJob, 2> jobs = PackJob::Together(a, b, memory, products);
  PackAll(jobs, pool);
  return {AlreadyPacked(jobs[0]), AlreadyPacked(jobs[1])};
}

std::array<PackJob, 2> PackJob::Together(const WeightView& a, const WeightView& b, uint8_t* memory,
                                         FloatProducts products) {
  MNEME_CHECK(a.encoding == b.encoding && a.num_rows == b.num_rows && a.num_cols == b.num_cols);
  PackJob first = {.view = a, .memory = memory, .num_together = 2, .products = products};
  PackJob second = first;
  second.view = b;
  second.memory = memory + GroupStride(first) / 2;
  return {first, second};
}

void PackAll(std::span<const PackJob> jobs, ThreadPool& pool, const std::function<void(size_t)>& done,
             const std::function<void()>& beside) {
  std::vector<Piece> pieces;
  std::vector<std::atomic<size_t>> num_left(jobs.size());
  for (size_t job = 0; job < jobs.size(); ++job) num_left[job] = CutIntoPieces(jobs[job], job, &pieces);
  const size_t num_beside = beside ? 1 : 0;
  pool.Run(num_beside + pieces.size(), [&](size_t task, size_t) {
    if (task < num_beside) return beside();
    const Piece& piece = pieces[task - num_beside];
    PackPiece(jobs[piece.job], piece);
    if (--num_left[piece.job] == 0 && done) done(piece.job);
  });
}

size_t LinearWeights::read_bytes() const {
  return is_packed() ? PackedBytes(view_.encoding, view_.num_rows, view_.num_cols, products_)
                     : view_.num_rows * view_.row_bytes();
}

}  // namespace mneme
