// Slices whose bytes their number decides.
#pragma once

#include <cstring>

#include "kernels/attend/attend.h"
#include "recall/slice_store.h"

namespace mneme::testing {

inline constexpr SliceLayout kTestSlices{.record_bytes = 192, .key_bytes = 64};

// Appends slice end(); those with other marks have other bytes.
inline void AddSlice(SliceStore* store, int marks = 0) {
  const int64_t number = store->end();
  const SliceStore::Slice slice = store->Append();
  std::memset(slice.record, static_cast<int>(number % 251) + marks, kTestSlices.record_bytes);
  std::memset(slice.keys, static_cast<int>(number % 241) + marks, kTestSlices.key_bytes);
  for (size_t i = 0; i < kBlockTokens; ++i) slice.tokens[i] = static_cast<TokenId>(number * 64) + marks;
  store->Commit();
}

}  // namespace mneme::testing
