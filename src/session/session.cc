#include "mneme/session.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "base/error.h"
#include "context/registry.h"
#include "kernels/pointwise/elementwise.h"
#include "mneme/calibrate.h"
#include "session/fields.h"
#include "session/session_impl.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

// What holds a session while its rows are handed out.
constexpr std::string_view kFeed = "a Feed";

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Bytes that FeedText encodes at once: small enough that a stop is seen soon, enough for a chunk.
constexpr size_t kTextSliceBytes = 2048;
// An encoder's bound (mneme/tokenizer.h), the longest special token taken generously, and the ids that
// one slice can release: everything that was held back, a token per byte.
constexpr size_t kEncoderBytes = 2 * kMaxWordBytes + (size_t{1} << 20) + 4096;
constexpr size_t kIdsBytes = (2 * kMaxWordBytes + kTextSliceBytes) * sizeof(TokenId);

SessionOptions WithRopeLength(SessionOptions options, const LoadedModel& model,
                              const ContextSettings& settings) {
  options.rope_length = RopeLengthFor(model, options, settings);
  return options;
}

}  // namespace

size_t Session::Impl::HistoryCapacity(const SessionOptions& options) {
  const int64_t most_back = std::max(options.max_rewind, ReplayOf(options.context));
  return static_cast<size_t>(options.sampler.repetition_window) + static_cast<size_t>(most_back) + 1;
}

size_t OwnBytes(const LoadedModel& model, const SessionOptions& options) {
  const size_t vocab_size = model.plan().vocab_size;
  return vocab_size * sizeof(float) + Sampler::BufferBytes(vocab_size) +
         TokenHistory::BufferBytes(Session::Impl::HistoryCapacity(options)) +
         2 * SpeedLog::kMaxSamples * sizeof(SpeedSample) +
         (model.has_tokenizer() ? kEncoderBytes + kIdsBytes : 0);
}

Session::Impl::Impl(SessionHome home, const SessionOptions& options_in, ContextSettings settings,
                    std::unique_ptr<Context> context_in)
    : model(std::move(home.model)),
      options(WithRopeLength(options_in, loaded(), settings)),
      inner_settings(std::move(settings)),
      shape(loaded().ShapeFor(options.rope_length)),
      budget(home.budget),
      device(*home.device),
      logits_lease(budget.Reserve(MemoryTag::kScratch, vocab_size() * sizeof(float), "the last logits")),
      history_lease(budget.Reserve(MemoryTag::kSession,
                                   TokenHistory::BufferBytes(HistoryCapacity(options)) +
                                       2 * SpeedLog::kMaxSamples * sizeof(SpeedSample),
                                   "the recent tokens and speed samples")),
      text_lease(budget.Reserve(MemoryTag::kTokenizer, model.has_tokenizer() ? kEncoderBytes + kIdsBytes : 0,
                                "the text that a tokenizer holds back")),
      runner(std::move(home.runner)),
      context(context_in != nullptr ? std::move(context_in)
                                    : MakeContext(*shape, inner_settings, budget, device.num_threads())),
      sampler(options.sampler, vocab_size(), budget),
      history(HistoryCapacity(options)),
      logits(MakeAligned<float>(vocab_size())) {
  options.context = context->Describe();
}

namespace {

void Check(const SessionOptions& options, const LoadedModel& model) {
  CheckOptions(options);
  CheckSampler(options.sampler, model.plan().vocab_size);
}

// The activations of an engine's model, made where there are none yet; or anew, for as many rows as fit now,
// where no session has them.
std::shared_ptr<Runner> RunnerOf(const Model& model, int64_t max_rows) {
  std::shared_ptr<Runner>& runner = model.impl()->runner;
  if (runner != nullptr && runner.use_count() == 1 && runner->max_rows() != max_rows) runner.reset();
  if (runner == nullptr) {
    Engine::Impl& engine = model.engine().impl();
    runner = std::make_shared<Runner>(*model.impl()->loaded, max_rows, engine.device, engine.budget);
  }
  return runner;
}

// Heads that choose for a context that recalls, unless the model has some. A model that cannot be calibrated
// has those by their place. Returns a remark for the user, or nothing.
std::string PrepareRecall(const Model& model, std::string_view context) {
  if (!Recalls(context) || !model.impl()->loaded->context_shape().recall.heads.empty()) return "";
  try {
    NoProgress nobody;
    EnsureCalibrated(model, nobody);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported && error.kind() != ErrorKind::kBudget) throw;
    return fmt::format("heads that choose what comes back are picked by their place, because {}",
                       error.what());
  }
  return "";
}

}  // namespace

Session::Session(const Model& model, const SessionOptions& options) {
  const LoadedModel& loaded = *model.impl()->loaded;
  Check(options, loaded);
  const std::string remark = PrepareRecall(model, options.context);
  ResolvedContext resolved = ResolveSession(loaded, options, LimitsOf(model));
  Engine::Impl& engine = model.engine().impl();
  const size_t share = options.memory_bytes == 0 ? Budget::kUnlimited : options.memory_bytes;
  impl_ = std::make_shared<Impl>(SessionHome{model, Budget(share, engine.budget), &engine.device,
                                             RunnerOf(model, resolved.settings.max_chunk)},
                                 options, std::move(resolved.settings));
  impl_->context_reason = remark.empty() ? std::move(resolved.reason) : remark;
}

Session MakeSession(std::shared_ptr<const LoadedModel> model, const SessionOptions& options, int64_t max_rows,
                    const Budget& budget, Device& device) {
  Check(options, *model);
  std::shared_ptr<Runner> runner = MakeRunner(model, max_rows, device, budget);
  return MakeSession(std::move(model), options, budget, device, std::move(runner));
}

Session MakeSession(std::shared_ptr<const LoadedModel> model, const SessionOptions& options,
                    const Budget& budget, Device& device, std::shared_ptr<Runner> runner) {
  return MakeSession(SessionHome{Model(std::make_shared<Model::Impl>(std::nullopt, std::move(model))), budget,
                                 &device, std::move(runner)},
                     options);
}

Session MakeSession(const SessionHome& home, const SessionOptions& options) {
  const LoadedModel& model = *home.model.impl()->loaded;
  Check(options, model);
  if (options.context == "auto")
    Fail(ErrorKind::kInput, "a session without an engine needs a definite context");
  ContextSettings settings = InnerContext(options, home.runner->max_rows());
  settings.policy = PolicyOf(model.context_shape(), settings);
  return Session(std::make_shared<Session::Impl>(home, options, std::move(settings)));
}

Session::Session(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

const Model& Session::model() const { return impl_->model; }
const SessionOptions& Session::options() const { return impl_->options; }
const std::string& Session::context_reason() const { return impl_->context_reason; }
const SessionStats& Session::stats() const { return impl_->stats; }
MemoryReport Session::memory() const { return impl_->budget.Report(); }
std::vector<LedgerRange> Session::Ledger() const { return impl_->context->Ledger(); }
std::vector<RecalledRange> Session::Recalled() const {
  std::vector<RecalledRange> ranges;
  for (RecalledSlice& slice : impl_->context->Recalled()) {
    ranges.push_back({.begin = impl_->context->start_position() + slice.begin,
                      .tokens = std::move(slice.tokens),
                      .score = slice.score,
                      .bias = slice.bias});
  }
  return ranges;
}
int64_t Session::num_tokens() const { return impl_->context->num_tokens(); }
Position Session::next_position() const { return impl_->context->next_position(); }
int64_t Session::max_rows() const { return impl_->MaxRows(); }
int64_t Session::text_bytes() const { return impl_->text_bytes; }
uint64_t Session::text_hash() const { return impl_->text_hash.digest(); }

int64_t Session::pending_bytes() const {
  return impl_->encoder.has_value() ? static_cast<int64_t>(impl_->encoder->pending_bytes()) : 0;
}

std::vector<TokenId> Session::RecentTokens() const {
  const auto entries = impl_->history.Last(impl_->history.capacity());
  std::vector<TokenId> tokens(entries.size());
  std::transform(entries.begin(), entries.end(), tokens.begin(), TokenHistory::IdOf);
  return tokens;
}

// ---- feeding

void Session::Impl::CheckWhole() const {
  if (holder != kFeed) return;
  Fail(ErrorKind::kInput, "a Feed is in the middle of this session: its callback may not save or copy it");
}

void Session::Impl::CheckFree() const {
  if (holder.empty()) return;
  Fail(ErrorKind::kInput,
       "{} is in the middle of this session: let it end, or destroy it, before the session changes", holder);
}

int64_t Session::Impl::MaxRows() const { return runner->max_rows(); }

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
  SpeedLog& log = tokens.size() == 1 && !is_reading ? stats.decode : stats.prefill;
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

namespace {

struct Reading {  // what is fed is no part of an answer, however few tokens a chunk has
  explicit Reading(bool* flag) : flag_(flag) { *flag_ = true; }
  ~Reading() { *flag_ = false; }
  bool* flag_;
};

}  // namespace

size_t Session::Impl::FeedChunks(std::span<const TokenId> tokens, bool is_pause, StopToken stop,
                                 const RowCallback* on_logits) {
  const Reading reading(&is_reading);
  size_t done = 0;
  while (done < tokens.size() && !stop.stop_requested()) {
    const size_t count = std::min(tokens.size() - done, static_cast<size_t>(MaxRows()));
    const bool is_last = done + count == tokens.size();
    ForwardChunkOf(tokens.subspan(done, count), is_pause, !is_last, on_logits);
    done += count;
  }
  return done;
}

int64_t Session::Feed(std::span<const TokenId> tokens, StopToken stop, const RowCallback& on_row) {
  impl_->CheckFree();
  impl_->CheckTokens(tokens);
  impl_->FeedOwed();
  impl_->FinishText();
  impl_->decoder.reset();
  if (!on_row) return static_cast<int64_t>(impl_->FeedChunks(tokens, /*is_pause=*/false, stop, nullptr));
  const Impl::Holding holding(impl_.get(), kFeed);
  return static_cast<int64_t>(impl_->FeedChunks(tokens, /*is_pause=*/false, stop, &on_row));
}

// ---- text

void Session::Impl::DropText() {
  encoder.reset();
  ids.clear();
  text_open = false;
}

bool Session::Impl::StartsWithBos() const {
  const Tokenizer& tokenizer = model.tokenizer();
  return options.add_bos && tokenizer.adds_bos() && tokenizer.bos_id() >= 0;
}

int64_t Session::Impl::FeedText(std::string_view text, TextKind kind, StopToken stop) {
  const Tokenizer& tokenizer = model.tokenizer();
  FeedOwed();
  decoder.reset();
  // BOS comes once per stream, not once per text, so the encoder does not add it.
  if (!encoder.has_value()) encoder.emplace(tokenizer, kSessionEncode);
  const bool at_start = context->num_tokens() == 0 && !text_open;
  FeedWaiting(ids.size(), stop);  // first, or what a full context refuses would grow without bound
  if (at_start && StartsWithBos()) ids.push_back(tokenizer.bos_id());
  text_open = true;
  size_t taken = 0;
  while (taken < text.size() && !stop.stop_requested()) {
    const std::string_view slice = text.substr(taken, kTextSliceBytes);
    kind == TextKind::kFormat ? encoder->Feed(slice, &ids) : encoder->FeedPlain(slice, &ids);
    taken += slice.size();
    text_bytes += static_cast<int64_t>(slice.size());
    text_hash.Add(slice);
    // Whole chunks now; the rest waits for the next slice, which fills it up.
    const size_t num_rows = static_cast<size_t>(MaxRows());
    FeedWaiting(ids.size() / num_rows * num_rows, stop);
  }
  FeedWaiting(ids.size(), stop);
  return static_cast<int64_t>(taken);
}

// Feeds the first `count` of the ids that wait. What a failure or a stop leaves waits on: text_bytes counts
// its text, and a state that is saved then must not lose it.
void Session::Impl::FeedWaiting(size_t count, StopToken stop) {
  if (count == 0) return;
  const int64_t before = context->num_tokens();
  const auto take = [&] { ids.erase(ids.begin(), ids.begin() + (context->num_tokens() - before)); };
  try {
    CheckTokens(ids);
    FeedChunks(std::span(ids).first(count), false, stop, nullptr);
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

int64_t Session::FeedText(std::string_view text, TextKind kind, StopToken stop) {
  impl_->CheckFree();
  return impl_->FeedText(text, kind, stop);
}

void Session::FinishText() {
  impl_->CheckFree();
  impl_->FinishText();
}

// ---- turns

void Session::BeginTurn() {
  impl_->CheckFree();
  impl_->context->BeginTurn();
}

void Session::Impl::FeedOwed() {
  const Reading reading(&is_reading);
  while (!owed_turn.empty()) {
    // Pauses and others apart.
    const bool is_pause = owed_turn[0] < 0;
    std::vector<TokenId> ids;
    for (const TokenId entry : owed_turn) {
      if ((entry < 0) != is_pause || static_cast<int64_t>(ids.size()) == MaxRows()) break;
      ids.push_back(TokenHistory::IdOf(entry));
    }
    ForwardChunkOf(ids, is_pause, ids.size() < owed_turn.size(), nullptr);
    owed_turn.erase(owed_turn.begin(), owed_turn.begin() + static_cast<ptrdiff_t>(ids.size()));
  }
}

void Session::Impl::EndTurn() {
  FeedOwed();
  const int64_t count = context->Replay(static_cast<int64_t>(history.size()), device);
  if (count == 0) return;
  const std::span<const TokenId> turn = history.Last(static_cast<size_t>(count));
  owed_turn.assign(turn.begin(), turn.end());
  history.Pop(owed_turn.size());
  has_logits = false;
  FeedOwed();
}

// ---- logits, sampling, rewinding

void Session::Impl::EnsureLogits() {
  if (has_logits) return;
  if (context->num_tokens() == 0) {
    Fail(ErrorKind::kInput, "the stream is empty: there is nothing to continue; feed a token first");
  }
  // A failure (the model's file changed) must not cost one more token with every attempt.
  if (!owed.has_value() || owed->second != context->num_tokens()) {
    owed = {history.Last(1)[0], context->num_tokens() - 1};
    context->TakeBackLast();
    history.Pop(1);
  }
  const TokenId id = TokenHistory::IdOf(owed->first);
  ForwardChunkOf({&id, 1}, owed->first < 0, false, nullptr);
  owed.reset();
}

std::span<const float> Session::Logits() {
  if (!impl_->has_logits) impl_->CheckFree();  // they are computed by going back
  if (impl_->holder.empty()) impl_->EndTurn();
  impl_->EnsureLogits();
  return {impl_->logits.get(), impl_->vocab_size()};
}

TokenId Session::Impl::Sample(std::span<const TokenId> banned) {
  EnsureLogits();
  return SampleFrom({logits.get(), vocab_size()}, banned);
}

TokenId Session::Impl::SampleFrom(std::span<const float> from, std::span<const TokenId> banned) {
  return sampler.Sample(from, history.Last(static_cast<size_t>(sampler.settings().repetition_window)),
                        context->num_tokens(), banned);
}

TokenId Session::Sample() {
  impl_->CheckFree();
  impl_->FinishText();
  impl_->EndTurn();
  return impl_->Sample();
}

int64_t Session::Impl::MaxRewind() const {
  const int64_t num_tokens = context->num_tokens(), deepest = context->MaxRewind();
  // One is kept for the logits, unless all go.
  const int64_t of_context = deepest >= num_tokens ? num_tokens : std::max<int64_t>(deepest - 1, 0);
  // What the sampler looks at must be there then, or the stream would not be the one that it was.
  const auto known = static_cast<int64_t>(history.size());
  if (known >= num_tokens) return of_context;
  const int64_t needed = std::max<int64_t>(options.sampler.repetition_window, 1);
  return std::clamp<int64_t>(known - needed, 0, of_context);
}

void Session::Impl::Rewind(int64_t count) {
  FeedOwed();
  if (count < 0 || count > MaxRewind()) {
    Fail(ErrorKind::kInput,
         "cannot go back by {} tokens: {} can be taken back now (the longest rewind is set to {} tokens when "
         "a "
         "session is made, and what was taken back before counts until as many were fed again)",
         count, MaxRewind(), options.max_rewind);
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

void Session::Impl::SetSampler(const SamplerOptions& settings) {
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

void Session::SetSampler(const SamplerOptions& settings) {
  impl_->CheckFree();
  impl_->SetSampler(settings);
}

double LogProbability(std::span<const float> logits, TokenId token) {
  return static_cast<double>(logits[static_cast<size_t>(token)]) - LogSumExp(logits.data(), logits.size());
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
