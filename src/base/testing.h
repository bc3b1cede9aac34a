// Comparison helpers for tests: symmetric, NaN-aware, and themselves tested (testing_test.cc). Also where
// test data lies.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <span>
#include <string>

namespace mneme::testing {

// ||a - b|| / max(||a||, ||b||), in double. Infinite if lengths differ or any value of either is NaN; equal
// infinities count as equal, any other infinity makes the result infinite. 0 for two zero vectors.
template <typename A, typename B>
double RelativeDifference(const A& a, const B& b) {
  if (std::size(a) != std::size(b)) return std::numeric_limits<double>::infinity();
  double difference = 0, norm_a = 0, norm_b = 0;
  for (size_t i = 0; i < std::size(a); ++i) {
    const double x = a[i];
    const double y = b[i];
    if (std::isnan(x) || std::isnan(y)) return std::numeric_limits<double>::infinity();
    if (std::isinf(x) || std::isinf(y)) {
      if (x != y) return std::numeric_limits<double>::infinity();
      continue;
    }
    difference += (x - y) * (x - y);
    norm_a += x * x;
    norm_b += y * y;
  }
  const double scale = std::sqrt(std::max(norm_a, norm_b));
  return scale == 0 ? 0 : std::sqrt(difference) / scale;
}

// Largest |a - b|, infinite under the same conditions.
template <typename A, typename B>
double MaxDifference(const A& a, const B& b) {
  if (std::size(a) != std::size(b)) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < std::size(a); ++i) {
    const double x = a[i];
    const double y = b[i];
    if (std::isinf(x) && x == y) continue;
    const double difference = std::abs(x - y);
    if (!(difference <= std::numeric_limits<double>::max())) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
  }
  return worst;
}

// The folder with real books, models and expected outputs: MNEME_TEST_DATA, else ../shared/data beside the
// source tree. Empty where there is none; such tests call GTEST_SKIP with SkipMessage.
inline std::string DataFolder() {
  const char* from_environment = std::getenv("MNEME_TEST_DATA");
  std::string path = from_environment != nullptr ? from_environment : "";
#ifdef MNEME_SOURCE_DIR
  if (path.empty()) path = std::string(MNEME_SOURCE_DIR) + "/../shared/data";
#endif
  std::string probe = path + "/SOURCES.md";
  std::FILE* file = std::fopen(probe.c_str(), "r");
  if (file == nullptr) return "";
  std::fclose(file);
  return path;
}

inline constexpr const char* kSkipMessage =
    "test data not found: set MNEME_TEST_DATA to the folder that holds models/, books/ and conformance/";

}  // namespace mneme::testing

// First line of a test that needs the data folder; defines `data`.
#define MNEME_REQUIRE_DATA(data)                           \
  const std::string data = ::mneme::testing::DataFolder(); \
  if (data.empty()) GTEST_SKIP() << ::mneme::testing::kSkipMessage
