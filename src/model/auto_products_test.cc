#include "model/auto_products.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/test_util.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

TEST(AutoProducts, TakesIntegersWhereTheKernelsHaveTheInstruction) {
  EXPECT_EQ(AutoProductsOn(ProductTarget()) == FloatProducts::kInt16, HasFastInt16Products())
      << "the table is wrong of " << ProductTarget();
  EXPECT_EQ(AutoProductsOn("AVX9"), FloatProducts::kFloat32);
  for (const AutoProductsRow& row : AutoProductsTable()) {
    EXPECT_EQ(AutoProductsOn(row.target), row.products);
    EXPECT_NE(row.products, FloatProducts::kBFloat16) << row.target << " loses too much";
  }
}

TEST(AutoProducts, WhatAStateHasComesFirst) {
  EXPECT_EQ(AutoProducts(Encoding::kF16, "f16:int16,f32:packed"), FloatProducts::kInt16);
  EXPECT_EQ(AutoProducts(Encoding::kF16, "f16:file,f16:int16"), FloatProducts::kInt16);
  EXPECT_EQ(AutoProducts(Encoding::kF16, "bf16:int16,f16:packed"), FloatProducts::kFloat32);
  EXPECT_EQ(AutoProducts(Encoding::kF32, "f32:packed"), FloatProducts::kFloat32);
  EXPECT_EQ(AutoProducts(Encoding::kF32, ""), FloatProducts::kFloat32);
  // What it does not name is chosen as ever.
  EXPECT_EQ(AutoProducts(Encoding::kF16, "bf16:packed"), AutoProductsOn(ProductTarget()));
}

// As on a machine whose `auto` is the other one.
TEST(AutoProducts, AModelIsLoadedWithTheArithmeticOfAState) {
  TemporaryFolder folder;
  const std::vector<TokenId> ids = {1, 300, 5, 77, 511, 0, 9, 12, 400, 33, 2, 8, 90, 14, 15};
  const std::string path = WriteTiny(folder, Encoding::kF16);
  CpuDevice device(1);
  for (const bool is_int16 : {false, true}) {
    const std::string products = is_int16 ? "f16:int16" : "f16:packed";
    const auto model = LoadedModel::Load(path, {.products = products}, device);
    EXPECT_EQ(model->pack(), PackMode::kAuto);
    EXPECT_EQ(model->products(), products);
    EXPECT_EQ(model->notes().empty(), is_int16 == HasFastInt16Products());
    const auto typed = LoadModel(path, is_int16 ? PackMode::kInt16 : PackMode::kFloat32);
    EXPECT_EQ(EngineLogits(*model, ids), EngineLogits(*typed, ids));
  }
}

}  // namespace
}  // namespace mneme
