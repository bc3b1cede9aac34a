#include "context/recurrent/hybrid.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "context/track_plan.h"

namespace mneme {

HybridContext::HybridContext(std::unique_ptr<Context> attention, std::unique_ptr<RecurrentState> state,
                             bool has_attention)
    : attention_(std::move(attention)), state_(std::move(state)), has_attention_(has_attention) {
  Follow();
}

RecurrentSettings HybridContext::SettingsOf(const ContextSettings& settings) {
  // As far as the attention layers go back, also after some tokens were taken back.
  return {.max_chunk = settings.max_chunk, .max_rewind = settings.max_rewind + RewindSlack(settings)};
}

size_t HybridContext::PeakBytes(const ContextShape& shape, const ContextSettings& settings) {
  return RecurrentState::PeakBytes(shape.recurrent, SettingsOf(settings));
}

void HybridContext::Follow() {
  num_tokens_ = attention_->num_tokens();
  start_position_ = attention_->start_position();
}

void HybridContext::Begin(std::span<const TokenId> tokens) {
  attention_->Begin(tokens);  // which may refuse
  state_->Begin(static_cast<int64_t>(tokens.size()));
}

void HybridContext::Commit() {
  attention_->Commit();
  state_->Commit();
  Follow();
}

void HybridContext::Abort() {
  attention_->Abort();
  state_->Abort();
}

int64_t HybridContext::MaxRewind() const { return std::min(attention_->MaxRewind(), state_->MaxRewind()); }

void HybridContext::Rewind(int64_t count) {
  if (count > MaxRewind()) {
    Fail(ErrorKind::kInput, "{} tokens cannot be taken back, only {}", count, MaxRewind());
  }
  attention_->Rewind(count);
  state_->Rewind(count);
  Follow();
}

void HybridContext::TakeBackLast() {
  attention_->TakeBackLast();
  state_->Rewind(1);
  Follow();
}

int64_t HybridContext::Replay(int64_t most_rows, Device& device) {
  const int64_t count = attention_->Replay(std::min(most_rows, state_->MaxRewind()), device);
  state_->Rewind(count);
  Follow();
  return count;
}

void HybridContext::Save(StateWriter& writer) const {
  attention_->Save(writer);
  state_->Save(writer);
}

void HybridContext::Restore(StateReader& reader) {
  attention_->Restore(reader);
  state_->Restore(reader);
  if (state_->num_tokens() != attention_->num_tokens()) {
    Fail(ErrorKind::kFile, "its attention layers have read {} tokens and the others {}",
         attention_->num_tokens(), state_->num_tokens());
  }
  Follow();
}

std::unique_ptr<Context> HybridContext::Fork() const {
  return std::make_unique<HybridContext>(attention_->Fork(), state_->Fork(), has_attention_);
}

std::vector<LedgerRange> HybridContext::Ledger() const {
  if (!has_attention_) {
    if (num_tokens() == 0) return {};
    return {{start_position(), next_position(), TokenFate::kState}};
  }
  std::vector<LedgerRange> ranges = attention_->Ledger();
  for (LedgerRange& range : ranges) {
    if (range.fate == TokenFate::kDropped) range.fate = TokenFate::kState;
  }
  return ranges;
}

}  // namespace mneme
