// The stream of a RecallContext as a thing that is taken back, saved, copied and accounted for.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "context/recall_context.h"
#include "context/track_plan.h"

namespace mneme {
namespace {

constexpr auto kSlice = static_cast<int64_t>(kBlockTokens);

}  // namespace

// A choice that comes back into force needs its slices: those that were forgotten since are a border.
int64_t RecallContext::MaxRewind() const {
  const int64_t most = local_->MaxRewind();
  for (size_t i = choices_.size(); i-- > 1;) {
    const int64_t after = num_tokens_ - choices_[i].from_row;  // still under this choice
    if (after >= most) break;
    for (const ChosenSlice& slice : choices_[i - 1].slices) {
      if (slice.number < store_.begin()) return std::max<int64_t>(after - 1, 0);
    }
  }
  return most;
}

void RecallContext::Rewind(int64_t count) {
  if (count > MaxRewind()) {
    Fail(ErrorKind::kInput, "cannot take back {} tokens: {} can be taken back here", count, MaxRewind());
  }
  local_->Rewind(count);
  Follow();
  turn_begin_ = std::min(turn_begin_, num_tokens_);
  bool is_other = false;
  while (!choices_.empty() && count > 0 && choices_.back().from_row >= num_tokens_) {
    choices_.pop_back();
    is_other = true;
  }
  if (is_other) TakeUp();
}

// What came back for the turn stays, and the turn as far as it was chosen for.
void RecallContext::TakeBackLast() {
  local_->Rewind(1);
  Follow();
}

// Makes the choice that is in force now the one that is held.
void RecallContext::TakeUp() {
  int64_t end = 0;
  for (const ChosenSlice& slice : InForce()) end = std::max(end, slice.number + 1);
  FillPending(end);
  Hold(InForce());
}

// ---- states

void RecallContext::SaveChoices(StateWriter& writer) const {
  writer.Put<uint64_t>(choices_.size());
  for (const Choice& choice : choices_) {
    writer.Put<int64_t>(choice.from_row);
    writer.Put<uint64_t>(choice.slices.size());
    for (const ChosenSlice& slice : choice.slices) {
      writer.Put<int64_t>(slice.number);
      writer.Put<float>(slice.score);
      writer.Put<float>(slice.bias);
    }
  }
}

void RecallContext::Save(StateWriter& writer) const {
  MNEME_CHECK(chunk_tokens_ == 0);
  std::vector<uint64_t> heads;
  for (const Chooser& chooser : layout_.choosers) {
    heads.push_back(chooser.head.layer);
    heads.push_back(chooser.head.head);
  }
  writer.PutVector(heads);
  local_->Save(writer);
  store_.Save(writer);
  writer.Put<int64_t>(turn_begin_);
  SaveChoices(writer);
  const int64_t num_rows = std::min(num_tokens_, layout_.num_rows - settings_.max_chunk);
  writer.Put<int64_t>(num_rows);
  for (int64_t row = num_tokens_ - num_rows; row < num_tokens_; ++row) {
    writer.Write(queries_.get() + RowOf(row), layout_.row_floats * sizeof(float));
  }
}

void RecallContext::RestoreChoices(StateReader& reader) {
  constexpr uint64_t kMostChoices = uint64_t{1} << 20;
  const auto num_choices = reader.Get<uint64_t>();
  bool is_sound = num_choices <= kMostChoices;
  int64_t last_row = -1;
  for (uint64_t i = 0; is_sound && i < num_choices; ++i) {
    Choice choice{.from_row = reader.Get<int64_t>(), .slices = {}};
    const auto num_slices = reader.Get<uint64_t>();
    is_sound = choice.from_row > last_row && choice.from_row <= num_tokens_ &&
               num_slices <= static_cast<uint64_t>(layout_.num_held);
    last_row = choice.from_row;
    int64_t last = -1;
    for (uint64_t j = 0; is_sound && j < num_slices; ++j) {
      const ChosenSlice slice{
          .number = reader.Get<int64_t>(), .score = reader.Get<float>(), .bias = reader.Get<float>()};
      is_sound = slice.number > last && slice.number >= layout_.first_slice &&
                 slice.number < choice.from_row / kSlice && std::isfinite(slice.score) && slice.bias <= 0;
      last = slice.number;
      choice.slices.push_back(slice);
    }
    choices_.push_back(std::move(choice));
  }
  if (!is_sound)
    Fail(ErrorKind::kFile, "state: what came back does not agree with its {} tokens", num_tokens_);
}

void RecallContext::Restore(StateReader& reader) {
  MNEME_CHECK(chunk_tokens_ == 0 && num_tokens_ == 0);
  std::vector<uint64_t> heads;
  for (const Chooser& chooser : layout_.choosers) {
    heads.push_back(chooser.head.layer);
    heads.push_back(chooser.head.head);
  }
  if (reader.GetVector<uint64_t>() != heads) {
    Fail(ErrorKind::kMismatch,
         "state: other heads chose what comes back than those that choose now: it needs the calibration of "
         "the "
         "model that it was made with");
  }
  local_->Restore(reader);
  Follow();
  store_.Restore(reader);
  const int64_t stored = std::max(local_->num_evicted(0), layout_.first_slice);
  turn_begin_ = reader.Get<int64_t>();
  const bool is_sound = store_.end() == stored && turn_begin_ >= 0 && turn_begin_ <= num_tokens_ &&
                        NumLeft(num_tokens_) - stored < layout_.num_pending;
  if (!is_sound) {
    Fail(ErrorKind::kFile, "state: its store does not agree with its {} tokens", num_tokens_);
  }
  RestoreChoices(reader);
  const auto num_rows = reader.Get<int64_t>();
  if (num_rows != std::min(num_tokens_, layout_.num_rows - settings_.max_chunk)) {
    Fail(ErrorKind::kFile, "state: it has {} rows to choose by", num_rows);
  }
  for (int64_t row = num_tokens_ - num_rows; row < num_tokens_; ++row) {
    reader.Read(queries_.get() + RowOf(row), layout_.row_floats * sizeof(float));
  }
  TakeUp();
}

std::unique_ptr<Context> RecallContext::Fork() const {
  return std::unique_ptr<RecallContext>(new RecallContext(*this));
}

// ---- the ledger

std::vector<LedgerRange> RecallContext::Ledger() const {
  std::vector<LedgerRange> ranges;
  const auto add = [&](int64_t begin, int64_t end, TokenFate fate) {
    if (begin < end) ranges.push_back({start_position_ + begin, start_position_ + end, fate});
  };
  const auto add_stored = [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const bool is_damaged = IsDamaged(begin / kSlice);
      int64_t next = begin;
      while (next < end && IsDamaged(next / kSlice) == is_damaged) next = (next / kSlice + 1) * kSlice;
      next = std::min(next, end);
      add(begin, next, is_damaged ? TokenFate::kDamaged : TokenFate::kStored);
      begin = next;
    }
  };
  const int64_t forgotten = store_.begin() > layout_.first_slice ? store_.begin() * kSlice : 0;
  for (const LedgerRange& range : local_->Ledger()) {
    if (range.fate != TokenFate::kDropped) {
      ranges.push_back(range);
      continue;
    }
    int64_t at = range.begin - start_position_;
    const int64_t end = range.end - start_position_;
    add(at, std::min(end, forgotten), TokenFate::kDropped);
    at = std::clamp(forgotten, at, end);
    for (const ChosenSlice& slice : held_.slices) {
      const int64_t begin = std::clamp(slice.number * kSlice, at, end);
      const int64_t slice_end = std::clamp((slice.number + 1) * kSlice, at, end);
      add_stored(at, begin);
      add(begin, slice_end, TokenFate::kRecalled);
      at = std::max(at, slice_end);
    }
    add_stored(at, end);
  }
  return ranges;
}

}  // namespace mneme
