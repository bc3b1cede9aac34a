// What recall tasks draw from a seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"

namespace mneme {

// The seed of a trial: trials of one seed are independent, and do not depend on how many there are.
uint64_t TrialSeed(uint64_t seed, int64_t trial);

// Another number of as many digits, the first not 0.
std::string DigitsLike(std::string_view number, Random& random);
// 8-4-4-4-12 hexadecimal digits, version 4.
std::string DrawUuid(Random& random);
// `count` different indices below `bound`, in random order. count <= bound.
std::vector<size_t> ChooseIndices(size_t count, size_t bound, Random& random);

// `right` and count - 1 others from `draw`, all different; the first of the others begins with another letter
// than `right`, so that what all have in common gives nothing away. Fewer where draw has no more
// to give; it must have one.
std::vector<std::string> DrawCandidates(const std::string& right, size_t count,
                                        const std::function<std::string()>& draw);

// Throws Error(kInput), naming task and option: lengths of 2^40 at most, 1 to 100000 trials, 2 to 64
// candidates.
void CheckTrials(std::string_view task, std::span<const int64_t> lengths, int64_t num_trials,
                 size_t num_candidates);

}  // namespace mneme
