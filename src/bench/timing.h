// The rule of every measurement of this folder: the median of a few runs, and how far they lie apart.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace mneme {

using Clock = std::chrono::steady_clock;

inline double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Timing {
  double median_seconds = 0;
  double spread = 0;  // (largest - smallest) / median
};

// `seconds` is not empty.
inline Timing MedianOf(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  return {median, median > 0 ? (seconds.back() - seconds.front()) / median : 0};
}

// Of run(), again and again for about `seconds` and at least three times, after one that warms caches and
// pages.
template <typename Run>
Timing TimeRuns(double seconds, const Run& run) {
  constexpr size_t kMinRuns = 3;
  constexpr size_t kMaxRuns = 100'000;
  run();
  std::vector<double> runs;
  const Clock::time_point start = Clock::now();
  while (runs.size() < kMinRuns || (runs.size() < kMaxRuns && SecondsSince(start) < seconds)) {
    const Clock::time_point begin = Clock::now();
    run();
    runs.push_back(SecondsSince(begin));
  }
  return MedianOf(std::move(runs));
}

}  // namespace mneme
