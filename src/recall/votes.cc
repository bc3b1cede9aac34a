#include "recall/votes.h"

#include <algorithm>
#include <cmath>

namespace mneme {
namespace {

constexpr double kVoteFloor = 2.0;

}  // namespace

void AddVotes(float soft_cap, std::span<float> scores, std::span<float> votes, std::span<float> largest) {
  if (scores.empty()) return;
  if (soft_cap > 0) {
    for (float& score : scores) score = soft_cap * std::tanh(score / soft_cap);
  }
  const float peak = *std::max_element(scores.begin(), scores.end());
  if (!std::isfinite(peak)) return;
  double sum = 0;
  for (const float score : scores) sum += std::exp(static_cast<double>(score - peak));
  const double log_sum = static_cast<double>(peak) + std::log(sum);
  const double log_count = std::log(static_cast<double>(scores.size()));
  const double level = std::min(kVoteFloor, log_count / 2) - log_count;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double log_share = static_cast<double>(scores[i]) - log_sum;
    if (log_share > level) votes[i] += static_cast<float>(log_share - level);
    if (log_share > -30) largest[i] = std::max(largest[i], static_cast<float>(std::exp(log_share)));
  }
}

}  // namespace mneme
