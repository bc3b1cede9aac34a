// Generating text: pauses, sampling, stop strings.
#include <algorithm>
#include <charconv>
#include <chrono>

#include "base/error.h"
#include "base/interrupt.h"
#include "context/registry.h"
#include "session/session_impl.h"
#include "session/stop_strings.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// How many tokens after it was fed a token stays visible at least, or -1 where there is no such bound.
int64_t WindowOf(const Context& context) {
  const ContextSpec spec = ParseContextSpec(context.Describe());
  const auto number = [&spec](const char* key) {
    int64_t value = -1;
    const auto found = spec.options.find(key);
    if (found == spec.options.end()) return value;
    const std::string& text = found->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? value : -1;
  };
  if (spec.name == "xl") return number("segment") * std::max<int64_t>(number("previous"), 1);
  return number("window");
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

// Returns a warning, or nothing. max_tokens: of the answer that has to see the pauses; -1: unknown.
std::string Session::Impl::FeedPauses(int64_t num_pauses, TokenId pause_token, int64_t max_tokens) {
  if (num_pauses == 0) return {};
  if (num_pauses < 0)
    Fail(ErrorKind::kInput, "the number of pauses is {}; it must not be negative", num_pauses);
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
  const int64_t window = WindowOf(*context);
  if (window >= 0 && num_pauses >= window) {
    Fail(ErrorKind::kInput,
         "{} pauses do not fit into the window of {} tokens, which the prompt and the answer need too: give "
         "fewer, or a larger window",
         num_pauses, window);
  }
  decoder.reset();
  const std::vector<TokenId> chunk(static_cast<size_t>(std::min(num_pauses, MaxRows())), pause_token);
  for (int64_t left = num_pauses; left > 0;) {
    const auto count = static_cast<size_t>(std::min(left, static_cast<int64_t>(chunk.size())));
    left -= static_cast<int64_t>(count);
    ForwardChunkOf(std::span(chunk).first(count), /*is_pause=*/true, /*skip_logits=*/left > 0, nullptr);
  }
  if (window >= 0 && (max_tokens < 0 || num_pauses + max_tokens > window)) {
    return fmt::format("an answer longer than {} tokens no longer sees all of the {} pauses",
                       window - num_pauses, num_pauses);
  }
  return {};
}

void Session::FeedPauses(int64_t num_pauses, TokenId pause_token) {
  impl_->FeedPauses(num_pauses, pause_token, 0);
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

GenerateResult Session::Impl::Generate(const GenerateOptions& generate, const TextCallback& on_text) {
  const auto start = Clock::now();
  const bool has_text = model->has_tokenizer();
  FinishText();
  if (context->num_tokens() == 0) {
    Fail(ErrorKind::kInput, "the stream is empty: there is nothing to continue; feed a token first");
  }
  if (!has_text && !generate.stop_strings.empty()) {
    Fail(ErrorKind::kUnsupported, "{}: stop strings need a tokenizer, and the model has none", model->path());
  }
  GenerateResult result;
  result.message = FeedPauses(generate.num_pauses, generate.pause_token, generate.max_tokens);
  if (has_text && !decoder.has_value()) StartDecoder();
  StopStringMatcher matcher(generate.stop_strings);
  std::string text;
  for (;;) {
    if (generate.max_tokens >= 0 && result.num_tokens >= generate.max_tokens) {
      result.reason = StopReason::kMaxTokens;
      break;
    }
    if (InterruptRequested()) {
      result.reason = StopReason::kInterrupted;
      break;
    }
    const TokenId token = Sample();
    if (stats.first_token_seconds < 0) stats.first_token_seconds = SecondsSince(start);
    ++result.num_tokens;
    ++stats.num_generated;
    text.clear();
    if (has_text) decoder->Feed(token, &text);
    const bool goes_on = on_text(matcher.Add(text), token);
    const bool is_eog = has_text && generate.stop_at_eog && model->tokenizer().is_eog(token);
    if (!is_eog || generate.feed_eog) {
      try {
        ForwardChunkOf({&token, 1}, false, false, nullptr);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kBudget && error.kind() != ErrorKind::kUnsupported) throw;
        result.reason = StopReason::kContextFull;
        result.message = error.what();
        break;
      }
    }
    if (matcher.found()) {
      result.reason = StopReason::kStopString;
      result.stop_string = matcher.stop_string();
      break;
    }
    if (is_eog) {
      result.reason = StopReason::kEog;
      break;
    }
    if (!goes_on) {
      result.reason = StopReason::kCallback;
      break;
    }
  }
  // After a full count or an interrupt the next Generate goes on in the middle of a character if need be; an
  // answer that is over keeps none.
  const bool is_over = result.reason == StopReason::kEog || result.reason == StopReason::kContextFull;
  std::string rest;
  if (has_text && is_over) {
    text.clear();
    decoder->Finish(&text);
    rest = matcher.Add(text);
  }
  rest += matcher.Flush();
  if (!rest.empty() && result.reason != StopReason::kCallback) on_text(rest, -1);
  if (is_over || result.reason == StopReason::kStopString) decoder.reset();
  result.seconds = SecondsSince(start);
  return result;
}

GenerateResult Session::Generate(const GenerateOptions& options, const TextCallback& on_text) {
  return impl_->Generate(options, on_text);
}

}  // namespace mneme
