#include "mneme/scheduler.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "session/answer/generation.h"

namespace mneme {
namespace {

// The prompt of a job.
class FeedWork : public Work {
 public:
  FeedWork(Session::Impl& session, std::vector<TokenId> tokens)
      : session_(session), tokens_(std::move(tokens)) {
    session_.decoder.reset();
  }

  RowRequest Want(int64_t most_rows) override {
    num_asked_ = std::min(tokens_.size() - num_fed_, static_cast<size_t>(most_rows));
    return {.tokens = std::span(tokens_).subspan(num_fed_, num_asked_),
            .wants_logits = num_fed_ + num_asked_ == tokens_.size()};
  }
  void Took() override { num_fed_ += num_asked_; }
  void Failed(const Error&) override {}

  bool is_over() const { return num_fed_ == tokens_.size(); }
  int64_t num_fed() const { return static_cast<int64_t>(num_fed_); }

 private:
  Session::Impl& session_;
  std::vector<TokenId> tokens_;
  size_t num_fed_ = 0;
  size_t num_asked_ = 0;
};

struct RunningJob {
  RunningJob(Job given, std::vector<TokenId> tokens)
      : job(std::move(given)),
        keep(job.session->shared_impl()),
        session(*keep),
        feed(session, std::move(tokens)) {
    session.holder = "a Scheduler's job";
  }
  ~RunningJob() {
    if (is_over) return;
    answer.reset();
    session.holder = {};
  }

  Work& work() { return answer.has_value() ? static_cast<Work&>(*answer) : feed; }
  // One row is all that it can use.
  bool is_answering() const { return answer.has_value() && answer->is_answering(); }

  Job job;
  const std::shared_ptr<Session::Impl> keep;
  Session::Impl& session;
  FeedWork feed;
  std::optional<Generation::Impl> answer;
  bool is_over = false;
};

struct Event {
  std::shared_ptr<RunningJob> job;
  JobEvent event;
  std::optional<Error> error;
};

std::vector<TokenId> TokensOf(const Job& job) {
  Session::Impl& session = job.session->impl();
  if (job.text.empty()) {
    session.CheckTokens(job.tokens);
    return job.tokens;
  }
  const bool add_bos = session.context->num_tokens() == 0 && session.StartsWithBos();
  return EncodeSegments(session.model.tokenizer(), job.text, add_bos);
}

}  // namespace

struct MNEME_LOCAL Scheduler::Impl {
  // Calls `step`; an Error fails the job.
  template <typename Fn>
  void Guarded(const std::shared_ptr<RunningJob>& job, const Fn& step);
  void Say(const std::shared_ptr<RunningJob>& job, JobEvent event, std::optional<Error> error = std::nullopt);
  void Fail(const std::shared_ptr<RunningJob>& job, const Error& error);
  void Done(const std::shared_ptr<RunningJob>& job, StopReason reason);
  // Pieces of the answer, and the end of what has ended.
  void Advance(const std::shared_ptr<RunningJob>& job);
  void EndStopped();
  void Collect();
  void Ask(const std::shared_ptr<RunningJob>& job, int64_t most_rows);
  void Run();
  void Deliver();

  explicit Impl(const Model& of) : model(of) {}

  Model model;
  int64_t asked_rows = 0;
  std::vector<std::shared_ptr<RunningJob>> jobs;
  size_t first = 0;  // whose turn it is to be asked first
  // Of the present step.
  std::vector<std::shared_ptr<RunningJob>> asked;
  std::vector<SessionRows> rows;
  int64_t rows_left = 0;
  std::vector<Event> events;
};

Scheduler::Scheduler(const Model& model, int64_t rows_per_step) : impl_(std::make_unique<Impl>(model)) {
  impl_->asked_rows = rows_per_step;
}

Scheduler::~Scheduler() = default;

size_t Scheduler::num_jobs() const { return impl_->jobs.size(); }

void Scheduler::Add(Job job) {
  if (job.session == nullptr) mneme::Fail(ErrorKind::kInput, "a job needs a session");
  if (!job.tokens.empty() && !job.text.empty()) {
    mneme::Fail(ErrorKind::kInput, "a job feeds tokens or text, and this one has both");
  }
  Session::Impl& session = job.session->impl();
  session.CheckFree();
  if (session.model.impl() != impl_->model.impl()) {
    mneme::Fail(ErrorKind::kInput, "a scheduler runs sessions of one model object; this one is of another");
  }
  session.FinishText();
  std::vector<TokenId> tokens = TokensOf(job);
  impl_->jobs.push_back(std::make_shared<RunningJob>(std::move(job), std::move(tokens)));
}

bool Scheduler::Step() {
  impl_->EndStopped();
  impl_->Collect();
  impl_->Run();
  std::erase_if(impl_->jobs, [](const auto& job) { return job->is_over; });
  impl_->Deliver();
  return !impl_->jobs.empty();
}

template <typename Fn>
void Scheduler::Impl::Guarded(const std::shared_ptr<RunningJob>& job, const Fn& step) {
  try {
    step();
  } catch (const Error& error) {
    Fail(job, error);
  } catch (const std::exception& error) {  // of a filter, say: the others must not suffer from it
    Fail(job, Error(ErrorKind::kInput, error.what()));
  } catch (...) {
    Fail(job, Error(ErrorKind::kInput, "something was thrown that is no exception"));
  }
}

void Scheduler::Impl::Say(const std::shared_ptr<RunningJob>& job, JobEvent event,
                          std::optional<Error> error) {
  if (event.kind == JobEvent::kDone || event.kind == JobEvent::kFailed) {
    job->is_over = true;
    job->answer.reset();
    job->session.holder = {};
  }
  if (job->job.on_event) events.push_back({job, std::move(event), std::move(error)});
}

void Scheduler::Impl::Fail(const std::shared_ptr<RunningJob>& job, const Error& error) {
  Say(job, {.kind = JobEvent::kFailed, .num_fed = job->feed.num_fed()}, error);
}

void Scheduler::Impl::Done(const std::shared_ptr<RunningJob>& job, StopReason reason) {
  JobEvent event{.kind = JobEvent::kDone, .num_fed = job->feed.num_fed()};
  event.result.reason = reason;
  if (job->answer.has_value()) event.result = job->answer->result();
  Say(job, std::move(event));
}

void Scheduler::Impl::Advance(const std::shared_ptr<RunningJob>& job) {
  if (!job->answer.has_value()) {
    if (!job->feed.is_over()) return;
    if (!job->job.generate.has_value()) return Done(job, StopReason::kMaxTokens);
    job->session.holder = {};
    job->answer.emplace(job->keep, *job->job.generate);
    job->answer->stop = job->job.stop;
    job->session.holder = "a Scheduler's job";
  }
  while (std::optional<Piece> piece = job->answer->TakePiece()) {
    Say(job, {.kind = JobEvent::kPiece, .num_fed = job->feed.num_fed(), .piece = *std::move(piece)});
  }
  if (job->answer->is_over()) Done(job, job->answer->result().reason);
}

void Scheduler::Impl::EndStopped() {
  for (const auto& job : jobs) {
    if (!job->job.stop.stop_requested()) continue;
    Guarded(job, [&] {
      if (!job->answer.has_value()) return Done(job, StopReason::kInterrupted);
      job->answer->Settle();
      if (!job->answer->is_over()) job->answer->End(StopReason::kInterrupted);
      Advance(job);
    });
  }
}

void Scheduler::Impl::Ask(const std::shared_ptr<RunningJob>& job, int64_t most_rows) {
  Guarded(job, [&] {
    const RowRequest request = job->work().Want(std::min(most_rows, job->session.MaxRows()));
    Advance(job);  // what was chosen just now
    if (job->is_over || request.tokens.empty()) return;
    asked.push_back(job);
    rows.push_back({.session = &job->session, .request = request});
    rows_left -= static_cast<int64_t>(request.tokens.size());
  });
}

// Answers first, one row each; what is left is shared by the prompts. Who comes first changes with every
// step, so that nobody waits for ever.
void Scheduler::Impl::Collect() {
  asked.clear();
  rows.clear();
  rows_left = jobs.empty() ? 0 : jobs[0]->session.MaxRows();
  if (asked_rows > 0) rows_left = std::min(rows_left, asked_rows);
  std::vector<std::shared_ptr<RunningJob>> prompts;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const auto& job = jobs[(first + i) % jobs.size()];
    if (job->is_over) continue;
    if (!job->answer.has_value() && job->feed.is_over()) Guarded(job, [&] { Advance(job); });  // no prompt
    if (job->is_over) continue;
    if (!job->is_answering()) {
      prompts.push_back(job);
    } else if (rows_left > 0) {
      Ask(job, 1);
    }
  }
  for (size_t i = 0; i < prompts.size() && rows_left > 0; ++i) {
    const auto num_waiting = static_cast<int64_t>(prompts.size() - i);
    Ask(prompts[i], std::max<int64_t>(rows_left / num_waiting, 1));
  }
  ++first;
}

void Scheduler::Impl::Run() {
  try {
    ForwardRows(rows);
  } catch (const Error& error) {
    // Of the call itself: no session has changed, and no other call would go better.
    for (const auto& job : asked) Fail(job, error);
    return;
  }
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto& job = asked[i];
    Guarded(job, [&] {
      if (rows[i].refused.has_value()) {
        job->work().Failed(*rows[i].refused);
        // An answer ends where its context is full; everything else is an error.
        if (!job->answer.has_value() || job->answer->result().reason != StopReason::kContextFull)
          throw *rows[i].refused;
      } else {
        const bool is_prompt = !job->answer.has_value();
        job->work().Took();
        if (is_prompt) Say(job, {.kind = JobEvent::kFed, .num_fed = job->feed.num_fed()});
      }
      Advance(job);
    });
  }
}

void Scheduler::Impl::Deliver() {
  // A callback may add jobs, and so must not see a list that is being walked.
  const std::vector<Event> now = std::exchange(events, {});
  std::exception_ptr first;
  for (const Event& event : now) {
    JobEvent said = event.event;
    said.error = event.error ? &*event.error : nullptr;
    try {
      event.job->job.on_event(said);
    } catch (...) {  // others are waiting for theirs
      if (first == nullptr) first = std::current_exception();
    }
  }
  if (first != nullptr) std::rethrow_exception(first);
}

}  // namespace mneme
