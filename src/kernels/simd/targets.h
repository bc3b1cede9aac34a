// Which SIMD targets the kernels are compiled for. Include before hwy/highway.h and hwy/foreach_target.h.
//
// AVX-512, AVX2, SSE4, NEON and Highway's portable baseline. Kernels keep arrays of vectors in registers,
// which length-agnostic targets (SVE, RVV) do not allow; those machines run NEON or the baseline.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MNEME_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MNEME_SANITIZED 1
#endif
#endif

// Unrolls the small loops over a register tile, which keeps arrays of vectors in registers. Sanitized builds
// leave them as loops: instrumenting the unrolled code takes a compiler ten minutes.
#if defined(MNEME_SANITIZED)
#define MNEME_UNROLL
#elif defined(__clang__)
#define MNEME_UNROLL _Pragma("unroll")
#else
#define MNEME_UNROLL _Pragma("GCC unroll 8")
#endif

#ifndef HWY_DISABLED_TARGETS
#define MNEME_NEVER_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#if defined(MNEME_SANITIZED)
#define HWY_DISABLED_TARGETS (MNEME_NEVER_TARGETS | HWY_SSE4)
#else
#define HWY_DISABLED_TARGETS MNEME_NEVER_TARGETS
#endif
#endif
