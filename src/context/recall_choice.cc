// What comes back: the votes of a turn's rows, and the replay of the turn.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "context/recall_context.h"
#include "recall/votes.h"

namespace mneme {
namespace {

constexpr auto kSlice = static_cast<int64_t>(kBlockTokens);

}  // namespace

// ---- votes

RecallContext::Votes RecallContext::Vote(int64_t begin_row, int64_t end_row, Device& device) {
  Votes votes;
  // Whole slices before the turn: they are there as long as the choice is. A row that has not lost all of one
  // sees the rest of it in its window.
  const int64_t end = std::min(NumLeft(end_row), begin_row / kSlice);
  votes.first = store_.begin();
  if (end <= votes.first) return votes;
  FillPending(end);
  const auto num_slices = static_cast<size_t>(end - votes.first);
  votes.votes.resize(num_slices);
  votes.shares.resize(num_slices);
  std::vector<const uint8_t*> slices(num_slices);
  std::vector<int32_t> first_tokens(num_slices);
  for (size_t i = 0; i < num_slices; ++i) {
    const int64_t number = votes.first + static_cast<int64_t>(i);
    slices[i] = number < store_.end() ? store_.Keys(number) : Pending(number).keys;
    // Sinks are always seen, and would win every vote; of what is damaged no token counts.
    const int64_t first = IsDamaged(number) ? kSlice : options_.sinks - number * kSlice;
    first_tokens[i] = static_cast<int32_t>(std::clamp<int64_t>(first, 0, kSlice));
  }
  for (const Chooser& chooser : layout_.choosers) {
    VoteOf(chooser, begin_row, end_row, slices, first_tokens, &votes, device);
  }
  return votes;
}

void RecallContext::VoteOf(const Chooser& chooser, int64_t begin_row, int64_t end_row,
                           std::span<const uint8_t* const> slices, std::span<const int32_t> first_tokens,
                           Votes* votes, Device& device) {
  const KeySet& set = layout_.key_sets[chooser.keys];
  const LayerAttention& spec = shape_.layers[chooser.head.layer];
  const size_t num_slices = slices.size();
  lookup_.resize(static_cast<size_t>(kScoreRows) * set.key_dim);
  scores_.resize(static_cast<size_t>(kScoreRows) * num_slices);
  std::vector<float> largest(num_slices);  // share of the head, over rows
  for (int64_t first = begin_row; first < end_row; first += kScoreRows) {
    const int64_t count = std::min(kScoreRows, end_row - first);
    for (int64_t row = 0; row < count; ++row) {
      const float* const q = queries_.get() + RowOf(first + row) + chooser.offset;
      float* const to = lookup_.data() + static_cast<size_t>(row) * set.key_dim;
      for (size_t i = 0; i < set.key_dim; ++i) {
        to[i] = q[i] * spec.scale * (i < spec.rope.rotary_dim ? spec.rope.magnitude : 1.0f);
        if (!spec.query_factors.empty()) to[i] *= spec.query_factors[i];
      }
    }
    device.Score({.slices = slices,
                  .first_tokens = first_tokens,
                  .offset = set.offset,
                  .key_dim = set.key_dim,
                  .q = lookup_.data(),
                  .num_queries = static_cast<size_t>(count),
                  .out = scores_.data()});
    device.Wait();
    for (int64_t row = 0; row < count; ++row) {
      float* const scores = scores_.data() + static_cast<size_t>(row) * num_slices;
      AddVotes(spec.soft_cap, {scores, num_slices}, votes->votes, largest);
    }
  }
  for (size_t i = 0; i < num_slices; ++i) votes->shares[i] += largest[i];
}

// The best slices, each with the one behind it, until the budget is spent; in stream order.
std::vector<RecallContext::ChosenSlice> RecallContext::PickBest(const Votes& votes) const {
  std::vector<size_t> order;
  for (size_t i = 0; i < votes.votes.size(); ++i) {
    const bool is_there = !IsDamaged(votes.first + static_cast<int64_t>(i));
    if (votes.votes[i] > 0 && is_there) order.push_back(i);
  }
  const auto num_kept = std::min(order.size(), static_cast<size_t>(layout_.num_held));
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(num_kept), order.end(),
                    [&](size_t a, size_t b) {
                      return votes.votes[a] != votes.votes[b] ? votes.votes[a] > votes.votes[b] : a < b;
                    });
  order.resize(num_kept);
  float best_share = 0;
  for (const size_t i : order) best_share = std::max(best_share, votes.shares[i]);
  const float gate = static_cast<float>(options_.gate) / 10.0f;
  std::vector<ChosenSlice> chosen;
  const auto add = [&](size_t i, float score, float bias) {
    const int64_t number = votes.first + static_cast<int64_t>(i);
    const auto known = std::find_if(chosen.begin(), chosen.end(),
                                    [number](const ChosenSlice& one) { return one.number == number; });
    if (known != chosen.end()) {
      known->bias = std::max(known->bias, bias);
    } else if (static_cast<int64_t>(chosen.size()) < layout_.num_held) {
      chosen.push_back({.number = number, .score = score, .bias = bias});
    }
  };
  const size_t num_best = options_.takes_next ? (num_kept + 1) / 2 : num_kept;
  for (size_t at = 0; at < num_best && at < order.size(); ++at) {
    const size_t i = order[at];
    const float bias = gate > 0 ? std::log(votes.shares[i] / best_share) : 0.0f;
    if (gate > 0 && !(bias >= -gate)) continue;
    add(i, votes.votes[i], bias);
    if (options_.takes_next && i + 1 < votes.votes.size() &&
        !IsDamaged(votes.first + static_cast<int64_t>(i) + 1)) {
      add(i + 1, votes.votes[i + 1], bias);
    }
  }
  std::sort(chosen.begin(), chosen.end(),
            [](const ChosenSlice& a, const ChosenSlice& b) { return a.number < b.number; });
  return chosen;
}

// ---- replay

const std::vector<RecallContext::ChosenSlice>& RecallContext::InForce() const {
  static const std::vector<ChosenSlice> kNone;
  return choices_.empty() ? kNone : choices_.back().slices;
}

int64_t RecallContext::Replay(int64_t most_rows, Device& device) {
  MNEME_CHECK(chunk_tokens_ == 0);
  const int64_t end = num_tokens_;
  const int64_t count = std::min({end - turn_begin_, options_.replay, most_rows, MaxRewind()});
  turn_begin_ = end;
  if (count <= 0 || layout_.num_held == 0) return 0;
  const Votes votes = Vote(end - count, end, device);
  Choice choice{.from_row = end - count, .slices = PickBest(votes)};
  if (choice.slices == InForce()) return 0;
  // While the slices that are not in the store are at hand. One that cannot be read is known as damaged then,
  // and others take its place.
  while (!Hold(choice.slices)) choice.slices = PickBest(votes);
  local_->Rewind(count);
  Follow();
  while (!choices_.empty() && choices_.back().from_row >= num_tokens_) choices_.pop_back();
  choices_.push_back(std::move(choice));
  return count;
}

std::vector<RecalledSlice> RecallContext::Recalled() const {
  std::vector<RecalledSlice> recalled;
  for (size_t i = 0; i < held_.slices.size(); ++i) {
    const ChosenSlice& slice = held_.slices[i];
    const TokenId* const ids = held_ids_.data() + i * kBlockTokens;
    recalled.push_back({.begin = slice.number * kSlice,
                        .tokens = std::vector<TokenId>(ids, ids + kBlockTokens),
                        .score = slice.score,
                        .bias = slice.bias});
  }
  return recalled;
}

}  // namespace mneme
