// Packed form of weights: groups of 16 rows, interleaved; the same number of bytes as stored, but for
// padding (q6_k 1%, q8_0 and q4_0 32 bytes per group where the number of blocks is odd) and for floats as
// bfloat16 (two bytes each) or as int16 (two bytes and 1/64, columns padded to 32).
//
// Per group, units of 2 blocks (q6_k: of a super-block, 8 blocks): a head of whole cache lines with
// half-precision factors and scales, then the weights of each block:
//   q8_0  [2 blocks][16] d;  [8 steps][16 rows][4] bytes q + 128
//   q4_0  [2 blocks][16] d;  [4][16 rows][4] nibbles: step 2j low, step 2j + 1 high
//   q4_k  [3][16 rows] bytes, 8 of the super-block's [16] d, [16] dmin; nibbles as in q4_0. Low six bits of
//         the bytes: scale of block 0, scale of block 1, minimum of block 0; high two bits, the lowest first:
//         minimum of block 1. Units are alike so that loads of weights and scales move on by the same
//         distance each time, which a core's prefetchers follow.
//   q6_k  [16] d; [16 sub-blocks][16 rows] scales; nibbles as in q4_0, [2][16 rows][4] bytes of four 2-bit
//         fields, field t for step 4e + t
//   f32, f16, bf16  [column][16 rows]; as bfloat16 products [pair of columns][16 rows][2] bfloat16; as int16
//         products, per group, [strips of 8 blocks][16] float scales, then [blocks][16 pairs of columns]
//         [16 rows][2] int16
// Rows beyond the last are zero.
#include <bit>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/half.h"
#include "formats/quant.h"
#include "kernels/linear/layout.h"
#include "kernels/linear/linear.h"

namespace mneme {
namespace {

using linear::ChunkLayout;
using linear::IsFloat;
using linear::kBlockBytes;
using linear::kGroupRows;

// q[32] of one row into a block of nibbles.
void PackNibbles(const uint8_t* q, size_t row, uint8_t* out) {
  for (size_t j = 0; j < 4; ++j) {
    for (size_t c = 0; c < 4; ++c) {
      out[j * 64 + row * 4 + c] = static_cast<uint8_t>((q[8 * j + c] & 15) | (q[8 * j + 4 + c] << 4));
    }
  }
}

void PackRowQ8_0(const BlockQ8_0* blocks, size_t num_blocks, size_t row, uint8_t* out) {
  constexpr ChunkLayout kLayout = ChunkLayout::kQ8_0;
  for (size_t b = 0; b < num_blocks; ++b) {
    uint8_t* factors = out + b / 2 * linear::UnitBytes(kLayout) + b % 2 * kGroupRows * 2;
    std::memcpy(factors + row * 2, &blocks[b].d, 2);
    uint8_t* weights = out + linear::BlockOffset(kLayout, b);
    for (size_t step = 0; step < 8; ++step) {
      uint32_t four;
      std::memcpy(&four, blocks[b].qs + 4 * step, 4);
      four ^= 0x80808080u;
      std::memcpy(weights + (step * kGroupRows + row) * 4, &four, 4);
    }
  }
}

void PackRowQ4_0(const BlockQ4_0* blocks, size_t num_blocks, size_t row, uint8_t* out) {
  constexpr ChunkLayout kLayout = ChunkLayout::kQ4_0;
  for (size_t b = 0; b < num_blocks; ++b) {
    uint8_t* factors = out + b / 2 * linear::UnitBytes(kLayout) + b % 2 * kGroupRows * 2;
    std::memcpy(factors + row * 2, &blocks[b].d, 2);
    uint8_t q[32];
    for (size_t i = 0; i < 16; ++i) {
      q[i] = blocks[b].qs[i] & 15;
      q[i + 16] = blocks[b].qs[i] >> 4;
    }
    PackNibbles(q, row, out + linear::BlockOffset(kLayout, b));
  }
}

// Scales and minimums of two blocks, as the head of a unit holds them.
void PackScalesQ4_K(const BlockQ4_K& block, size_t unit, size_t row, uint8_t* head) {
  uint8_t scales[2], minimums[2];
  for (size_t b = 0; b < 2; ++b)
    UnpackScaleMin(block.scales, static_cast<int>(unit * 2 + b), &scales[b], &minimums[b]);
  const uint8_t low[3] = {scales[0], scales[1], minimums[0]};
  for (size_t plane = 0; plane < 3; ++plane) {
    const unsigned high = minimums[1] >> (2 * plane) & 3;
    head[plane * kGroupRows + row] = static_cast<uint8_t>(low[plane] | high << 6);
  }
}

void PackRowQ4_K(const BlockQ4_K* blocks, size_t num_blocks, size_t row, uint8_t* out) {
  constexpr ChunkLayout kLayout = ChunkLayout::kQ4_K;
  constexpr size_t kUnitBytes = linear::UnitBytes(kLayout);
  for (size_t super = 0; super < num_blocks / 8; ++super, out += linear::kSuperUnits * kUnitBytes) {
    const BlockQ4_K& block = blocks[super];
    std::memcpy(out + linear::FactorOffsetQ4_K(row), &block.d, 2);
    std::memcpy(out + linear::FactorOffsetQ4_K(kGroupRows + row), &block.dmin, 2);
    for (size_t unit = 0; unit < linear::kSuperUnits; ++unit) {
      PackScalesQ4_K(block, unit, row, out + unit * kUnitBytes);
      for (size_t b = 0; b < 2; ++b) {
        uint8_t q[32];
        for (size_t i = 0; i < 32; ++i) q[i] = block.qs[unit * 32 + i] >> (4 * b) & 15;
        PackNibbles(q, row, out + linear::BlockOffset(kLayout, unit * 2 + b));
      }
    }
  }
}

// The two high bits of a row's block, after its nibbles.
void PackHighBits(const uint8_t* high, size_t row, uint8_t* out) {
  for (size_t e = 0; e < 2; ++e) {
    for (size_t c = 0; c < 4; ++c) {
      uint8_t byte = 0;
      for (size_t t = 0; t < 4; ++t) byte |= static_cast<uint8_t>(high[16 * e + 4 * t + c] << (2 * t));
      out[e * 64 + row * 4 + c] = byte;
    }
  }
}

void PackRowQ6_K(const BlockQ6_K* blocks, size_t num_blocks, size_t row, uint8_t* out) {
  constexpr ChunkLayout kLayout = ChunkLayout::kQ6_K;
  for (size_t super = 0; super < num_blocks / 8; ++super, out += linear::UnitBytes(kLayout)) {
    const BlockQ6_K& block = blocks[super];
    std::memcpy(out + row * 2, &block.d, 2);
    uint8_t* scales = out + linear::kUnitFactorBytes;
    for (size_t i = 0; i < 16; ++i) scales[i * kGroupRows + row] = static_cast<uint8_t>(block.scales[i]);
    for (size_t b = 0; b < 8; ++b) {
      const size_t half = b / 4;
      const size_t group = b % 4;
      uint8_t low[32];
      uint8_t high[32];
      for (size_t i = 0; i < 32; ++i) {
        const uint8_t pair = block.ql[64 * half + 32 * (group % 2) + i];
        low[i] = group < 2 ? pair & 15 : pair >> 4;
        high[i] = (block.qh[32 * half + i] >> (2 * group)) & 3;
      }
      uint8_t* weights = out + linear::BlockOffset(kLayout, b);
      PackNibbles(low, row, weights);
      PackHighBits(high, row, weights + kBlockBytes / 2);
    }
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

// The structs have alignment 2 and the file's data may have none: copy the chunk of a row first.
template <typename Block>
const Block* CopyBlocks(const uint8_t* data, size_t count, Block* copy) {
  std::memcpy(copy, data, count * sizeof(Block));
  return copy;
}

void PackRowChunk(Encoding encoding, const uint8_t* data, size_t num_blocks, size_t row, uint8_t* out) {
  union {
    BlockQ8_0 q8_0[linear::kMaxChunkBlocks];
    BlockQ4_0 q4_0[linear::kMaxChunkBlocks];
    BlockQ4_K q4_k[linear::kMaxChunkBlocks / 8];
    BlockQ6_K q6_k[linear::kMaxChunkBlocks / 8];
  } copy;
  switch (encoding) {
    case Encoding::kQ8_0:
      return PackRowQ8_0(CopyBlocks(data, num_blocks, copy.q8_0), num_blocks, row, out);
    case Encoding::kQ4_0:
      return PackRowQ4_0(CopyBlocks(data, num_blocks, copy.q4_0), num_blocks, row, out);
    case Encoding::kQ4_K:
      return PackRowQ4_K(CopyBlocks(data, num_blocks / 8, copy.q4_k), num_blocks, row, out);
    case Encoding::kQ6_K:
      return PackRowQ6_K(CopyBlocks(data, num_blocks / 8, copy.q6_k), num_blocks, row, out);
    default:
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
  const bool has_padding =
      layout == ChunkLayout::kQ6_K || view.num_cols / linear::kBlockCols % linear::UnitBlocks(layout) != 0;
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
      PackRowChunk(view.encoding, data + row * view.row_bytes(), num_blocks, row, out);
    }
    out += linear::PackedChunkBytes(view.encoding, num_blocks);
  }
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
  if (bytes == 0) return InPlace(view);
  AlignedArray<uint8_t> memory = MakeHuge(bytes);
  LinearWeights weights = PackedInto(view, memory.get(), pool, products);
  weights.owned_ = std::move(memory);
  return weights;
}

LinearWeights LinearWeights::PackedGroups(const WeightView& view, uint8_t* memory, size_t num_together,
                                          ThreadPool& pool, FloatProducts products) {
  LinearWeights weights = InPlace(view);
  if (IsFloat(view.encoding)) weights.products_ = products;
  const size_t group_bytes = linear::PackedGroupBytes(view.encoding, view.num_cols, weights.products_);
  MNEME_CHECK(group_bytes > 0);
  const size_t stride = num_together * group_bytes;
  const auto pack = weights.products_ == FloatProducts::kBFloat16 ? PackGroupPairs
                    : weights.products_ == FloatProducts::kInt16  ? PackGroupInt16
                                                                  : PackGroup;
  pool.Run(linear::CeilDivide(view.num_rows, kGroupRows),
           [&](size_t group, size_t) { pack(view, group, memory + group * stride); });
  weights.packed_ = memory;
  weights.group_stride_ = stride;
  weights.view_.data = nullptr;
  return weights;
}

LinearWeights LinearWeights::PackedInto(const WeightView& view, uint8_t* memory, ThreadPool& pool,
                                        FloatProducts products) {
  return PackedGroups(view, memory, 1, pool, products);
}

std::pair<LinearWeights, LinearWeights> LinearWeights::PackedTogether(const WeightView& a,
                                                                      const WeightView& b, uint8_t* memory,
                                                                      ThreadPool& pool,
                                                                      FloatProducts products) {
  MNEME_CHECK(a.encoding == b.encoding && a.num_rows == b.num_rows && a.num_cols == b.num_cols);
  LinearWeights first = PackedGroups(a, memory, 2, pool, products);
  LinearWeights second = PackedGroups(b, memory + first.group_stride_ / 2, 2, pool, products);
  return {std::move(first), std::move(second)};
}

size_t LinearWeights::read_bytes() const {
  return is_packed() ? PackedBytes(view_.encoding, view_.num_rows, view_.num_cols, products_)
                     : view_.num_rows * view_.row_bytes();
}

}  // namespace mneme
