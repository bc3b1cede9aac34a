// Pools and tables of blocks: what they charge, what they share, what they keep.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kv/block_pool.h"
#include "kv/block_table.h"

namespace mneme {
namespace {

constexpr KvLayout kLayout = {.num_kv_heads = 2,
                              .key_dim = 8,
                              .value_dim = 4,
                              .key_encoding = Encoding::kF32,
                              .value_encoding = Encoding::kF32};

struct World {
  explicit World(size_t cap_blocks = 100) : budget(cap_blocks * kLayout.block_bytes()) {}
  size_t charged() const { return budget.used_bytes() / kLayout.block_bytes(); }
  Budget budget;
  std::shared_ptr<BlockPool> pool = std::make_shared<BlockPool>(kLayout, budget, MemoryTag::kKv);
};

// A value that belongs to a token and to nothing else.
void StoreToken(BlockTable& table, int64_t index, float salt = 0) {
  const std::vector<float> k(2 * 8, static_cast<float>(index) + salt), v(2 * 4, static_cast<float>(-index));
  table.Store(index, k.data(), v.data());
}

float LoadKey(const BlockTable& table, int64_t index) {
  std::vector<float> k(2 * 8);
  table.Load(index, k.data(), nullptr);
  return k[0];
}

void Fill(BlockTable& table, int64_t end, float salt = 0) {
  const int64_t begin = table.end();
  table.Extend(end);
  for (int64_t index = begin; index < end; ++index) StoreToken(table, index, salt);
}

std::string StateOf(const BlockTable& table, int64_t begin) {
  BufferWriter writer;
  table.Save(writer, begin, table.end());
  return writer.buffer();
}

TEST(BlockPool, QuotasAreChargedInFullAndGivenBack) {
  World world(10);
  {
    BlockPool::Quota a = world.pool->Reserve(6, "a");
    EXPECT_EQ(world.charged(), 6u);
    EXPECT_THROW(world.pool->Reserve(5, "b"), Error);
    EXPECT_EQ(world.charged(), 6u);
    a.Grow(2, "more");
    EXPECT_THROW(a.Grow(3, "too much"), Error);
    EXPECT_EQ(a.num_blocks(), 8);
    const BlockPool::Quota moved = std::move(a);
    EXPECT_EQ(moved.num_blocks(), 8);
    EXPECT_EQ(world.charged(), 8u);
  }
  EXPECT_EQ(world.charged(), 0u);
}

TEST(BlockPool, APopulatedSlabIsOneRunAndIsUsedAgain) {
  World world;
  const BlockPool::Quota quota = world.pool->Reserve(4, "four");
  world.pool->Populate(4);
  std::vector<BlockRef> refs;
  for (int i = 0; i < 4; ++i) refs.push_back(world.pool->Take());
  for (int i = 1; i < 4; ++i) EXPECT_EQ(refs[i].get(), refs[0].get() + i * kLayout.block_bytes());
  const uint8_t* third = refs[2].get();
  refs[2].reset();
  EXPECT_EQ(world.pool->Take().get(), third);
  EXPECT_EQ(world.charged(), 4u);
}

TEST(BlockPool, MemoryThatOutlivesItsQuotaStaysCharged) {
  World world(8);
  BlockRef kept;
  {
    const BlockPool::Quota quota = world.pool->Reserve(5, "five");
    world.pool->Populate(5);
    kept = world.pool->Take();
  }
  EXPECT_EQ(world.charged(), 5u);  // its slab is still there
  std::thread([&] { kept.reset(); }).join();
  EXPECT_EQ(world.charged(), 0u);
}

TEST(BlockPool, WhoKeepsBlocksBeyondTheQuotasPaysForThem) {
  World world(2);
  const BlockPool::Quota quota = world.pool->Reserve(1, "one");
  const BlockRef a = world.pool->Take();
  const BlockRef b = world.pool->Take();
  EXPECT_EQ(world.charged(), 2u);
  EXPECT_THROW(world.pool->Take(), Error);
}

TEST(BlockTable, GrowsBehindDropsInFrontAndKeepsItsHead) {
  World world;
  const BlockPool::Quota quota = world.pool->Reserve(BlockTable::NumBlocks(70, 200), "table");
  BlockTable table(world.pool, 70);
  for (int64_t end = 50; end <= 2000; end += 50) {
    Fill(table, end);
    // Within the head nothing goes, so that all of it is one run.
    if (end - 150 > 0) table.DropBefore(end - 150);
    EXPECT_LE(table.NumBlocksAt(end), quota.num_blocks());
    const int64_t first = end - 150 <= 70 ? 0 : end - 150;
    for (int64_t index = first; index < end; ++index) ASSERT_EQ(LoadKey(table, index), index);
    for (int64_t index = 0; index < std::min<int64_t>(end, 70); ++index) {
      ASSERT_EQ(LoadKey(table, index), index);
    }
    const uint8_t* const* blocks = table.Blocks(first / 64);
    for (int64_t block = first / 64; block <= (end - 1) / 64; ++block) {
      ASSERT_EQ(blocks[block - first / 64], table.Ref(block).get()) << end;
    }
    ASSERT_EQ(table.Blocks(0)[0], table.Ref(0).get());
    ASSERT_TRUE(end <= 64 || table.Blocks(0)[1] == table.Ref(1).get());
  }
  EXPECT_EQ(table.tail_begin(), (2000 - 150) / 64 * 64);
  EXPECT_EQ(world.charged(), static_cast<size_t>(quota.num_blocks()));
}

TEST(BlockTable, CutTakesBackAndTheSameTokensFollow) {
  World world;
  const BlockPool::Quota quota = world.pool->Reserve(10, "table");
  BlockTable table(world.pool, 0), straight(world.pool, 0);
  Fill(table, 100);
  Fill(table, 260, 0.5f);
  table.Cut(100);
  EXPECT_EQ(table.end(), 100);
  Fill(table, 200);
  Fill(straight, 200);
  EXPECT_EQ(StateOf(table, 0), StateOf(straight, 0));
}

TEST(BlockTable, SharedBlocksAreCopiedByWhoWritesFirst) {
  World world;
  const BlockPool::Quota quota = world.pool->Reserve(20, "tables");
  BlockTable a(world.pool, 10);
  Fill(a, 200);
  BlockTable b = a.Share();
  EXPECT_EQ(a.Ref(3).get(), b.Ref(3).get());
  Fill(b, 230, 0.25f);
  EXPECT_EQ(a.Ref(2).get(), b.Ref(2).get());
  EXPECT_NE(a.Ref(3).get(), b.Ref(3).get());
  EXPECT_EQ(b.Blocks(3)[0], b.Ref(3).get());
  Fill(a, 230);
  for (int64_t index = 0; index < 200; ++index) ASSERT_EQ(LoadKey(b, index), index);
  for (int64_t index = 200; index < 230; ++index) {
    ASSERT_EQ(LoadKey(a, index), static_cast<float>(index));
    ASSERT_EQ(LoadKey(b, index), static_cast<float>(index) + 0.25f);
  }
  // Rewound into a block that another still reads.
  BlockTable c = a.Share();
  c.Cut(100);
  Fill(c, 130, 0.75f);
  for (int64_t index = 0; index < 230; ++index) ASSERT_EQ(LoadKey(a, index), static_cast<float>(index));
  EXPECT_EQ(LoadKey(c, 99), 99);
  EXPECT_EQ(LoadKey(c, 100), 100.75f);
}

TEST(BlockTable, AHeadThatIsSharedAndShortIsCopiedToo) {
  World world;
  const BlockPool::Quota quota = world.pool->Reserve(20, "tables");
  BlockTable a(world.pool, 4);
  Fill(a, 10);
  BlockTable b = a.Share();
  Fill(b, 20, 0.5f);
  EXPECT_EQ(b.Blocks(0)[0], b.Ref(0).get());
  Fill(b, 400, 0.5f);
  b.DropBefore(300);
  EXPECT_EQ(b.Blocks(0)[0], b.Ref(0).get());
  EXPECT_EQ(LoadKey(b, 3), 3);
  EXPECT_EQ(LoadKey(a, 9), 9);
}

TEST(BlockTable, SavedAndRestoredAtEveryPlace) {
  World world(1000);
  for (const int64_t keep_first : {0, 4, 64, 100}) {
    for (const int64_t end : {0, 1, 63, 64, 65, 128, 300}) {
      for (const int64_t begin : {0, 1, 64, 70, 110, 128, 200}) {
        if (begin > end) continue;
        const BlockPool::Quota quota = world.pool->Reserve(30, "tables");
        BlockTable table(world.pool, keep_first), restored(world.pool, keep_first);
        Fill(table, end);
        if (begin > keep_first) table.DropBefore(begin);
        const std::string state = StateOf(table, begin);
        BufferReader reader(state);
        restored.Restore(reader, begin, end);
        EXPECT_EQ(reader.remaining_bytes(), 0u);
        EXPECT_EQ(StateOf(restored, begin), state) << keep_first << " " << begin << " " << end;
        for (int64_t index = begin; index < end; ++index) ASSERT_EQ(LoadKey(restored, index), index);
        for (int64_t index = 0; index < std::min(keep_first, end); ++index) {
          ASSERT_EQ(LoadKey(restored, index), index);
        }
        Fill(restored, end + 70);
        for (int64_t index = begin; index < end + 70; ++index) ASSERT_EQ(LoadKey(restored, index), index);
      }
    }
  }
}

}  // namespace
}  // namespace mneme
