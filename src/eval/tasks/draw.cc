#include "eval/tasks/draw.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/error.h"

namespace mneme {

uint64_t TrialSeed(uint64_t seed, int64_t trial) {
  return seed * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(trial) * 0xD1B54A32D192ED03u + 1;
}

std::string DigitsLike(std::string_view number, Random& random) {
  std::string digits;
  for (size_t i = 0; i < number.size(); ++i)
    digits += static_cast<char>('0' + (i == 0 ? 1 + random.Below(9) : random.Below(10)));
  return digits;
}

std::string DrawUuid(Random& random) {
  const uint64_t high = (random.Next() & ~uint64_t{0xF000}) | 0x4000;
  const uint64_t low = (random.Next() >> 2) | (uint64_t{1} << 63);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, high >> 16 & 0xFFFF, high & 0xFFFF,
                     low >> 48, low & 0xFFFFFFFFFFFF);
}

std::vector<size_t> ChooseIndices(size_t count, size_t bound, Random& random) {
  MNEME_CHECK(count <= bound);
  std::vector<size_t> all(bound);
  for (size_t i = 0; i < bound; ++i) all[i] = i;
  for (size_t i = 0; i < count; ++i) std::swap(all[i], all[i + random.Below(bound - i)]);
  all.resize(count);
  return all;
}

std::vector<std::string> DrawCandidates(const std::string& right, size_t count,
                                        const std::function<std::string()>& draw) {
  std::vector<std::string> candidates = {right};
  constexpr int kMostDraws = 100000;
  for (int i = 0; candidates.size() < count && i < kMostDraws; ++i) {
    std::string next = draw();
    if (std::find(candidates.begin(), candidates.end(), next) != candidates.end()) continue;
    if (candidates.size() == 1 && next[0] == right[0]) continue;
    candidates.push_back(std::move(next));
  }
  MNEME_CHECK(candidates.size() > 1);
  return candidates;
}

void CheckTrials(std::string_view task, std::span<const int64_t> lengths, int64_t num_trials,
                 size_t num_candidates) {
  for (const int64_t length : lengths) {
    if (length < 1 || length > int64_t{1} << 40)
      Fail(ErrorKind::kInput, "{}: the length {} is outside 1 .. 2^40", task, length);
  }
  if (num_trials < 1 || num_trials > 100000)
    Fail(ErrorKind::kInput, "{}: {} trials; 1 to 100000 are possible", task, num_trials);
  if (num_candidates < 2 || num_candidates > 64)
    Fail(ErrorKind::kInput, "{}: {} candidates; 2 to 64 are possible", task, num_candidates);
}

}  // namespace mneme
