#include "kernels/choose/choose.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attend/attend.h"
#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/choose/choose.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
//
#include "hwy/highway.h"
#include "kernels/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace {

// Queries that share the decoding of keys.
constexpr size_t kQueries = 4;
// Slices of a task.
constexpr size_t kTaskSlices = 16;

// Two vectors of tokens against a few queries.
void ScoreTokens(const int8_t* keys, size_t key_dim, const float* const* q, VF* HWY_RESTRICT sums) {
  const DF d;
  const hn::Rebind<int8_t, DF> d8;
  const hn::RebindToSigned<DF> d32;
  VF low[kQueries], high[kQueries];
  for (size_t i = 0; i < kQueries; ++i) low[i] = high[i] = hn::Zero(d);
  for (size_t dim = 0; dim < key_dim; ++dim, keys += kBlockTokens) {
    const VF first = hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, keys)));
    const VF second = hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, keys + kLanes)));
    for (size_t i = 0; i < kQueries; ++i) {
      const VF query = hn::Set(d, q[i][dim]);
      low[i] = hn::MulAdd(query, first, low[i]);
      high[i] = hn::MulAdd(query, second, high[i]);
    }
  }
  for (size_t i = 0; i < kQueries; ++i) {
    sums[2 * i] = low[i];
    sums[2 * i + 1] = high[i];
  }
}

void ScoreSlice(const ScoreCall& call, size_t slice) {
  const DF d;
  const auto* const keys = reinterpret_cast<const int8_t*>(call.slices[slice] + call.offset);
  const auto* const scales = reinterpret_cast<const float*>(keys + call.key_dim * kBlockTokens);
  const auto first_token = static_cast<float>(call.first_tokens[slice]);
  const VF none = hn::Set(d, -3.4e38f);
  for (size_t first = 0; first < call.num_queries; first += kQueries) {
    const size_t count = std::min(kQueries, call.num_queries - first);
    const float* q[kQueries];
    VF largest[kQueries];
    for (size_t i = 0; i < kQueries; ++i) {
      q[i] = call.q + (first + std::min(i, count - 1)) * call.key_dim;
      largest[i] = none;
    }
    for (size_t token = 0; token < kBlockTokens; token += 2 * kLanes) {
      VF sums[2 * kQueries];
      ScoreTokens(keys + token, call.key_dim, q, sums);
      for (size_t part = 0; part < 2; ++part) {
        const size_t at = token + part * kLanes;
        const VF scale = hn::LoadU(d, scales + at);
        const auto counts = hn::Ge(hn::Iota(d, static_cast<float>(at)), hn::Set(d, first_token));
        for (size_t i = 0; i < kQueries; ++i) {
          const VF product = hn::Mul(sums[2 * i + part], scale);
          largest[i] = hn::Max(largest[i], hn::IfThenElse(counts, product, none));
        }
      }
    }
    for (size_t i = 0; i < count; ++i) {
      call.out[(first + i) * call.slices.size() + slice] = hn::GetLane(hn::MaxOfLanes(d, largest[i]));
    }
  }
}

void ScoreAll(const ScoreCall& call, ThreadPool& pool) {
  static_assert(kBlockTokens % (2 * kLanes) == 0);
  const size_t num_tasks = (call.slices.size() + kTaskSlices - 1) / kTaskSlices;
  pool.Run(num_tasks, [&](size_t task, size_t) {
    const size_t end = std::min(call.slices.size(), (task + 1) * kTaskSlices);
    for (size_t slice = task * kTaskSlices; slice < end; ++slice) ScoreSlice(call, slice);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {

HWY_EXPORT(ScoreAll);

size_t ChoiceKeyBytes(size_t key_dim) { return key_dim * kBlockTokens + kBlockTokens * sizeof(float); }

void PackChoiceKeys(const float* keys, size_t stride, size_t key_dim, uint8_t* out) {
  auto* const packed = reinterpret_cast<int8_t*>(out);
  uint8_t* const scales = out + key_dim * kBlockTokens;
  for (size_t token = 0; token < kBlockTokens; ++token) {
    const float* const key = keys + token * stride;
    float largest = 0;
    for (size_t i = 0; i < key_dim; ++i) {
      if (std::isfinite(key[i])) largest = std::max(largest, std::abs(key[i]));
    }
    const float scale = largest / 127.0f;
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (size_t i = 0; i < key_dim; ++i) {
      const float value = std::isfinite(key[i]) && std::isfinite(inverse) ? key[i] * inverse : 0.0f;
      packed[i * kBlockTokens + token] = static_cast<int8_t>(std::lrint(std::clamp(value, -127.0f, 127.0f)));
    }
    std::memcpy(scales + token * sizeof(float), &scale, sizeof(float));
  }
}

void ScoreSlices(const ScoreCall& call, ThreadPool& pool) {
  if (call.num_queries == 0 || call.slices.empty()) return;
  HWY_DYNAMIC_DISPATCH(ScoreAll)(call, pool);
}

}  // namespace mneme
#endif  // HWY_ONCE
