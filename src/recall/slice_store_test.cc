#include "recall/slice_store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "base/error.h"
#include "kernels/attend/attend.h"
#include "recall/store_test_util.h"

namespace mneme {
namespace {

constexpr SliceLayout kLayout = testing::kTestSlices;

bool IsAsFilled(const SliceStore& store, int64_t number, int marks = 0) {
  uint8_t record[kLayout.record_bytes];
  TokenId tokens[kBlockTokens];
  return store.Read(number, record, tokens) && record[0] == static_cast<uint8_t>(number % 251 + marks) &&
         record[kLayout.record_bytes - 1] == record[0] &&
         store.Keys(number)[kLayout.key_bytes - 1] == static_cast<uint8_t>(number % 241 + marks) &&
         tokens[kBlockTokens - 1] == static_cast<TokenId>(number * 64) + marks;
}

TEST(SliceStore, TheOldestGoInWholeSegmentsAndTheBytesAreThoseReserved) {
  Budget budget;
  SliceStore store(kLayout, 3, 40, budget);
  EXPECT_EQ(budget.used_bytes(), SliceStore::PeakBytes(kLayout, 40));
  EXPECT_EQ(SliceStore::PeakBytes(kLayout, 40), 48 * kLayout.slice_bytes());
  for (int i = 0; i < 500; ++i) {
    testing::AddSlice(&store);
    EXPECT_EQ(store.end(), 4 + i);
    EXPECT_GE(store.end() - store.begin(), std::min<int64_t>(i + 1, 33));
    EXPECT_LE(store.end() - store.begin(), 48);
    for (int64_t number = store.begin(); number < store.end(); ++number) {
      ASSERT_TRUE(IsAsFilled(store, number)) << number;
    }
  }
}

TEST(SliceStore, CopiesShareUntilTheyAdd) {
  Budget budget;
  SliceStore store(kLayout, 0, 64, budget);
  for (int i = 0; i < 21; ++i) testing::AddSlice(&store);
  SliceStore copy = store.Share();
  EXPECT_EQ(copy.Keys(20), store.Keys(20));
  for (int i = 0; i < 60; ++i) {
    testing::AddSlice(&store);
    testing::AddSlice(&copy, 1);
  }
  EXPECT_EQ(copy.begin(), store.begin());
  for (int64_t number = store.begin(); number < store.end(); ++number) {
    EXPECT_TRUE(IsAsFilled(store, number));
    EXPECT_TRUE(IsAsFilled(copy, number, number < 21 ? 0 : 1));
  }
}

TEST(SliceStore, AStateBringsItBackAndAHostileOneIsRefused) {
  Budget budget;
  SliceStore store(kLayout, 2, 32, budget);
  for (int i = 0; i < 77; ++i) testing::AddSlice(&store);
  BufferWriter writer;
  store.Save(writer);
  SliceStore restored(kLayout, 2, 32, budget);
  BufferReader reader(writer.buffer());
  restored.Restore(reader);
  EXPECT_EQ(reader.remaining_bytes(), 0u);
  EXPECT_EQ(restored.begin(), store.begin());
  EXPECT_EQ(restored.end(), store.end());
  for (int i = 0; i < 20; ++i) testing::AddSlice(&restored);
  for (int64_t number = restored.begin(); number < restored.end(); ++number) {
    EXPECT_TRUE(IsAsFilled(restored, number));
  }
  for (const auto& [begin, end] :
       {std::pair<int64_t, int64_t>(0, 5), {3, 5}, {18, 2}, {2, 200}, {2, INT64_MAX}}) {
    BufferWriter hostile;
    hostile.Put(begin);
    hostile.Put(end);
    hostile.buffer() += std::string(4096, 'x');
    BufferReader bad(hostile.buffer());
    SliceStore fresh(kLayout, 2, 32, budget);
    EXPECT_THROW(fresh.Restore(bad), Error) << begin << " " << end;
  }
}

}  // namespace
}  // namespace mneme
