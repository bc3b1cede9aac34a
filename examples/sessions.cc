// Several streams over one model: decoded together so that the weights are read once for all, cancelled,
// failing, cloned, rewound, saved and restored. Each step checks the library's promise that the bits are
// those of doing it alone.
//   sessions MODEL STATE_FILE
#include <mneme/scheduler.h>

#include <atomic>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using mneme::Session;
using mneme::TokenId;
using Tokens = std::vector<TokenId>;

void Require(bool condition, const char* promise) {
  if (!condition) throw std::runtime_error(std::string("broken promise: ") + promise);
  std::printf("ok: %s\n", promise);
}

std::vector<float> Logits(Session& session) { return {session.Logits().begin(), session.Logits().end()}; }

// Answers of so many tokens, one forward call per step for all sessions.
std::vector<Tokens> DecodeTogether(const mneme::Model& model, const std::vector<Session*>& sessions,
                                   int64_t steps) {
  std::vector<Tokens> answers(sessions.size());
  mneme::Scheduler scheduler(model);
  for (size_t i = 0; i < sessions.size(); ++i) {
    scheduler.Add({.session = sessions[i],
                   .generate = mneme::GenerateOptions{.max_tokens = steps},
                   .on_event = [&answers, i](const mneme::JobEvent& event) {
                     if (event.kind == mneme::JobEvent::kPiece && event.piece.token >= 0)
                       answers[i].push_back(event.piece.token);
                   }});
  }
  while (scheduler.Step()) {
  }
  return answers;
}

// Clone, rewind, save, restore.
void Keep(const mneme::Model& model, std::vector<Session>& sessions, const std::string& state_path) {
  Session clone = sessions[1].Clone();
  const std::vector<Tokens> answers = DecodeTogether(model, {&sessions[0], &sessions[1], &sessions[2]}, 12);
  Require(DecodeTogether(model, {&clone}, 12)[0] == answers[1] && Logits(clone) == Logits(sessions[1]),
          "decoding three sessions together gives the bits of decoding one alone");

  const std::vector<float> before = Logits(sessions[0]);
  DecodeTogether(model, {&sessions[0]}, 5);
  sessions[0].Rewind(5);
  Require(Logits(sessions[0]) == before, "a rewound session is the session as it was");

  sessions[2].Save(state_path);
  Session restored = Session::Restore(model, state_path);
  Require(restored.num_tokens() == sessions[2].num_tokens() &&
              DecodeTogether(model, {&restored}, 8) == DecodeTogether(model, {&sessions[2]}, 8) &&
              Logits(restored) == Logits(sessions[2]),
          "a restored session goes on with the bits of one that never stopped");

  // An option is given by its name, as on the command line. What a state is bound to is refused, never passed
  // over.
  const std::vector<mneme::Setting> warmer = {{"temperature", "0.8"}, {"top_k", "40"}, {"seed", "7"}};
  const std::vector<mneme::Setting> wider = {{"context", "sinks:window=400"}};
  std::string refusal;
  try {
    Session::Restore(model, state_path, wider);
  } catch (const mneme::Error& error) {
    refusal = error.what();
  }
  Require(Session::Restore(model, state_path, warmer).options().sampler.top_k == 40 && !refusal.empty(),
          "beside a state every option is taken or refused by name");
}

// One of three is cancelled, one fills its memory, and the third does not notice.
void Part(const mneme::Model& model, Session& cancelled, Session& steady) {
  mneme::SessionOptions dense{.context = "dense", .memory_bytes = size_t{2} << 20};
  Session reader(model, dense), alone = steady.Clone();
  std::atomic<bool> stop{false};
  bool was_cancelled = false;
  std::string failure;
  Tokens answer;
  mneme::Scheduler scheduler(model);
  scheduler.Add({.session = &cancelled,
                 .generate = mneme::GenerateOptions{.max_tokens = -1},
                 .stop = &stop,
                 .on_event = [&](const mneme::JobEvent& event) {
                   if (event.kind == mneme::JobEvent::kDone)
                     was_cancelled = event.result.reason == mneme::StopReason::kInterrupted;
                 }});
  scheduler.Add({.session = &reader,
                 .tokens = Tokens(size_t{1} << 20, 5),
                 .on_event = [&](const mneme::JobEvent& event) {
                   if (event.kind == mneme::JobEvent::kFailed) failure = event.error->what();
                 }});
  scheduler.Add({.session = &steady,
                 .generate = mneme::GenerateOptions{.max_tokens = 100},
                 .on_event = [&](const mneme::JobEvent& event) {
                   if (event.kind == mneme::JobEvent::kPiece) answer.push_back(event.piece.token);
                 }});
  for (int step = 0; step < 20; ++step) scheduler.Step();
  stop = true;  // from any thread, or a signal handler
  while (scheduler.Step()) {
  }
  Require(was_cancelled && !failure.empty() && answer == DecodeTogether(model, {&alone}, 100)[0] &&
              Logits(steady) == Logits(alone),
          "a session that is cancelled and one that fails leave the third as it is");
  std::printf("the one that failed: %s\n", failure.c_str());
}

void Run(const std::string& model_path, const std::string& state_path) {
  const mneme::Engine engine({.memory_bytes = size_t{256} << 20, .max_rows = 32});
  // This program speaks in token ids.
  const mneme::Model model = mneme::Model::Load(engine, model_path, {.load_tokenizer = false});
  std::vector<Session> sessions;
  for (TokenId i = 0; i < 3; ++i) {
    sessions.emplace_back(model, mneme::SessionOptions{.context = "sinks:sinks=2,window=16"});
    Tokens prompt;
    for (TokenId j = 0; j < 20 * (i + 1); ++j)
      prompt.push_back((7 * j + i + 1) % static_cast<TokenId>(model.info().vocab_size));
    sessions.back().Feed(prompt);
  }
  Keep(model, sessions, state_path);
  Part(model, sessions[0], sessions[1]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: sessions MODEL STATE_FILE\n");
    return 2;
  }
  try {
    Run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sessions: %s\n", error.what());
    return 1;
  }
  return 0;
}
