// Generating text: pauses, sampling, stop strings.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>

#include "base/error.h"
#include "context/policy.h"
#include "session/session_impl.h"
#include "session/stop_strings.h"

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
    case StopReason::kCallback:
      return "callback";
    case StopReason::kContextFull:
      return "context full";
  }
  return "";
}

int64_t Session::Impl::FeedPauses(int64_t num_pauses, TokenId pause_token, StopToken stop) {
  if (num_pauses == 0) return -1;
  if (num_pauses < 0)
    Fail(ErrorKind::kInput, "the number of pauses is {}; it must not be negative", num_pauses);
  if (pause_token < 0) pause_token = model->config().actions.pause;
  if (pause_token < 0) {
    const auto found = model->has_tokenizer() ? model->tokenizer().FindToken("<pause>") : std::nullopt;
    if (!found.has_value()) {
      Fail(ErrorKind::kUnsupported,
           "{}: the vocabulary has no token <pause>, so the model was not trained to pause: run it without",
           model->path());
    }
    pause_token = *found;
  }
  CheckTokens({&pause_token, 1});
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
  decoder.reset();
  const std::vector<TokenId> chunk(static_cast<size_t>(std::min(num_pauses, MaxRows())), pause_token);
  for (int64_t left = num_pauses; left > 0 && !stop.stop_requested();) {
    const auto count = static_cast<size_t>(std::min(left, static_cast<int64_t>(chunk.size())));
    left -= static_cast<int64_t>(count);
    ForwardChunkOf(std::span(chunk).first(count), /*is_pause=*/true, /*skip_logits=*/left > 0, nullptr);
  }
  return window == kUnbounded ? -1 : window - num_pauses;
}

void Session::FeedPauses(int64_t num_pauses, TokenId pause_token, StopToken stop) {
  impl_->FeedPauses(num_pauses, pause_token, stop);
}

void Session::Impl::StartDecoder() {
  const Tokenizer& tokenizer = model->tokenizer();
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

// One call of Generate. Tokens that can still be taken back are open: fed, their text not handed out.
class Session::Impl::Generation {
 public:
  Generation(Impl& impl, const GenerateOptions& options, const TextCallback& on_text, StopToken stop)
      : impl_(impl), options_(options), on_text_(on_text), stop_(stop), matcher_(options.stop_strings) {}

  GenerateResult operator()();

 private:
  // At one place: tokens taken back before the choice stands.
  static constexpr size_t kMaxBans = 8;

  void Check();
  void FindActions();
  bool EndsBefore();
  bool Step();
  TokenId Pick();
  void TakeBack();
  bool HandOut(TokenId token);
  bool HandOutOldest();
  bool Feed(TokenId token);
  void CloseOpen();
  void FinishText();
  bool End(StopReason reason) {
    result_.reason = reason;
    return false;
  }

  Impl& impl_;
  const GenerateOptions& options_;
  const TextCallback& on_text_;
  const StopToken stop_;
  const Clock::time_point start_ = Clock::now();
  StopStringMatcher matcher_;
  GenerateResult result_;
  bool has_text_ = false;
  int64_t pause_room_ = -1;
  TokenId backspace_ = -1;       // -1: not in use
  std::vector<TokenId> never_;   // control tokens that are not text
  std::vector<TokenId> banned_;  // of one choice
  std::deque<TokenId> open_;
  // bans_[i]: what was taken back at the place of open_[i], with all before it as it is now; one entry more
  // for the place after the last.
  std::deque<std::vector<TokenId>> bans_{1};
  bool last_is_fed_ = true;
  bool refused_ = false;  // the callback: it is not called again
  std::string text_;
};

void Session::Impl::Generation::Check() {
  if (impl_.context->num_tokens() == 0) {
    Fail(ErrorKind::kInput, "the stream is empty: there is nothing to continue; feed a token first");
  }
  if (!has_text_ && !options_.stop_strings.empty()) {
    Fail(ErrorKind::kUnsupported, "{}: stop strings need a tokenizer, and the model has none",
         impl_.model->path());
  }
}

void Session::Impl::Generation::FindActions() {
  const ActionTokens& actions = impl_.model->config().actions;
  for (const TokenId id : {actions.pause, actions.sink}) {
    if (id >= 0) never_.push_back(id);
  }
  if (!options_.backspace) {
    if (actions.backspace >= 0) never_.push_back(actions.backspace);
    return;
  }
  backspace_ = options_.backspace_token >= 0 ? options_.backspace_token : actions.backspace;
  if (backspace_ < 0) {
    Fail(ErrorKind::kUnsupported,
         "{}: the model was not trained to take tokens back (mneme.backspace_token_id is missing): run it "
         "without",
         impl_.model->path());
  }
  impl_.CheckTokens({&backspace_, 1});
  if (options_.backspace_depth < 1) {
    Fail(ErrorKind::kInput, "backspace_depth is {}; it must be at least 1", options_.backspace_depth);
  }
  if (impl_.options.context.max_rewind < 1) {
    Fail(ErrorKind::kInput, "backspace needs a context with max_rewind of at least 1 token");
  }
}

TokenId Session::Impl::Generation::Pick() {
  banned_ = never_;
  banned_.insert(banned_.end(), bans_.back().begin(), bans_.back().end());
  if (backspace_ >= 0) {
    const bool is_free = !open_.empty() && bans_[open_.size() - 1].size() < kMaxBans &&
                         result_.num_backspaces < options_.max_backspaces && impl_.MaxRewind() >= 1;
    if (!is_free) banned_.push_back(backspace_);
  }
  return impl_.Sample(banned_);
}

void Session::Impl::Generation::TakeBack() {
  // The text up to the first open token goes on.
  std::optional<StreamDecoder> decoder = std::move(impl_.decoder);
  impl_.Rewind(1);
  impl_.decoder = std::move(decoder);
  bans_.pop_back();
  bans_.back().push_back(open_.back());
  open_.pop_back();
  --result_.num_tokens;
  --impl_.stats.num_generated;
  ++result_.num_backspaces;
  ++impl_.stats.num_backspaces;
}

bool Session::Impl::Generation::HandOut(TokenId token) {
  text_.clear();
  if (has_text_) impl_.decoder->Feed(token, &text_);
  refused_ = !on_text_(matcher_.Add(text_), token);
  return !refused_;
}

bool Session::Impl::Generation::HandOutOldest() {
  const TokenId token = open_.front();
  open_.pop_front();
  bans_.pop_front();
  return HandOut(token);
}

// False: the context cannot take it.
bool Session::Impl::Generation::Feed(TokenId token) {
  try {
    impl_.ForwardChunkOf({&token, 1}, false, false, nullptr);
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget && error.kind() != ErrorKind::kUnsupported) throw;
    result_.message = error.what();
    return false;
  }
}

// What ends the answer before another token is chosen.
bool Session::Impl::Generation::EndsBefore() {
  if (options_.max_tokens >= 0 && result_.num_tokens >= options_.max_tokens) {
    result_.reason = StopReason::kMaxTokens;
    return true;
  }
  if (pause_room_ >= 0 && result_.num_tokens >= pause_room_) {
    result_.reason = StopReason::kContextFull;
    result_.message = fmt::format(
        "an answer longer than {} tokens would no longer see all of the {} pauses: give a larger window",
        pause_room_, options_.num_pauses);
    return true;
  }
  if (!stop_.stop_requested()) return false;
  result_.reason = StopReason::kInterrupted;
  return true;
}

// False at the end.
bool Session::Impl::Generation::Step() {
  if (EndsBefore()) return false;
  const TokenId token = Pick();
  if (impl_.stats.first_token_seconds < 0) impl_.stats.first_token_seconds = SecondsSince(start_);
  if (token == backspace_) {
    TakeBack();
    return true;
  }
  ++result_.num_tokens;
  ++impl_.stats.num_generated;
  bool goes_on = backspace_ >= 0 || HandOut(token);
  const bool is_eog = has_text_ && options_.stop_at_eog && impl_.model->tokenizer().is_eog(token);
  const bool feeds = !is_eog || options_.feed_eog;
  const bool fits = !feeds || Feed(token);
  if (backspace_ >= 0) {
    last_is_fed_ = feeds && fits;
    open_.push_back(token);
    bans_.emplace_back();
    if (open_.size() > static_cast<size_t>(options_.backspace_depth)) goes_on = HandOutOldest();
  }
  if (!fits) return End(StopReason::kContextFull);
  if (matcher_.found()) return End(StopReason::kStopString);
  if (is_eog) return End(StopReason::kEog);
  return goes_on || End(StopReason::kCallback);
}

// Hands out what is open; what comes after a stop string or after the callback's refusal leaves the stream.
void Session::Impl::Generation::CloseOpen() {
  while (!open_.empty() && !matcher_.found() && !refused_) HandOutOldest();
  if (matcher_.found()) {
    result_.reason = StopReason::kStopString;
  } else if (refused_ && backspace_ >= 0) {
    result_.reason = StopReason::kCallback;  // what ended the answer was not handed out
  }
  if (open_.empty()) return;
  const auto count = static_cast<int64_t>(open_.size());
  result_.num_tokens -= count;
  impl_.stats.num_generated -= count;
  const int64_t num_fed = count - (last_is_fed_ ? 0 : 1);
  std::optional<StreamDecoder> decoder = std::move(impl_.decoder);
  impl_.Rewind(std::min(num_fed, impl_.MaxRewind()));
  impl_.decoder = std::move(decoder);
}

// After a full count or a stop the next Generate goes on in the middle of a character if need be; an
// answer that is over keeps none.
void Session::Impl::Generation::FinishText() {
  if (matcher_.found()) result_.stop_string = matcher_.stop_string();
  const bool is_over = result_.reason == StopReason::kEog || result_.reason == StopReason::kContextFull;
  std::string rest;
  if (has_text_ && is_over) {
    text_.clear();
    impl_.decoder->Finish(&text_);
    rest = matcher_.Add(text_);
  }
  rest += matcher_.Flush();
  if (!rest.empty() && !refused_) on_text_(rest, -1);
  if (is_over || result_.reason == StopReason::kStopString) impl_.decoder.reset();
}

GenerateResult Session::Impl::Generation::operator()() {
  impl_.FinishText();
  has_text_ = impl_.model->has_tokenizer();
  Check();
  FindActions();
  pause_room_ = impl_.FeedPauses(options_.num_pauses, options_.pause_token, stop_);
  if (has_text_ && !impl_.decoder.has_value()) impl_.StartDecoder();
  while (Step()) {
  }
  CloseOpen();
  FinishText();
  result_.seconds = SecondsSince(start_);
  return std::move(result_);
}

GenerateResult Session::Generate(const GenerateOptions& options, const TextCallback& on_text,
                                 StopToken stop) {
  return Impl::Generation(*impl_, options, on_text, stop)();
}

}  // namespace mneme
