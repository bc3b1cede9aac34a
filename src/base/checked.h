// Sums and products of sizes that come from users and files: what would overflow is SIZE_MAX, which no budget
// grants and nothing can allocate.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mneme {

constexpr size_t SaturatingAdd(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }
constexpr size_t SaturatingMultiply(size_t a, size_t b) {
  return a != 0 && b > SIZE_MAX / a ? SIZE_MAX : a * b;
}

}  // namespace mneme
