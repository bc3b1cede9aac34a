#include "bench/products.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "bench/report.h"

namespace mneme {
namespace {

ProductRates Rates(double float32, double int16) {
  ProductRates rates;
  const auto add = [&rates](FloatProducts products, double rate) {
    rates.rows.push_back({.products = products, .ops = {.one_thread = rate, .all_threads = 2 * rate}});
  };
  add(FloatProducts::kFloat32, float32);
  add(FloatProducts::kBFloat16, 10 * float32);  // never chosen, however fast
  add(FloatProducts::kInt16, int16);
  return rates;
}

TEST(Products, TheTableIsWrongWhereTheOtherArithmeticIsClearlyFaster) {
  for (const char* target : {"AVX3_VNNI", "AVX2"}) {
    const bool takes_int16 = std::string(target) == "AVX3_VNNI";
    const auto judge = [&](double taken, double other) {
      return JudgeAuto(target, takes_int16 ? Rates(other, taken) : Rates(taken, other));
    };
    EXPECT_TRUE(judge(2e11, 1e11).agrees);
    EXPECT_DOUBLE_EQ(judge(2e11, 1e11).gain, 2);
    EXPECT_NE(VerdictText(judge(2e11, 1e11)).find("right here"), std::string::npos);
    EXPECT_TRUE(judge(1e11, 1.05e11).agrees) << "measurements differ by as much";
    EXPECT_FALSE(judge(1e11, 2e11).agrees);
    const std::string wrong = VerdictText(judge(1e11, 2e11));
    EXPECT_NE(wrong.find("WRONG HERE"), std::string::npos);
    EXPECT_NE(wrong.find(takes_int16 ? "--pack float32" : "--pack int16"), std::string::npos) << wrong;
  }
}

TEST(Products, EveryArithmeticIsMeasuredOnItsKernel) {
  CpuDevice device(2);
  const ProductRates rates = MeasureProducts(device, 0.01);
  ASSERT_EQ(rates.rows.size(), 4u);
  for (const ProductRate& row : rates.rows) {
    EXPECT_GT(row.ops.one_thread, 1e6);
    EXPECT_LT(row.ops.all_threads, 1e15);
  }
  MachineLimits limits;
  limits.num_threads = 2;
  EXPECT_EQ(ProductsTable(limits, rates).size(), 5u);
  const auto json = ProductsJson(rates, JudgeAuto("AVX2", rates));
  EXPECT_EQ(json["auto"]["takes"], "float32");
  EXPECT_EQ(json["products"].size(), 4u);
  EXPECT_EQ(json["products"][2]["as"], "int16");
}

}  // namespace
}  // namespace mneme
