// Numbers as people write them: 256M, 1.5G, 10M tokens, 0.8. The one place where text becomes a number.
//
// Nothing is rounded, cut or wrapped around in silence: 9007199254740993 is that number, 2^64 is refused, and
// so are 1.5 tokens, -1 where there is no such thing, nan and inf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace mneme {

// What K, M, G and T behind a whole number mean. K is 1024 everywhere.
enum class Unit : uint8_t {
  kNone,   // not allowed: ids, seeds, layers
  kCount,  // 1024 to the power: 32K is 32,768
  kBytes,  // the same, and B, KB, KiB are understood; part of a byte is dropped: 1.7G
};

// All throw Error(kInput) that names `what`, shows the text, and says what would do. Thread rule: any.

// A whole number from `low` to `high`.
int64_t ParseWhole(std::string_view text, std::string_view what, Unit unit, int64_t low, int64_t high);
uint64_t ParseUnsigned(std::string_view text, std::string_view what, Unit unit, uint64_t low, uint64_t high);
// A finite number from `low` to `high`, both included.
double ParseReal(std::string_view text, std::string_view what, double low, double high);

// "256M", "1.5G", "64KiB", "1000"; at most 2^62.
size_t ParseBytes(std::string_view text, std::string_view what);
// "10M", "32K", "1.5M", "1048576", from 0 to 2^62.
int64_t ParseCount(std::string_view text, std::string_view what);

// "15.9 MiB"; three significant digits.
std::string FormatBytes(size_t bytes);
// As an argument for --memory that is at least `bytes`: "17M".
std::string FormatBytesUp(size_t bytes);
// "1,953,125".
std::string FormatCount(int64_t count);
// "850 ms", "12.3 s", "4 min 05 s", "2 h 10 min".
std::string FormatSeconds(double seconds);

}  // namespace mneme
