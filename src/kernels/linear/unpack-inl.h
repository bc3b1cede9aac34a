// Weights of one group and chunk into the form of UnpackedChunk, from packed memory or from 16 stored rows.
//
// The bit fields are taken apart in 64-bit words, in loops of fixed length that compilers vectorise for each
// target. Included by linear.cc once per target.
#include <array>
#include <cstring>
#include <utility>

#include "base/half.h"
#include "formats/quant.h"
#include "kernels/linear/ahead-inl.h"
#include "kernels/linear/layout.h"
#include "kernels/linear/scales-inl.h"
#include "kernels/linear/tile-inl.h"

#if defined(MNEME_KERNELS_LINEAR_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_LINEAR_UNPACK_INL_H_
#undef MNEME_KERNELS_LINEAR_UNPACK_INL_H_
#else
#define MNEME_KERNELS_LINEAR_UNPACK_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"

#if HWY_TARGET == HWY_AVX3_DL  // what LoadStep is compiled for
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme::linear::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE float HalfToFloat(uint16_t half) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_SSE4
  return F16ToF32(half);
#else
  const hn::FixedTag<float, 4> df;
  const hn::Rebind<uint16_t, decltype(df)> du;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  return hn::GetLane(hn::PromoteTo(df, hn::BitCast(dh, hn::Set(du, half))));
#endif
}

// kCount words: nibbles to bytes, low ones to `low` and high ones to `high`, `add` added to each.
template <size_t kCount>
HWY_INLINE void SplitNibbles(const uint8_t* from, uint64_t add, uint8_t* low, uint8_t* high) {
  uint64_t in[kCount], a[kCount], b[kCount];
  std::memcpy(in, from, sizeof(in));
  for (size_t i = 0; i < kCount; ++i) {
    a[i] = (in[i] & Bytes(15)) + add;
    b[i] = ((in[i] >> 4) & Bytes(15)) + add;
  }
  std::memcpy(low, a, sizeof(a));
  std::memcpy(high, b, sizeof(b));
}

// ---- From packed memory.

// What a block's bytes are raised by, so that they mean what those of kBytes do.
template <ChunkLayout kLayout>
constexpr uint8_t kRaise = TraitsOf(kLayout).kind.minimum ? 0 : 128 - TraitsOf(kLayout).offset;

#if HWY_TARGET == HWY_SCALAR
// A step's field of `bits` bits, in a plane whose bytes hold fields of 8 / bits steps.
inline unsigned FieldAt(const uint8_t* plane, size_t bits, size_t step, size_t row, size_t column) {
  const size_t steps = 8 / bits;
  const unsigned byte = plane[(step / steps * kGroupRows + row) * 4 + column];
  return byte >> (step % steps * bits) & ((1u << bits) - 1);
}

template <ChunkLayout kLayout>
inline void UnpackBlock(const uint8_t* block, uint8_t* out) {
  constexpr LayoutTraits kTraits = TraitsOf(kLayout);
  for (size_t i = 0; i < kBlockBytes; ++i) {
    const size_t step = i / 64, row = i % 64 / 4, column = i % 4;
    unsigned value = FieldAt(block, kTraits.low_bits, step, row, column);
    if constexpr (kTraits.levels != Levels::kNone) value = BytesOf(kTraits.levels).bytes[value];
    if constexpr (kTraits.high_bits != 0) {
      const uint8_t* const plane = block + PlaneBytes(kTraits.low_bits);
      value |= FieldAt(plane, kTraits.high_bits, step, row, column) << kTraits.low_bits;
    }
    out[i] = static_cast<uint8_t>(value + kRaise<kLayout>);
  }
}
#else
template <ChunkLayout kLayout>
HWY_INLINE void UnpackBlock(const uint8_t* block, uint8_t* out) {
  const DU8 d;
  MNEME_LINEAR_UNROLL(8)
  for (size_t step = 0; step < kStepsPerBlock; ++step) {
    MNEME_LINEAR_UNROLL(8)
    for (size_t at = 0; at < 64; at += hn::Lanes(d)) {
      VU8 bytes = LoadStep<kLayout>(block, step, at);
      if constexpr (kRaise<kLayout> != 0) bytes = hn::Add(bytes, hn::Set(d, kRaise<kLayout>));
      hn::StoreU(bytes, d, out + step * 64 + at);
    }
  }
}
#endif

template <ChunkLayout kLayout>
inline void UnpackUnits(const uint8_t* packed, size_t blocks, UnpackScratch& scratch) {
  constexpr size_t kUnit = UnitBlocks(kLayout);
  constexpr size_t kScales = PartsOf(kLayout) * kGroupRows;
  for (size_t first = 0; first < blocks; first += kUnit, packed += UnitBytes(kLayout)) {
    const size_t count = std::min(kUnit, blocks - first);
    UnpackScales<kLayout>(packed, first / kUnit, count, scratch.scales + first * kScales,
                          scratch.mins + first * kScales);
    for (size_t b = 0; b < count; ++b) {
      UnpackBlock<kLayout>(packed + UnitHeadBytes(kLayout) + b * LayoutBlockBytes(kLayout),
                           scratch.weights + (first + b) * kBlockBytes);
    }
  }
}

using UnpackFn = void (*)(const uint8_t* packed, size_t blocks, UnpackScratch& scratch);
template <size_t... kIndices>
constexpr std::array<UnpackFn, kNumPackedLayouts> UnpackFns(std::index_sequence<kIndices...>) {
  return {UnpackUnits<PackedLayoutAt(kIndices)>...};
}

// `packed` is the chunk's first byte. The result has the layout kBytes.
inline void UnpackPacked(ChunkLayout layout, const uint8_t* packed, size_t blocks, UnpackScratch& scratch,
                         UnpackedChunk& chunk) {
  chunk.weights = scratch.weights;
  chunk.scales = scratch.scales;
  chunk.mins = scratch.mins;
  static constexpr auto kFns = UnpackFns(std::make_index_sequence<kNumPackedLayouts>());
  kFns[PackedIndex(layout)](packed, blocks, scratch);
}

// ---- From stored rows. Each function takes one row's chunk apart: bytes to q[blocks * 32], scale and
// minimum number s of the row to scales[16 * s] and mins[16 * s].

// 32 bits to 32 bytes of `value` or 0.
HWY_INLINE void SpreadBits(const uint8_t* bits, uint64_t value, uint64_t* out) {
  for (size_t i = 0; i < 4; ++i) {
    const uint64_t chosen = Bytes(bits[i]) & 0x8040201008040201ull;
    out[i] = (((chosen + Bytes(127)) >> 7) & Bytes(1)) * value;
  }
}

HWY_INLINE void AddWords(uint8_t* q, const uint64_t* words, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    uint64_t word;
    std::memcpy(&word, q + 8 * i, 8);
    word += words[i];
    std::memcpy(q + 8 * i, &word, 8);
  }
}

// Blocks are read where they lie: a copy would be stored and loaded at different boundaries, which stalls.
template <typename Block>
struct __attribute__((packed)) Unaligned {
  Block block;
};

template <typename Block>
HWY_INLINE const Unaligned<Block>* NextBlock(const uint8_t*& data) {
  const auto* block = reinterpret_cast<const Unaligned<Block>*>(data);
  data += sizeof(Block);
  return block;
}

inline void DecodeRowQ8_0(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float*) {
  for (size_t b = 0; b < blocks; ++b) {
    const auto* at = NextBlock<BlockQ8_0>(data);
    uint64_t words[4];
    std::memcpy(words, at->block.qs, 32);
    for (uint64_t& word : words) word ^= Bytes(128);
    std::memcpy(q + b * 32, words, 32);
    scales[b * kGroupRows] = HalfToFloat(at->block.d);
  }
}

inline void DecodeRowQ4_0(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float*) {
  for (size_t b = 0; b < blocks; ++b) {
    const auto* at = NextBlock<BlockQ4_0>(data);
    SplitNibbles<2>(at->block.qs, Bytes(128 - 8), q + b * 32, q + b * 32 + 16);
    scales[b * kGroupRows] = HalfToFloat(at->block.d);
  }
}

inline void DecodeRowQ4_1(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float* mins) {
  for (size_t b = 0; b < blocks; ++b) {
    const auto* at = NextBlock<BlockQ4_1>(data);
    SplitNibbles<2>(at->block.qs, 0, q + b * 32, q + b * 32 + 16);
    scales[b * kGroupRows] = HalfToFloat(at->block.d);
    mins[b * kGroupRows] = -HalfToFloat(at->block.m);
  }
}

inline void DecodeRowQ5_0(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float*) {
  for (size_t b = 0; b < blocks; ++b) {
    const auto* at = NextBlock<BlockQ5_0>(data);
    uint64_t high[4];
    SpreadBits(at->block.qh, 16, high);
    SplitNibbles<2>(at->block.qs, Bytes(128 - 16), q + b * 32, q + b * 32 + 16);
    AddWords(q + b * 32, high, 4);
    scales[b * kGroupRows] = HalfToFloat(at->block.d);
  }
}

inline void DecodeRowQ5_1(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float* mins) {
  for (size_t b = 0; b < blocks; ++b) {
    const auto* at = NextBlock<BlockQ5_1>(data);
    uint64_t high[4];
    SpreadBits(at->block.qh, 16, high);
    SplitNibbles<2>(at->block.qs, 0, q + b * 32, q + b * 32 + 16);
    AddWords(q + b * 32, high, 4);
    scales[b * kGroupRows] = HalfToFloat(at->block.d);
    mins[b * kGroupRows] = -HalfToFloat(at->block.m);
  }
}

// 32 bytes: the 2-bit field at `shift` of each, plus `add`.
HWY_INLINE void TakeTwoBits(const uint8_t* from, unsigned shift, uint64_t add, uint8_t* out) {
  uint64_t words[4];
  std::memcpy(words, from, 32);
  for (uint64_t& word : words) word = ((word >> shift) & Bytes(3)) + add;
  std::memcpy(out, words, 32);
}

inline void DecodeRowQ2_K(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float* mins) {
  for (size_t super = 0; super < blocks / 8; ++super) {
    const auto* at = NextBlock<BlockQ2_K>(data);
    for (unsigned b = 0; b < 8; ++b, q += 32) TakeTwoBits(at->block.qs + b / 4 * 32, 2 * (b % 4), 0, q);
    const float d = HalfToFloat(at->block.d);
    const float dmin = HalfToFloat(at->block.dmin);
    for (size_t s = 0; s < 16; ++s, scales += kGroupRows, mins += kGroupRows) {
      *scales = d * static_cast<float>(at->block.scales[s] & 15);
      *mins = dmin * static_cast<float>(at->block.scales[s] >> 4);
    }
  }
}

inline void DecodeRowQ3_K(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float*) {
  for (size_t super = 0; super < blocks / 8; ++super) {
    const auto* at = NextBlock<BlockQ3_K>(data);
    uint64_t mask[4];
    std::memcpy(mask, at->block.hmask, 32);
    for (unsigned b = 0; b < 8; ++b, q += 32) {
      TakeTwoBits(at->block.qs + b / 4 * 32, 2 * (b % 4), Bytes(128 - 4), q);
      uint64_t high[4];
      for (size_t i = 0; i < 4; ++i) high[i] = ((mask[i] >> b) & Bytes(1)) << 2;
      AddWords(q, high, 4);
    }
    const float d = HalfToFloat(at->block.d);
    for (size_t s = 0; s < 16; ++s, scales += kGroupRows) {
      const int low = s < 8 ? at->block.scales[s] & 15 : at->block.scales[s - 8] >> 4;
      const int high = (at->block.scales[8 + s % 4] >> (2 * (s / 4))) & 3;
      *scales = d * static_cast<float>((low | (high << 4)) - 32);
    }
  }
}

template <typename Block>
HWY_INLINE void DecodeScaleMins(const Unaligned<Block>* at, float* scales, float* mins) {
  const float d = HalfToFloat(at->block.d);
  const float dmin = HalfToFloat(at->block.dmin);
  for (int s = 0; s < 8; ++s) {
    uint8_t scale, minimum;
    UnpackScaleMin(at->block.scales, s, &scale, &minimum);
    scales[static_cast<size_t>(s) * kGroupRows] = d * static_cast<float>(scale);
    mins[static_cast<size_t>(s) * kGroupRows] = dmin * static_cast<float>(minimum);
  }
}

inline void DecodeRowQ4_K(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float* mins) {
  for (size_t super = 0; super < blocks / 8; ++super) {
    const auto* at = NextBlock<BlockQ4_K>(data);
    for (size_t pair = 0; pair < 4; ++pair, q += 64) SplitNibbles<4>(at->block.qs + 32 * pair, 0, q, q + 32);
    DecodeScaleMins(at, scales + super * 8 * kGroupRows, mins + super * 8 * kGroupRows);
  }
}

inline void DecodeRowQ5_K(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float* mins) {
  for (size_t super = 0; super < blocks / 8; ++super) {
    const auto* at = NextBlock<BlockQ5_K>(data);
    uint64_t bits[4];
    std::memcpy(bits, at->block.qh, 32);
    for (size_t pair = 0; pair < 4; ++pair, q += 64) {
      SplitNibbles<4>(at->block.qs + 32 * pair, 0, q, q + 32);
      uint64_t high[8];
      for (size_t i = 0; i < 4; ++i) {
        high[i] = ((bits[i] >> (2 * pair)) & Bytes(1)) << 4;
        high[4 + i] = ((bits[i] >> (2 * pair + 1)) & Bytes(1)) << 4;
      }
      AddWords(q, high, 8);
    }
    DecodeScaleMins(at, scales + super * 8 * kGroupRows, mins + super * 8 * kGroupRows);
  }
}

inline void DecodeRowQ6_K(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float*) {
  for (size_t super = 0; super < blocks / 8; ++super) {
    const auto* at = NextBlock<BlockQ6_K>(data);
    for (size_t half = 0; half < 2; ++half, q += 128) {
      SplitNibbles<8>(at->block.ql + 64 * half, Bytes(128 - 32), q, q + 64);
      uint64_t bits[4], high[16];
      std::memcpy(bits, at->block.qh + 32 * half, 32);
      for (size_t group = 0; group < 4; ++group) {
        for (size_t i = 0; i < 4; ++i) high[group * 4 + i] = ((bits[i] >> (2 * group)) & Bytes(3)) << 4;
      }
      AddWords(q, high, 16);
    }
    const float d = HalfToFloat(at->block.d);
    for (size_t s = 0; s < 16; ++s, scales += kGroupRows)
      *scales = d * static_cast<float>(at->block.scales[s]);
  }
}

// 16 bytes of nibbles to the 32 bytes that they choose.
HWY_INLINE void LookUpNibbles(const uint8_t* from, const ByteLevels& levels, uint8_t* out) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t i = 0; i < 16; ++i) {
    out[i] = levels.bytes[from[i] & 15];
    out[i + 16] = levels.bytes[from[i] >> 4];
  }
#else
  const hn::FixedTag<uint8_t, 16> d;
  const auto table = hn::Load(d, levels.bytes);
  const auto nibbles = hn::LoadU(d, from);
  const auto low = hn::Set(d, 15);
  hn::StoreU(hn::TableLookupBytes(table, hn::And(nibbles, low)), d, out);
  hn::StoreU(hn::TableLookupBytes(table, hn::And(hn::ShiftRight<4>(nibbles), low)), d, out + 16);
#endif
}

inline void DecodeRowMXFP4(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float*) {
  for (size_t b = 0; b < blocks; ++b) {
    const auto* at = NextBlock<BlockMXFP4>(data);
    LookUpNibbles(at->block.qs, kMxfp4Bytes, q + b * 32);
    scales[b * kGroupRows] = PowerOfTwo(at->block.e);
  }
}

inline void DecodeRowIQ4_NL(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float*) {
  for (size_t b = 0; b < blocks; ++b) {
    const auto* at = NextBlock<BlockIQ4_NL>(data);
    LookUpNibbles(at->block.qs, kIq4Bytes, q + b * 32);
    scales[b * kGroupRows] = HalfToFloat(at->block.d);
  }
}

inline void DecodeRowIQ4_XS(const uint8_t* data, size_t blocks, uint8_t* q, float* scales, float*) {
  for (size_t super = 0; super < blocks / 8; ++super) {
    const auto* at = NextBlock<BlockIQ4_XS>(data);
    const float d = HalfToFloat(at->block.d);
    for (int s = 0; s < 8; ++s, q += 32, scales += kGroupRows) {
      LookUpNibbles(at->block.qs + 16 * s, kIq4Bytes, q);
      *scales = d * static_cast<float>(UnpackScaleIQ4_XS(at->block.scales_h, at->block.scales_l, s));
    }
  }
}

inline void DecodeRowChunk(Encoding encoding, const uint8_t* data, size_t blocks, uint8_t* q, float* scales,
                           float* mins) {
  switch (encoding) {
    case Encoding::kQ8_0:
      return DecodeRowQ8_0(data, blocks, q, scales, mins);
    case Encoding::kQ4_0:
      return DecodeRowQ4_0(data, blocks, q, scales, mins);
    case Encoding::kQ4_1:
      return DecodeRowQ4_1(data, blocks, q, scales, mins);
    case Encoding::kQ5_0:
      return DecodeRowQ5_0(data, blocks, q, scales, mins);
    case Encoding::kQ5_1:
      return DecodeRowQ5_1(data, blocks, q, scales, mins);
    case Encoding::kQ2_K:
      return DecodeRowQ2_K(data, blocks, q, scales, mins);
    case Encoding::kQ3_K:
      return DecodeRowQ3_K(data, blocks, q, scales, mins);
    case Encoding::kQ4_K:
      return DecodeRowQ4_K(data, blocks, q, scales, mins);
    case Encoding::kQ5_K:
      return DecodeRowQ5_K(data, blocks, q, scales, mins);
    case Encoding::kMXFP4:
      return DecodeRowMXFP4(data, blocks, q, scales, mins);
    case Encoding::kIQ4_NL:
      return DecodeRowIQ4_NL(data, blocks, q, scales, mins);
    case Encoding::kIQ4_XS:
      return DecodeRowIQ4_XS(data, blocks, q, scales, mins);
    default:
      return DecodeRowQ6_K(data, blocks, q, scales, mins);
  }
}

// rows[16][kMaxChunkCols] bytes to [blocks][8 steps][16 rows][4].
inline void InterleaveRows(const uint8_t* rows, size_t blocks, uint8_t* out) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t step = 0; step < blocks * kStepsPerBlock; ++step) {
    for (size_t row = 0; row < kGroupRows; ++row) {
      std::memcpy(out + (step * kGroupRows + row) * 4, rows + row * kMaxChunkCols + step * 4, 4);
    }
  }
#else
  // Transposes 4 rows x 4 steps of 4-byte units in each 128-bit part.
  const hn::CappedTag<uint32_t, 8> d;
  constexpr size_t kParts = HWY_MIN(HWY_LANES(uint32_t), size_t{8}) / 4;
  for (size_t step = 0; step < blocks * kStepsPerBlock; step += 4 * kParts) {
    for (size_t row = 0; row < kGroupRows; row += 4) {
      const uint8_t* from = rows + row * kMaxChunkCols + step * 4;
      const auto load = [&](size_t i) HWY_ATTR {
        return hn::LoadU(d, reinterpret_cast<const uint32_t*>(from + i * kMaxChunkCols));
      };
      const auto r0 = load(0), r1 = load(1), r2 = load(2), r3 = load(3);
      const auto low02 = hn::InterleaveLower(d, r0, r2), low13 = hn::InterleaveLower(d, r1, r3);
      const auto high02 = hn::InterleaveUpper(d, r0, r2), high13 = hn::InterleaveUpper(d, r1, r3);
      auto* to = reinterpret_cast<uint32_t*>(out + (step * kGroupRows + row) * 4);
      const auto store = [&](auto v, size_t i) HWY_ATTR {
        const hn::CappedTag<uint32_t, 4> d4;
        if constexpr (kParts == 2) {
          hn::StoreU(hn::LowerHalf(d4, v), d4, to + i * kGroupRows);
          hn::StoreU(hn::UpperHalf(d4, v), d4, to + (i + 4) * kGroupRows);
        } else {
          hn::StoreU(v, d4, to + i * kGroupRows);
        }
      };
      store(hn::InterleaveLower(d, low02, low13), 0);
      store(hn::InterleaveUpper(d, low02, low13), 1);
      store(hn::InterleaveLower(d, high02, high13), 2);
      store(hn::InterleaveUpper(d, high02, high13), 3);
    }
  }
#endif
}

// The chunk at column `col` of the group's stored rows. Rows beyond the last repeat it.
inline void UnpackStored(const WeightView& view, size_t group, size_t col, size_t blocks,
                         UnpackScratch& scratch, UnpackedChunk& chunk) {
  const size_t first = group * kGroupRows;
  const uint8_t* data = view.data + EncodedBytes(view.encoding, col);
  for (size_t i = 0; i < kGroupRows; ++i) {
    const size_t row = std::min(first + i, view.num_rows - 1);
    const size_t chunk_bytes = EncodedBytes(view.encoding, blocks * kBlockCols);
    const bool last = col + blocks * kBlockCols >= view.num_cols;
    const size_t next_row = std::min(first + kGroups * kGroupRows + i, view.num_rows - 1);
    PrefetchRange(
        last ? view.data + next_row * view.row_bytes() : data + row * view.row_bytes() + chunk_bytes,
        chunk_bytes);
    DecodeRowChunk(view.encoding, data + row * view.row_bytes(), blocks, scratch.rows + i * kMaxChunkCols,
                   scratch.scales + i, scratch.mins + i);
  }
  InterleaveRows(scratch.rows, blocks, scratch.weights);
  chunk.weights = scratch.weights;
  chunk.scales = scratch.scales;
  chunk.mins = scratch.mins;
  chunk.next = nullptr;
  chunk.next_bytes = 0;
}

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
