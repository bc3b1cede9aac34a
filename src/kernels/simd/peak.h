// Loops that do what a processor does best and nothing else: what kernels are measured against. Each runs
// `rounds` times on one thread and returns how many operations it did, a multiply-add as two. sink [3]:
// sink[0] and sink[1] are operands, sink[2] takes the result, so that no compiler leaves the work out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mneme::peak {

double Fp32Ops(size_t rounds, float* sink);
double Int8Ops(size_t rounds, float* sink);   // 8-bit products into int32, as products with weights do them
double Int16Ops(size_t rounds, float* sink);  // pairs of 16-bit products into int32
double Bf16Ops(size_t rounds, float* sink);   // pairs of bfloat16 into float32; only where HasBf16()
bool HasBf16();

// Reads [data, data + bytes), a multiple of 4 KiB, and returns some function of it.
uint64_t Read(const uint8_t* data, size_t bytes);

}  // namespace mneme::peak
