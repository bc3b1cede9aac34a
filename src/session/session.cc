#include "session/session.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "base/error.h"
#include "context/registry.h"
#include "session/fields.h"
#include "session/session_impl.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Bytes that FeedText encodes at once: small enough that a stop is seen soon, enough for a chunk.
constexpr size_t kTextSliceBytes = 2048;
// An encoder's bound (tokenizer/tokenizer.h), the longest special token taken generously, and the ids that
// one slice can release: everything that was held back, a token per byte.
constexpr size_t kEncoderBytes = 2 * kMaxWordBytes + (size_t{1} << 20) + 4096;
constexpr size_t kIdsBytes = (2 * kMaxWordBytes + kTextSliceBytes) * sizeof(TokenId);

}  // namespace

std::shared_ptr<Runner> Session::MakeRunner(std::shared_ptr<const Model> model, int64_t max_rows,
                                            Device& device, Budget& budget) {
  const Model& borrowed = *model;
  return std::shared_ptr<Runner>(new Runner(borrowed, max_rows, device, budget),
                                 [model = std::move(model)](Runner* runner) { delete runner; });
}

ContextSettings Session::InnerContext(const ContextSettings& settings) {
  ContextSettings inner = settings;
  inner.max_rewind += 1;
  return inner;
}

size_t Session::Impl::HistoryCapacity(const SessionOptions& options) {
  return static_cast<size_t>(options.sampler.repetition_window) +
         static_cast<size_t>(options.context.max_rewind) + 1;
}

size_t Session::OwnBytes(const Model& model, const SessionOptions& options) {
  const size_t vocab_size = model.config().vocab_size;
  return vocab_size * sizeof(float) + Sampler::BufferBytes(vocab_size) +
         TokenHistory::BufferBytes(Impl::HistoryCapacity(options)) +
         2 * SpeedLog::kMaxSamples * sizeof(SpeedSample) +
         (model.has_tokenizer() ? kEncoderBytes + kIdsBytes : 0);
}

namespace {

// With the policy of the context, which every context that the session makes shares.
SessionOptions Checked(const SessionOptions& options, const Model& model) {
  CheckOptions(options);
  CheckSampler(options.sampler, model.config().vocab_size);
  if (options.context.spec == "auto") {
    Fail(ErrorKind::kInput, "a session needs a definite context; ResolveSessionContext chooses for auto");
  }
  SessionOptions checked = options;
  checked.context.policy = PolicyOf(model.context_shape(), options.context);
  return checked;
}

}  // namespace

Session::Impl::Impl(std::shared_ptr<const Model> model_in, const SessionOptions& options_in,
                    Budget& budget_in, Device& device_in, std::shared_ptr<Runner> runner_in,
                    std::unique_ptr<Context> context_in)
    : model(std::move(model_in)),
      options(Checked(options_in, *model)),
      inner_settings(InnerContext(options.context)),
      budget(budget_in),
      device(device_in),
      logits_lease(budget.Reserve(MemoryTag::kScratch, vocab_size() * sizeof(float), "the last logits")),
      history_lease(budget.Reserve(MemoryTag::kSession,
                                   TokenHistory::BufferBytes(HistoryCapacity(options)) +
                                       2 * SpeedLog::kMaxSamples * sizeof(SpeedSample),
                                   "the recent tokens and speed samples")),
      text_lease(budget.Reserve(MemoryTag::kTokenizer, model->has_tokenizer() ? kEncoderBytes + kIdsBytes : 0,
                                "the text that a tokenizer holds back")),
      runner(runner_in != nullptr ? std::move(runner_in)
                                  : MakeRunner(model, options.context.max_chunk, device, budget)),
      context(context_in != nullptr
                  ? std::move(context_in)
                  : MakeContext(model->context_shape(), inner_settings, budget, device.num_threads())),
      sampler(options.sampler, vocab_size(), budget),
      history(HistoryCapacity(options)),
      logits(MakeAligned<float>(vocab_size())) {}

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options, Budget& budget,
                 Device& device)
    : impl_(std::make_unique<Impl>(std::move(model), options, budget, device, nullptr)) {}

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options, Budget& budget,
                 Device& device, std::shared_ptr<Runner> runner)
    : impl_(std::make_unique<Impl>(std::move(model), options, budget, device, std::move(runner))) {}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Session::~Session() = default;

const Model& Session::model() const { return *impl_->model; }
const SessionOptions& Session::options() const { return impl_->options; }
const Context& Session::context() const { return *impl_->context; }
const std::shared_ptr<Runner>& Session::runner() const { return impl_->runner; }
const SessionStats& Session::stats() const { return impl_->stats; }
int64_t Session::num_tokens() const { return impl_->context->num_tokens(); }
Position Session::next_position() const { return impl_->context->next_position(); }
int64_t Session::text_bytes() const { return impl_->text_bytes; }
uint64_t Session::text_hash() const { return impl_->text_hash.digest(); }

size_t Session::pending_text_bytes() const {
  return impl_->encoder.has_value() ? impl_->encoder->pending_bytes() : 0;
}

std::vector<TokenId> Session::RecentTokens() const {
  const auto entries = impl_->history.Last(impl_->history.capacity());
  std::vector<TokenId> tokens(entries.size());
  std::transform(entries.begin(), entries.end(), tokens.begin(), TokenHistory::IdOf);
  return tokens;
}

// ---- feeding

void Session::Impl::CheckFree() const {
  if (holder.empty()) return;
  Fail(ErrorKind::kInput,
       "{} is in the middle of this session: let it end, or destroy it, before the session changes", holder);
}

int64_t Session::Impl::MaxRows() const { return std::min(options.context.max_chunk, runner->max_rows()); }

void Session::Impl::CheckTokens(std::span<const TokenId> tokens) const {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= vocab_size()) {
      Fail(ErrorKind::kInput, "token {} of the input is {}; the vocabulary has ids 0 to {}", i, tokens[i],
           vocab_size() - 1);
    }
  }
}

void Session::Impl::Committed(std::span<const TokenId> tokens, bool is_pause, double seconds) {
  for (const TokenId id : tokens) history.Push(is_pause ? ~id : id);
  SpeedLog& log = tokens.size() == 1 ? stats.decode : stats.prefill;
  log.Add(static_cast<int64_t>(tokens.size()), seconds);
}

void Session::Impl::ForwardChunkOf(std::span<const TokenId> tokens, bool is_pause, bool skip_logits,
                                   const RowCallback* on_logits) {
  const auto start = Clock::now();
  const int64_t first_index = context->num_tokens();
  std::exception_ptr callback_error;
  const ForwardChunk chunk{.context = context.get(),
                           .tokens = tokens,
                           .all_logits = on_logits != nullptr,
                           .no_logits = skip_logits && on_logits == nullptr};
  has_logits = false;
  runner->Forward({&chunk, 1}, [&](size_t, size_t row, std::span<const float> row_logits) {
    if (row + 1 == tokens.size()) std::copy(row_logits.begin(), row_logits.end(), logits.get());
    if (on_logits == nullptr || callback_error) return;
    // The caller's exception must not leave the chunk half done.
    try {
      (*on_logits)(first_index + static_cast<int64_t>(row), row_logits);
    } catch (...) {
      callback_error = std::current_exception();
    }
  });
  has_logits = !chunk.no_logits;
  Committed(tokens, is_pause, SecondsSince(start));
  if (callback_error) std::rethrow_exception(callback_error);
}

size_t Session::Impl::FeedChunks(std::span<const TokenId> tokens, bool is_pause, StopToken stop,
                                 const RowCallback* on_logits) {
  size_t done = 0;
  while (done < tokens.size() && !stop.stop_requested()) {
    const size_t count = std::min(tokens.size() - done, static_cast<size_t>(MaxRows()));
    const bool is_last = done + count == tokens.size();
    ForwardChunkOf(tokens.subspan(done, count), is_pause, !is_last, on_logits);
    done += count;
  }
  return done;
}

size_t Session::Feed(std::span<const TokenId> tokens, StopToken stop, const RowCallback& on_row) {
  impl_->CheckFree();
  impl_->CheckTokens(tokens);
  impl_->FinishText();
  impl_->decoder.reset();
  return impl_->FeedChunks(tokens, /*is_pause=*/false, stop, on_row ? &on_row : nullptr);
}

// ---- text

void Session::Impl::DropText() {
  encoder.reset();
  ids.clear();
  text_open = false;
}

size_t Session::Impl::FeedText(std::string_view text, StopToken stop) {
  const Tokenizer& tokenizer = model->tokenizer();
  decoder.reset();
  if (!encoder.has_value()) encoder.emplace(tokenizer, InnerEncode(options));
  const bool at_start = context->num_tokens() == 0 && !text_open;
  if (at_start && options.encode.add_bos && tokenizer.bos_id() >= 0) ids.push_back(tokenizer.bos_id());
  text_open = true;
  size_t taken = 0;
  while (taken < text.size() && !stop.stop_requested()) {
    const std::string_view slice = text.substr(taken, kTextSliceBytes);
    encoder->Feed(slice, &ids);
    taken += slice.size();
    text_bytes += static_cast<int64_t>(slice.size());
    text_hash.Add(slice);
    // Whole chunks now; the rest waits for the next slice, which fills it up.
    const size_t num_rows = static_cast<size_t>(MaxRows());
    FeedWaiting(ids.size() / num_rows * num_rows);
  }
  FeedWaiting(ids.size());
  return taken;
}

// Feeds the first `count` of the ids that wait. What a failure leaves waits on: text_bytes counts its text,
// and a state that is saved then must not lose it.
void Session::Impl::FeedWaiting(size_t count) {
  if (count == 0) return;
  const int64_t before = context->num_tokens();
  const auto take = [&] { ids.erase(ids.begin(), ids.begin() + (context->num_tokens() - before)); };
  try {
    CheckTokens(ids);
    FeedChunks(std::span(ids).first(count), false, {}, nullptr);
  } catch (...) {
    take();
    throw;
  }
  take();
}

void Session::Impl::FinishText() {
  if (!text_open) return;
  encoder->Finish(&ids);
  FeedWaiting(ids.size());
  text_open = false;
}

size_t Session::FeedText(std::string_view text, StopToken stop) {
  impl_->CheckFree();
  return impl_->FeedText(text, stop);
}

void Session::FinishText() {
  impl_->CheckFree();
  impl_->FinishText();
}

// ---- logits, sampling, rewinding

void Session::Impl::EnsureLogits() {
  if (has_logits) return;
  if (context->num_tokens() == 0) {
    Fail(ErrorKind::kInput, "the stream is empty: there is nothing to continue; feed a token first");
  }
  const TokenId entry = history.Last(1)[0];
  context->Rewind(1);
  history.Pop(1);
  const TokenId id = TokenHistory::IdOf(entry);
  ForwardChunkOf({&id, 1}, entry < 0, false, nullptr);
}

bool Session::has_logits() const { return num_tokens() > 0; }

std::span<const float> Session::logits() {
  if (!impl_->has_logits) impl_->CheckFree();  // they are computed by going back
  impl_->EnsureLogits();
  return {impl_->logits.get(), impl_->vocab_size()};
}

TokenId Session::Impl::Sample(std::span<const TokenId> banned) {
  EnsureLogits();
  return sampler.Sample({logits.get(), vocab_size()},
                        history.Last(static_cast<size_t>(sampler.settings().repetition_window)),
                        context->num_tokens(), banned);
}

TokenId Session::Sample() {
  impl_->CheckFree();
  impl_->FinishText();
  return impl_->Sample();
}

int64_t Session::Impl::MaxRewind() const {
  // One is kept for the logits, unless all go.
  const int64_t deepest = context->MaxRewind();
  return deepest >= context->num_tokens() ? context->num_tokens() : std::max<int64_t>(deepest - 1, 0);
}

void Session::Impl::Rewind(int64_t count) {
  if (count < 0 || count > MaxRewind()) {
    Fail(ErrorKind::kInput,
         "cannot go back by {} tokens: {} can be taken back now (the longest rewind is set to {} tokens when "
         "a "
         "session is made, and what was taken back before counts until as many were fed again)",
         count, MaxRewind(), options.context.max_rewind);
  }
  DropText();
  if (count == 0) return;
  decoder.reset();
  context->Rewind(count);
  history.Pop(std::min(static_cast<size_t>(count), history.size()));
  has_logits = false;
}

int64_t Session::MaxRewind() const { return impl_->MaxRewind(); }
void Session::Rewind(int64_t count) {
  impl_->CheckFree();
  impl_->Rewind(count);
}

void Session::Impl::SetSampler(const SamplerSettings& settings) {
  CheckSampler(settings, vocab_size());
  SessionOptions changed = options;
  changed.sampler = settings;
  const size_t capacity = HistoryCapacity(changed);
  if (capacity > history.capacity()) {
    history_lease.Resize(history_lease.bytes() + TokenHistory::BufferBytes(capacity - history.capacity()),
                         "a longer history for the repetition penalty");
    TokenHistory longer(capacity);
    for (const TokenId entry : history.Last(history.size())) longer.Push(entry);
    history = std::move(longer);
  }
  sampler.set_settings(settings);
  options.sampler = settings;
}

void Session::set_sampler(const SamplerSettings& settings) {
  impl_->CheckFree();
  impl_->SetSampler(settings);
}

// ---- several sessions

void ForwardRows(std::span<SessionRows> rows) {
  if (rows.empty()) return;
  const auto start = Clock::now();
  std::vector<ForwardChunk> chunks;
  std::vector<bool> had_logits;
  for (const SessionRows& row : rows) {
    Session::Impl& impl = *row.session;
    chunks.push_back({.context = impl.context.get(),
                      .tokens = row.request.tokens,
                      .no_logits = !row.request.wants_logits});
    had_logits.push_back(impl.has_logits);
    impl.has_logits = false;
  }
  std::vector<std::optional<Error>> refused(rows.size());
  rows[0].session->runner->Forward(
      chunks,
      [&](size_t chunk, size_t, std::span<const float> logits) {
        std::copy(logits.begin(), logits.end(), rows[chunk].session->logits.get());
      },
      refused);
  const double seconds = SecondsSince(start);
  for (size_t i = 0; i < rows.size(); ++i) {
    Session::Impl& impl = *rows[i].session;
    rows[i].refused = std::move(refused[i]);
    impl.has_logits = rows[i].refused ? had_logits[i] : rows[i].request.wants_logits;
    if (!rows[i].refused) impl.Committed(rows[i].request.tokens, rows[i].request.is_pause, seconds);
  }
}

}  // namespace mneme
