#include "session/answer/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "context/policy.h"
#include "kernels/pointwise/elementwise.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

std::string_view StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kEog:
      return "eog";
    case StopReason::kStopString:
      return "stop string";
    case StopReason::kMaxTokens:
      return "max tokens";
    case StopReason::kInterrupted:
      return "interrupted";
    case StopReason::kContextFull:
      return "context full";
  }
  return "";
}

TokenId Session::Impl::PauseToken(TokenId asked) const {
  if (asked < 0) asked = loaded().plan().actions.pause;
  if (asked < 0) {
    const auto found = model.has_tokenizer() ? model.tokenizer().FindToken("<pause>") : std::nullopt;
    if (!found.has_value()) {
      Fail(ErrorKind::kUnsupported,
           "{}: the vocabulary has no token <pause>, so the model was not trained to pause: run it without",
           model.info().path);
    }
    asked = *found;
  }
  CheckTokens({&asked, 1});
  return asked;
}

TokenId Session::Impl::BackspaceToken(const GenerateOptions& generate) const {
  const TokenId token =
      generate.backspace_token >= 0 ? generate.backspace_token : loaded().plan().actions.backspace;
  if (token < 0) {
    Fail(ErrorKind::kUnsupported,
         "{}: the model was not trained to take tokens back (mneme.backspace_token_id is missing): run it "
         "without",
         model.info().path);
  }
  CheckTokens({&token, 1});
  if (generate.backspace_depth < 1) {
    Fail(ErrorKind::kInput, "backspace_depth is {}; it must be at least 1", generate.backspace_depth);
  }
  if (options.max_rewind < 1) {
    Fail(ErrorKind::kInput, "backspace needs a context with max_rewind of at least 1 token");
  }
  return token;
}

void Session::Impl::CheckGenerate(const GenerateOptions& generate) const {
  if (!model.has_tokenizer() && !generate.stop_strings.empty()) {
    Fail(ErrorKind::kUnsupported, "{}: stop strings need a tokenizer, and the model has none",
         model.info().path);
  }
  constexpr int64_t kMostTop = 1024;
  if (generate.num_top < 0 || generate.num_top > kMostTop) {
    Fail(ErrorKind::kInput, "num_top is {}; it takes 0 to {}", generate.num_top, kMostTop);
  }
  if (generate.num_pauses > 0) PauseToken(generate.pause_token);
  if (generate.backspace) BackspaceToken(generate);
}

void Session::CheckGenerate(const GenerateOptions& options) const { impl_->CheckGenerate(options); }

int64_t Session::Impl::CheckPauses(int64_t num_pauses) {
  if (num_pauses < 0)
    Fail(ErrorKind::kInput, "the number of pauses is {}; it must not be negative", num_pauses);
  FinishText();
  if (context->num_tokens() == 0) {
    Fail(ErrorKind::kInput, "the stream is empty: pauses come after a prompt; feed a token first");
  }
  const int64_t window = inner_settings.policy->seen_for();
  if (num_pauses >= window) {
    Fail(ErrorKind::kInput,
         "{} pauses do not fit into the window of {} tokens, which the prompt and the answer need too: give "
         "fewer, or a larger window",
         num_pauses, window);
  }
  return window == kUnbounded ? -1 : window - num_pauses;
}

void Session::FeedPauses(int64_t num_pauses, TokenId pause_token, StopToken stop) {
  impl_->CheckFree();
  if (num_pauses == 0) return;
  const TokenId token = num_pauses < 0 ? -1 : impl_->PauseToken(pause_token);
  impl_->CheckPauses(num_pauses);
  impl_->decoder.reset();
  const std::vector<TokenId> pauses(static_cast<size_t>(std::min(num_pauses, impl_->MaxRows())), token);
  for (int64_t left = num_pauses; left > 0 && !stop.stop_requested();) {
    const auto count = static_cast<size_t>(std::min(left, static_cast<int64_t>(pauses.size())));
    left -= static_cast<int64_t>(count);
    impl_->ForwardChunkOf(std::span(pauses).first(count), /*is_pause=*/true, /*skip_logits=*/left > 0,
                          nullptr);
  }
}

void Session::Impl::StartDecoder() {
  const Tokenizer& tokenizer = model.tokenizer();
  // A text begins here if nothing but control tokens came before: then SentencePiece's leading space is not
  // part of it.
  const auto entries = history.Last(history.size());
  const bool at_text_start = static_cast<int64_t>(entries.size()) == context->num_tokens() &&
                             std::all_of(entries.begin(), entries.end(), [&](TokenId entry) {
                               return entry < 0 || tokenizer.is_special(entry);
                             });
  decoder.emplace(tokenizer,
                  DecodeOptions{.show_special = options.show_special, .at_text_start = at_text_start});
}

Generation::Impl::Impl(std::shared_ptr<Session::Impl> session, const GenerateOptions& options)
    : keep_(std::move(session)), session_(*keep_), options_(options), matcher_(options.stop_strings) {
  session_.FinishText();
  has_text_ = session_.model.has_tokenizer();
  Check();
  if (options_.filter != nullptr) {
    masked_lease_ = session_.budget.Reserve(MemoryTag::kSession, session_.vocab_size() * sizeof(float),
                                            "the logits that a filter masks");
    masked_.resize(session_.vocab_size());
  }
  FindActions();
  PreparePauses();
  session_.holder = "a Generation";
}

Generation::Impl::~Impl() {
  if (is_over_) return;
  try {
    if (backspace_ < 0) Settle();
    DropOpen();
  } catch (...) {
    // The stream holds what was fed; nobody is left to be told.
  }
  Release();
}

void Generation::Impl::Release() {
  is_over_ = true;
  unfed_ = -1;
  session_.holder = {};
  session_.context->BeginTurn();
  result_.seconds = SecondsSince(start_);
}

void Generation::Impl::Check() {
  if (session_.context->num_tokens() == 0) {
    Fail(ErrorKind::kInput, "the stream is empty: there is nothing to continue; feed a token first");
  }
  session_.CheckGenerate(options_);
}

void Generation::Impl::FindActions() {
  const ActionTokens& actions = session_.loaded().plan().actions;
  for (const TokenId id : {actions.pause, actions.sink}) {
    if (id >= 0) never_.push_back(id);
  }
  if (!options_.backspace) {
    if (actions.backspace >= 0) never_.push_back(actions.backspace);
    return;
  }
  backspace_ = session_.BackspaceToken(options_);
}

TokenId Generation::Impl::Pick() {
  banned_ = never_;
  banned_.insert(banned_.end(), bans_.back().begin(), bans_.back().end());
  if (backspace_ >= 0) {
    const bool is_free = !open_.empty() && bans_[open_.size() - 1].size() < kMaxBans &&
                         result_.num_backspaces < options_.max_backspaces && session_.MaxRewind() >= 1;
    if (!is_free) banned_.push_back(backspace_);
  }
  if (options_.filter == nullptr) return session_.Sample(banned_);
  session_.EnsureLogits();
  std::copy_n(session_.logits.get(), masked_.size(), masked_.begin());
  options_.filter->Mask(masked_);
  return session_.SampleFrom(masked_, banned_);
}

// The likeliest tokens now. Natural log-probabilities: the sum of the exponentials in double precision.
std::vector<std::pair<TokenId, float>> Generation::Impl::Top() {
  if (options_.num_top == 0) return {};
  session_.EnsureLogits();
  const std::span<const float> logits(session_.logits.get(), session_.vocab_size());
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const size_t count = std::min(logits.size(), static_cast<size_t>(options_.num_top));
  const auto likelier = [&](TokenId a, TokenId b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count), ids.end(), likelier);
  const double sum = LogSumExp(logits.data(), logits.size());
  std::vector<std::pair<TokenId, float>> top;
  for (size_t i = 0; i < count; ++i) {
    const double logit = logits[static_cast<size_t>(ids[i])];
    top.emplace_back(ids[i], static_cast<float>(logit - sum));
  }
  return top;
}

void Generation::Impl::PreparePauses() {
  if (options_.num_pauses == 0) return;
  const TokenId token = options_.num_pauses < 0 ? -1 : session_.PauseToken(options_.pause_token);
  pause_room_ = session_.CheckPauses(options_.num_pauses);
  pauses_left_ = options_.num_pauses;
  pauses_.assign(static_cast<size_t>(std::min(pauses_left_, session_.MaxRows())), token);
  session_.decoder.reset();
}

// ---- what is fed

RowRequest Generation::Impl::Want(int64_t most_rows) {
  if (!std::exchange(has_turn_, true)) session_.EndTurn();
  while (!is_over_) {
    if (pauses_left_ > 0) {
      if (stop.stop_requested()) {
        End(StopReason::kInterrupted);
        break;
      }
      num_asked_ = std::min({pauses_left_, most_rows, static_cast<int64_t>(pauses_.size())});
      return {.tokens = std::span(pauses_).first(static_cast<size_t>(num_asked_)),
              .is_pause = true,
              .wants_logits = num_asked_ == pauses_left_};
    }
    if (unfed_ >= 0) return {.tokens = {&unfed_, 1}};
    Choose();
  }
  return {};
}

void Generation::Impl::Took() {
  if (pauses_left_ > 0) {
    pauses_left_ -= num_asked_;
    if (pauses_left_ > 0) return;
  } else {
    unfed_ = -1;
    last_is_fed_ = true;
    if (then_ends_.has_value()) return End(*then_ends_);
  }
  while (!is_over_ && unfed_ < 0) Choose();
}

void Generation::Impl::Failed(const Error& error) {
  if (error.kind() != ErrorKind::kBudget && error.kind() != ErrorKind::kUnsupported) return Release();
  result_.message = error.what();
  End(StopReason::kContextFull);
}

void Generation::Impl::Settle() {
  if (unfed_ < 0 || is_over_) return;
  session_.ForwardChunkOf({&unfed_, 1}, false, false, nullptr);
  unfed_ = -1;
  last_is_fed_ = true;
  if (then_ends_.has_value()) End(*then_ends_);
}

std::optional<Piece> Generation::Impl::TakePiece() {
  if (pieces_.empty()) return std::nullopt;
  Piece piece = std::move(pieces_.front());
  pieces_.pop_front();
  return piece;
}

std::optional<Piece> Generation::Impl::Next() {
  try {
    while (pieces_.empty() && !is_over_) {
      const RowRequest rows = Want(session_.MaxRows());
      if (rows.tokens.empty() || !pieces_.empty())
        continue;  // what was chosen just now is fed by the next call
      try {
        session_.ForwardChunkOf(rows.tokens, rows.is_pause, !rows.wants_logits, nullptr);
      } catch (const Error& error) {
        Failed(error);
        if (result_.reason != StopReason::kContextFull) throw;
        continue;
      }
      Took();
    }
  } catch (...) {
    Release();
    throw;
  }
  return TakePiece();
}

// ---- choosing

void Generation::Impl::TakeBack() {
  // The text up to the first open token goes on.
  std::optional<StreamDecoder> decoder = std::move(session_.decoder);
  session_.Rewind(1);
  session_.decoder = std::move(decoder);
  bans_.pop_back();
  bans_.back().push_back(open_.back());
  open_.pop_back();
  open_top_.pop_back();
  if (options_.filter != nullptr) options_.filter->Undo(1);
  --result_.num_tokens;
  --session_.stats.num_generated;
  ++result_.num_backspaces;
  ++session_.stats.num_backspaces;
}

void Generation::Impl::HandOut(TokenId token, std::vector<std::pair<TokenId, float>> top) {
  text_.clear();
  if (has_text_) session_.decoder->Feed(token, &text_);
  pieces_.push_back({matcher_.Add(text_), token, std::move(top)});
  if (options_.stop_strings.empty()) return;
  said_.push_back({token, said_bytes_, text_});
  said_bytes_ += static_cast<int64_t>(text_.size());
  while (said_.size() > 1 && said_[1].begin <= matcher_.certain_bytes()) said_.pop_front();
}

void Generation::Impl::HandOutOldest() {
  HandOut(open_.front(), std::move(open_top_.front()));
  open_.pop_front();
  open_top_.pop_front();
  bans_.pop_front();
}

// What ends the answer before another token is chosen.
bool Generation::Impl::EndsBefore() {
  if (options_.max_tokens >= 0 && result_.num_tokens >= options_.max_tokens) {
    End(StopReason::kMaxTokens);
  } else if (pause_room_ >= 0 && result_.num_tokens >= pause_room_) {
    result_.message = fmt::format(
        "an answer longer than {} tokens would no longer see all of the {} pauses: give a larger window",
        pause_room_, options_.num_pauses);
    End(StopReason::kContextFull);
  } else if (stop.stop_requested()) {
    End(StopReason::kInterrupted);
  }
  return is_over_;
}

void Generation::Impl::Choose() {
  if (EndsBefore()) return;
  if (has_text_ && !session_.decoder.has_value()) session_.StartDecoder();
  std::vector<std::pair<TokenId, float>> top = Top();
  const TokenId token = Pick();
  if (session_.stats.first_token_seconds < 0) session_.stats.first_token_seconds = SecondsSince(start_);
  if (token == backspace_) return TakeBack();
  if (options_.filter != nullptr) options_.filter->Accept(token);
  ++result_.num_tokens;
  ++session_.stats.num_generated;
  const bool is_eog = has_text_ && options_.stop_at_eog && session_.model.tokenizer().is_eog(token);
  last_is_fed_ = false;
  if (backspace_ < 0) {
    HandOut(token, std::move(top));
  } else {
    open_.push_back(token);
    open_top_.push_back(std::move(top));
    bans_.emplace_back();
    if (open_.size() > static_cast<size_t>(options_.backspace_depth)) HandOutOldest();
  }
  if (matcher_.found() || (is_eog && !options_.feed_eog)) return End(StopReason::kEog);
  unfed_ = token;
  if (is_eog) then_ends_ = StopReason::kEog;
}

// ---- the end

// The last `count` tokens leave the stream; the text goes on.
void Generation::Impl::TakeOut(int64_t count) {
  std::optional<StreamDecoder> decoder = std::move(session_.decoder);
  session_.Rewind(std::min(count, session_.MaxRewind()));
  session_.decoder = std::move(decoder);
}

// What was not handed out leaves the stream.
void Generation::Impl::DropOpen() {
  if (open_.empty()) return;
  const auto count = static_cast<int64_t>(open_.size());
  result_.num_tokens -= count;
  session_.stats.num_generated -= count;
  TakeOut(count - (last_is_fed_ ? 0 : 1));
  last_is_fed_ = true;
  open_.clear();
  open_top_.clear();
}

// The tokens of the stop string leave the stream, or the next turn of a conversation would stand behind its
// first words. Where one began before it, what it said until then is fed in its place. Where the context
// cannot go back as far, they stay.
void Generation::Impl::DropStopString() {
  const int64_t begin = matcher_.certain_bytes();
  size_t first = 0;
  while (first < said_.size() &&
         said_[first].begin + static_cast<int64_t>(said_[first].text.size()) <= begin &&
         said_[first].begin < begin)
    ++first;
  if (first == said_.size()) return;
  std::vector<TokenId> instead;
  if (said_[first].begin < begin) {
    const std::string kept = said_[first].text.substr(0, static_cast<size_t>(begin - said_[first].begin));
    const Tokenizer& tokenizer = session_.model.tokenizer();
    instead = tokenizer.Encode(kept);
    // A tokenizer that puts a space before every text: the token stays as it is.
    if (tokenizer.Decode(instead, {.at_text_start = false}) != kept) instead = {said_[first].token};
  }
  const int64_t count = static_cast<int64_t>(said_.size() - first) - (last_is_fed_ ? 0 : 1);
  if (count > session_.MaxRewind()) return;
  if (count > 0) TakeOut(count);
  if (!instead.empty()) session_.FeedChunks(instead, false, {}, nullptr);
}

// After a full count or a stop the next Generate goes on in the middle of a character if need be; an answer
// that is over keeps none.
void Generation::Impl::FinishText() {
  if (matcher_.found()) result_.stop_string = matcher_.stop_string();
  const bool is_whole = result_.reason == StopReason::kEog || result_.reason == StopReason::kContextFull;
  std::string rest;
  if (has_text_ && is_whole && session_.decoder.has_value()) {
    text_.clear();
    session_.decoder->Finish(&text_);
    rest = matcher_.Add(text_);
  }
  rest += matcher_.Flush();
  if (!rest.empty()) pieces_.push_back({std::move(rest), -1});
  if (is_whole || result_.reason == StopReason::kStopString) session_.decoder.reset();
}

void Generation::Impl::End(StopReason reason) {
  while (!open_.empty() && !matcher_.found()) HandOutOldest();
  result_.reason = matcher_.found() ? StopReason::kStopString : reason;
  DropOpen();
  if (matcher_.found()) DropStopString();
  FinishText();
  Release();
}

// ---- Generation

Generation::Generation(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Generation::Generation(Generation&&) noexcept = default;
Generation::~Generation() = default;

std::optional<Piece> Generation::Next(StopToken stop) {
  impl_->stop = stop;
  return impl_->Next();
}

void Generation::Settle() { impl_->Settle(); }
const GenerateResult& Generation::result() const { return impl_->result(); }

Generation Session::Generate(const GenerateOptions& options) {
  impl_->CheckFree();
  return Generation(std::make_unique<Generation::Impl>(impl_, options));
}

}  // namespace mneme
