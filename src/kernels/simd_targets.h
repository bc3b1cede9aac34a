// Which SIMD targets the kernels are compiled for. Include before hwy/highway.h and hwy/foreach_target.h.
//
// AVX-512, AVX2, SSE4, NEON and Highway's portable baseline. Kernels keep arrays of vectors in registers,
// which length-agnostic targets (SVE, RVV) do not allow; those machines run NEON or the baseline.
#pragma once

#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
