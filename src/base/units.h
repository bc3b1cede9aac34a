// Numbers as people write them: 256M, 1.5G, 10M tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mneme {

// "256M", "1.5G", "64KiB", "1000": powers of 1024. Throws Error(kInput) naming `what` for anything else,
// negative or above 2^62.
size_t ParseBytes(std::string_view text, std::string_view what);
// "10M", "32K", "1.5M", "1048576": K, M, G mean powers of 1024 when binary is true (lengths: 32K = 32768), of
// 1000 otherwise.
int64_t ParseCount(std::string_view text, std::string_view what, bool binary = false);
// "15.9 MiB"; three significant digits.
std::string FormatBytes(size_t bytes);
// As an argument for --memory that is at least `bytes`: "17M".
std::string FormatBytesUp(size_t bytes);
// "1,953,125".
std::string FormatCount(int64_t count);
// "850 ms", "12.3 s", "4 min 05 s", "2 h 10 min".
std::string FormatSeconds(double seconds);

}  // namespace mneme
