// Which instructions the kernels run on here.
#pragma once

namespace mneme {

// As Highway names it: "AVX2", "AVX3_SPR", "NEON". The bits of sums depend on it. Thread rule: any.
const char* SimdTargetName();

}  // namespace mneme
