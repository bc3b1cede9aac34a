#include "kernels/attend/kv_block.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/half.h"
#include "kernels/attend/attend.h"
#include "kernels/pointwise/elementwise.h"

namespace mneme {
namespace {

constexpr size_t kMaxKvDim = size_t{1} << 20;
constexpr size_t kMaxKvHeads = size_t{1} << 20;

size_t DataBytes(Encoding encoding, size_t num_values) {
  switch (encoding) {
    case Encoding::kF32:
      return num_values * 4;
    case Encoding::kF16:
    case Encoding::kBF16:
      return num_values * 2;
    case Encoding::kQ8_0:
      return num_values;
    default:
      return num_values / 2;
  }
}

size_t KeyBytes(const KvLayout& layout) {
  const size_t dim = layout.key_encoding == Encoding::kBF16 ? (layout.key_dim + 1) / 2 * 2 : layout.key_dim;
  return DataBytes(layout.key_encoding, dim * kBlockTokens);
}

size_t ValueBytes(const KvLayout& layout) {
  if (layout.values_in_keys) return 0;
  const bool reach = layout.value_encoding == Encoding::kBF16 && layout.value_dim % 16 != 0;
  return DataBytes(layout.value_encoding, layout.value_dim * kBlockTokens) + (reach ? 64 : 0);
}

size_t ScaleBytes(Encoding encoding, size_t dim) {
  return HasScales(encoding) ? NumKvGroups(dim) * kBlockTokens * sizeof(uint16_t) : 0;
}

size_t ValueScaleBytes(const KvLayout& layout) {
  return layout.values_in_keys ? 0 : ScaleBytes(layout.value_encoding, layout.value_dim);
}

void CheckOne(const char* name, Encoding encoding, size_t dim) {
  switch (encoding) {
    case Encoding::kF32:
    case Encoding::kF16:
    case Encoding::kBF16:
    case Encoding::kQ8_0:
      break;
    case Encoding::kQ4_0:
      if (dim % 2 != 0) {
        Fail(ErrorKind::kUnsupported,
             "a q4_0 cache packs two dimensions per byte, and this model's {} heads have {}: use q8_0 or f16",
             name, dim);
      }
      break;
    default:
      Fail(ErrorKind::kUnsupported, "the cache cannot hold {}s as {}: use f32, f16, bf16, q8_0 or q4_0", name,
           EncodingName(encoding));
  }
  if (dim == 0 || dim > kMaxKvDim) {
    Fail(ErrorKind::kUnsupported, "{} heads of {} dimensions are outside [1, {}]", name, dim, kMaxKvDim);
  }
}

// Where value `index` of a token's head lies: element number in the array of one slot, counted in the units
// of the encoding, and for q4_0 which nibble.
struct Place {
  size_t offset = 0;  // elements of the encoding; bytes for q4_0
  bool high = false;
};

Place KeyPlace(Encoding encoding, size_t slot, size_t index) {
  if (encoding == Encoding::kQ4_0) return {index / 2 * kBlockTokens + slot, index % 2 == 1};
  if (encoding == Encoding::kBF16) return {index / 2 * 2 * kBlockTokens + 2 * slot + index % 2, false};
  return {index * kBlockTokens + slot, false};
}

Place ValuePlace(Encoding encoding, size_t dim, size_t slot, size_t index) {
  if (encoding == Encoding::kBF16) return {slot / 2 * 2 * dim + 2 * index + slot % 2, false};
  if (encoding != Encoding::kQ4_0) return {slot * dim + index, false};
  const size_t group_begin = index / kKvGroup * kKvGroup;
  const size_t half = std::min(kKvGroup, dim - group_begin) / 2;
  const size_t in_group = index - group_begin;
  const size_t row = slot * (dim / 2) + group_begin / 2;
  return {row + (in_group < half ? in_group : in_group - half), in_group >= half};
}

void WriteInteger(Encoding encoding, uint8_t* data, Place place, int value) {
  if (encoding == Encoding::kQ8_0) {
    data[place.offset] = static_cast<uint8_t>(static_cast<int8_t>(value));
    return;
  }
  const uint8_t nibble = static_cast<uint8_t>(value + 8);
  uint8_t& byte = data[place.offset];
  byte = place.high ? static_cast<uint8_t>((byte & 0x0F) | (nibble << 4))
                    : static_cast<uint8_t>((byte & 0xF0) | nibble);
}

int ReadInteger(Encoding encoding, const uint8_t* data, Place place) {
  const uint8_t byte = data[place.offset];
  if (encoding == Encoding::kQ8_0) return static_cast<int8_t>(byte);
  return (place.high ? byte >> 4 : byte & 15) - 8;
}

void WriteFloat(Encoding encoding, uint8_t* data, size_t offset, float value) {
  if (encoding == Encoding::kF32) {
    std::memcpy(data + offset * 4, &value, 4);
    return;
  }
  const uint16_t bits = encoding == Encoding::kF16 ? F32ToF16(value) : F32ToBF16(value);
  std::memcpy(data + offset * 2, &bits, 2);
}

float ReadFloat(Encoding encoding, const uint8_t* data, size_t offset) {
  if (encoding == Encoding::kF32) {
    float value;
    std::memcpy(&value, data + offset * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + offset * 2, 2);
  return encoding == Encoding::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

// The float16 scale of a group: q8_0 maps the largest magnitude to 127; q4_0 maps the value of largest
// magnitude, sign included, to -8, as the GGUF block of that name does.
uint16_t GroupScale(Encoding encoding, const float* values, size_t count) {
  float extreme = 0;
  for (size_t i = 0; i < count; ++i) {
    if (std::isfinite(values[i]) && std::abs(values[i]) > std::abs(extreme)) extreme = values[i];
  }
  const float scale = encoding == Encoding::kQ8_0 ? std::abs(extreme) / 127.0f : extreme / -8.0f;
  return F32ToF16(std::clamp(scale, -65504.0f, 65504.0f));
}

template <class PlaceOf>
void StoreHalves(const float* values, size_t dim, uint8_t* data, const PlaceOf& place_of) {
  constexpr size_t kRun = 128;
  std::array<uint16_t, kRun> halves;
  for (size_t begin = 0; begin < dim; begin += kRun) {
    const size_t count = std::min(kRun, dim - begin);
    RoundToHalves(values + begin, count, halves.data());
    for (size_t i = 0; i < count; ++i) std::memcpy(data + place_of(begin + i).offset * 2, &halves[i], 2);
  }
}

template <class PlaceOf>
void StoreHead(Encoding encoding, const float* values, size_t dim, size_t slot, uint8_t* data,
               uint8_t* scales, const PlaceOf& place_of) {
  if (encoding == Encoding::kF16) return StoreHalves(values, dim, data, place_of);
  if (!HasScales(encoding)) {
    for (size_t i = 0; i < dim; ++i) WriteFloat(encoding, data, place_of(i).offset, values[i]);
    return;
  }
  const float low = encoding == Encoding::kQ8_0 ? -127.0f : -8.0f;
  const float high = encoding == Encoding::kQ8_0 ? 127.0f : 7.0f;
  for (size_t begin = 0; begin < dim; begin += kKvGroup) {
    const size_t end = std::min(dim, begin + kKvGroup);
    const uint16_t bits = GroupScale(encoding, values + begin, end - begin);
    std::memcpy(scales + (begin / kKvGroup * kBlockTokens + slot) * 2, &bits, 2);
    const float scale = F16ToF32(bits);
    const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
    for (size_t i = begin; i < end; ++i) {
      const float scaled = std::isfinite(values[i]) ? values[i] * inverse : 0.0f;
      WriteInteger(encoding, data, place_of(i),
                   static_cast<int>(std::nearbyint(std::clamp(scaled, low, high))));
    }
  }
}

template <class PlaceOf>
void LoadHead(Encoding encoding, const uint8_t* data, const uint8_t* scales, size_t dim, size_t slot,
              float* out, const PlaceOf& place_of) {
  for (size_t i = 0; i < dim; ++i) {
    const Place place = place_of(i);
    if (!HasScales(encoding)) {
      out[i] = ReadFloat(encoding, data, place.offset);
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, scales + (i / kKvGroup * kBlockTokens + slot) * 2, 2);
    out[i] = F16ToF32(bits) * static_cast<float>(ReadInteger(encoding, data, place));
  }
}

template <class PlaceOf>
void CopyHead(Encoding encoding, size_t dim, const uint8_t* from, const uint8_t* from_scales,
              size_t from_slot, uint8_t* to, uint8_t* to_scales, size_t to_slot, const PlaceOf& place_of) {
  for (size_t i = 0; i < dim; ++i) {
    const Place source = place_of(from_slot, i);
    const Place target = place_of(to_slot, i);
    if (encoding == Encoding::kQ4_0) {
      WriteInteger(encoding, to, target, ReadInteger(encoding, from, source));
    } else {
      const size_t bytes = DataBytes(encoding, 1);
      std::memcpy(to + target.offset * bytes, from + source.offset * bytes, bytes);
    }
  }
  if (!HasScales(encoding)) return;
  for (size_t group = 0; group < NumKvGroups(dim); ++group) {
    std::memcpy(to_scales + (group * kBlockTokens + to_slot) * 2,
                from_scales + (group * kBlockTokens + from_slot) * 2, 2);
  }
}

}  // namespace

KvSection::KvSection(const KvLayout& layout)
    : key_scales(KeyBytes(layout)),
      values(key_scales + ScaleBytes(layout.key_encoding, layout.key_dim)),
      value_scales(values + ValueBytes(layout)),
      bytes(value_scales + ValueScaleBytes(layout)) {}

size_t KvLayout::block_bytes() const { return num_kv_heads * KvSection(*this).bytes; }

bool CanKeepValuesInKeys(Encoding encoding, size_t key_dim, size_t value_dim) {
  return value_dim <= key_dim && (!HasScales(encoding) || (key_dim - value_dim) % kKvGroup == 0);
}

void CheckKvLayout(const KvLayout& layout) {
  CheckOne("key", layout.key_encoding, layout.key_dim);
  CheckOne("value", layout.value_encoding, layout.value_dim);
  MNEME_CHECK(!layout.values_in_keys ||
              (layout.key_encoding == layout.value_encoding &&
               CanKeepValuesInKeys(layout.key_encoding, layout.key_dim, layout.value_dim)));
  if (layout.num_kv_heads == 0 || layout.num_kv_heads > kMaxKvHeads) {
    Fail(ErrorKind::kUnsupported, "{} key/value heads are outside [1, {}]", layout.num_kv_heads, kMaxKvHeads);
  }
}

void KvStoreHead(const KvLayout& layout, uint8_t* block, size_t slot, size_t kv_head, const float* k,
                 const float* v) {
  MNEME_CHECK(slot < kBlockTokens && kv_head < layout.num_kv_heads);
  const KvSection section(layout);
  block += kv_head * section.bytes;
  StoreHead(layout.key_encoding, k, layout.key_dim, slot, block + section.keys, block + section.key_scales,
            [&](size_t i) { return KeyPlace(layout.key_encoding, slot, i); });
  if (!layout.values_in_keys) {
    StoreHead(layout.value_encoding, v, layout.value_dim, slot, block + section.values,
              block + section.value_scales,
              [&](size_t i) { return ValuePlace(layout.value_encoding, layout.value_dim, slot, i); });
  }
  if (layout.key_encoding == Encoding::kBF16 && layout.key_dim % 2 != 0) {  // the last pair's other half
    const Place place = KeyPlace(Encoding::kBF16, slot, layout.key_dim);
    WriteFloat(Encoding::kBF16, block + section.keys, place.offset, 0.0f);
  }
}

void KvStore(const KvLayout& layout, uint8_t* block, size_t slot, const float* k, const float* v) {
  for (size_t head = 0; head < layout.num_kv_heads; ++head)
    KvStoreHead(layout, block, slot, head, k + head * layout.key_dim, v + head * layout.value_dim);
}

void KvLoad(const KvLayout& layout, const uint8_t* block, size_t slot, float* k, float* v) {
  MNEME_CHECK(slot < kBlockTokens);
  const KvSection section(layout);
  for (size_t head = 0; head < layout.num_kv_heads; ++head, block += section.bytes) {
    if (k != nullptr) {
      LoadHead(layout.key_encoding, block + section.keys, block + section.key_scales, layout.key_dim, slot,
               k + head * layout.key_dim, [&](size_t i) { return KeyPlace(layout.key_encoding, slot, i); });
    }
    if (v != nullptr && layout.values_in_keys) {
      LoadHead(layout.key_encoding, block + section.keys, block + ValueKeyScales(layout, section),
               layout.value_dim, slot, v + head * layout.value_dim,
               [&](size_t i) { return KeyPlace(layout.key_encoding, slot, FirstValueKey(layout) + i); });
    } else if (v != nullptr) {
      LoadHead(layout.value_encoding, block + section.values, block + section.value_scales, layout.value_dim,
               slot, v + head * layout.value_dim,
               [&](size_t i) { return ValuePlace(layout.value_encoding, layout.value_dim, slot, i); });
    }
  }
}

void KvCopy(const KvLayout& layout, const uint8_t* from, size_t from_slot, uint8_t* to, size_t to_slot) {
  MNEME_CHECK(from_slot < kBlockTokens && to_slot < kBlockTokens);
  const KvSection section(layout);
  for (size_t head = 0; head < layout.num_kv_heads; ++head) {
    CopyHead(layout.key_encoding, layout.key_dim, from + section.keys, from + section.key_scales, from_slot,
             to + section.keys, to + section.key_scales, to_slot,
             [&](size_t slot, size_t i) { return KeyPlace(layout.key_encoding, slot, i); });
    if (!layout.values_in_keys) {
      CopyHead(layout.value_encoding, layout.value_dim, from + section.values, from + section.value_scales,
               from_slot, to + section.values, to + section.value_scales, to_slot,
               [&](size_t slot, size_t i) {
                 return ValuePlace(layout.value_encoding, layout.value_dim, slot, i);
               });
    }
    from += section.bytes;
    to += section.bytes;
  }
}

void KvClear(const KvLayout& layout, uint8_t* block) { std::memset(block, 0, layout.block_bytes()); }

}  // namespace mneme
