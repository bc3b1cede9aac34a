#include "model/auto_products.h"

#include <algorithm>
#include <array>
#include <string>

#include "kernels/simd/target.h"

namespace mneme {
namespace {

// Processors with an instruction that multiplies pairs of 16-bit integers and adds them (AVX-512 VNNI: Ice
// Lake, Zen 4 and later) do twice the multiplications of float32 with it. Without it pairs are multiplied and
// then added, at the rate of float32 and with the work of rounding beside it.
constexpr std::array kTable = {
    AutoProductsRow{"AVX3_VNNI", FloatProducts::kInt16}, AutoProductsRow{"AVX3", FloatProducts::kFloat32},
    AutoProductsRow{"AVX2", FloatProducts::kFloat32},    AutoProductsRow{"SSE4", FloatProducts::kFloat32},
    AutoProductsRow{"NEON", FloatProducts::kFloat32},
};

}  // namespace

std::span<const AutoProductsRow> AutoProductsTable() { return kTable; }

std::string_view ProductTarget() { return HasFastInt16Products() ? "AVX3_VNNI" : SimdTargetName(); }

FloatProducts AutoProductsOn(std::string_view target) {
  const auto row = std::ranges::find(kTable, target, &AutoProductsRow::target);
  return row == kTable.end() ? FloatProducts::kFloat32 : row->products;
}

FloatProducts AutoProducts(Encoding encoding, std::string_view saved) {
  const std::string list = "," + std::string(saved) + ",";
  const std::string name = "," + std::string(EncodingName(encoding)) + ":";
  if (list.find(name + "int16,") != std::string::npos) return FloatProducts::kInt16;
  if (list.find(name) != std::string::npos || encoding == Encoding::kF32) return FloatProducts::kFloat32;
  return AutoProductsOn(ProductTarget());
}

std::string_view FloatProductsName(FloatProducts products) {
  switch (products) {
    case FloatProducts::kInt16:
      return "int16";
    case FloatProducts::kBFloat16:
      return "bf16";
    case FloatProducts::kFloat32:
      break;
  }
  return "float32";
}

}  // namespace mneme
