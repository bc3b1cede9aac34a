// How `auto` multiplies float weights: a table by the instructions that the kernels run on.
//
// It is no measurement. The choice decides bits, and one that was measured while the machine was busy would
// differ from the next: two runs of one command would write two texts. So it is made once, for kinds of
// processors, and `mneme bench --machine` measures the same kernels and says whether the table is right
// where it runs. Rounding both sides to bfloat16 is never chosen: it loses too much, however fast it is.
#pragma once

#include <span>
#include <string_view>

#include "base/types.h"
#include "kernels/linear/linear.h"

namespace mneme {

struct AutoProductsRow {
  std::string_view target;  // ProductTarget()
  FloatProducts products = FloatProducts::kFloat32;
};
std::span<const AutoProductsRow> AutoProductsTable();

// What products run on here: SimdTargetName(), or "AVX3_VNNI" with the instruction for pairs of 16-bit
// integers, which Highway's names do not tell of every program.
std::string_view ProductTarget();

// For F16 and BF16 weights on a target: its row; float32 on one that has none.
FloatProducts AutoProductsOn(std::string_view target);

// For float weights of an encoding under `--pack auto` here. `saved`: as ModelOptions::products.
FloatProducts AutoProducts(Encoding encoding, std::string_view saved);

// "float32", "bf16" or "int16".
std::string_view FloatProductsName(FloatProducts products);

}  // namespace mneme
