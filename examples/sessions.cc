// Several streams over one model: decoded together so that the weights are read once for all, cancelled,
// failing, cloned, rewound, saved and restored. Each step checks the library's promise that the bits are
// those of doing it alone.
//   sessions MODEL STATE_FILE
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/budget.h"
#include "kernels/cpu_device.h"
#include "model/model.h"
#include "session/plan.h"
#include "session/scheduler.h"
#include "session/session.h"

namespace {

void Require(bool condition, const char* promise) {
  if (!condition) throw std::runtime_error(std::string("broken promise: ") + promise);
  std::printf("ok: %s\n", promise);
}

std::vector<float> Logits(mneme::Session& session) {
  return {session.logits().begin(), session.logits().end()};
}

// The next tokens by greedy choice, one forward call per step for all sessions.
std::vector<std::vector<mneme::TokenId>> DecodeTogether(const std::vector<mneme::Session*>& sessions,
                                                        int64_t steps) {
  std::vector<std::vector<mneme::TokenId>> texts(sessions.size());
  mneme::Scheduler scheduler(sessions[0]->runner());
  for (size_t i = 0; i < sessions.size(); ++i) {
    scheduler.Add({.session = sessions[i],
                   .generate = mneme::GenerateOptions{.max_tokens = steps},
                   .on_event = [&texts, i](const mneme::JobEvent& event) {
                     if (event.kind == mneme::JobEvent::kPiece && event.piece.token >= 0)
                       texts[i].push_back(event.piece.token);
                   }});
  }
  while (scheduler.Step()) {
  }
  return texts;
}

void Run(const std::string& model_path, const std::string& state_path) {
  mneme::CpuDevice device;
  mneme::Budget budget(size_t{256} << 20);
  mneme::LoadOptions load;
  load.load_tokenizer = false;  // this program speaks in token ids
  const auto model = mneme::Model::Load(model_path, load, device);
  const auto vocab_size = static_cast<mneme::TokenId>(model->config().vocab_size);

  mneme::SessionOptions options;
  options.context.spec = "sinks:sinks=2,window=16";
  options.context.max_chunk = 32;
  options.context =
      mneme::ResolveSessionContext(*model, options, budget.cap_bytes(), -1, device.num_threads()).settings;

  // One set of activations serves all sessions.
  const auto runner = mneme::Session::MakeRunner(model, options.context.max_chunk, device, budget);
  std::vector<std::unique_ptr<mneme::Session>> sessions;
  std::vector<mneme::Session*> together;
  for (mneme::TokenId i = 0; i < 3; ++i) {
    sessions.push_back(std::make_unique<mneme::Session>(model, options, budget, device, runner));
    std::vector<mneme::TokenId> prompt;
    for (mneme::TokenId j = 0; j < 20 * (i + 1); ++j) prompt.push_back((7 * j + i + 1) % vocab_size);
    sessions.back()->Feed(prompt);
    together.push_back(sessions.back().get());
  }

  const std::unique_ptr<mneme::Session> clone = sessions[1]->Clone();
  const auto texts = DecodeTogether(together, 12);
  Require(DecodeTogether({clone.get()}, 12)[0] == texts[1] && Logits(*clone) == Logits(*sessions[1]),
          "decoding three sessions together gives the bits of decoding one alone");

  const std::vector<float> before = Logits(*sessions[0]);
  DecodeTogether({sessions[0].get()}, 5);
  sessions[0]->Rewind(5);
  Require(Logits(*sessions[0]) == before, "a rewound session is the session as it was");

  sessions[2]->Save(state_path);
  mneme::Session restored(model, options, budget, device, runner);
  restored.Restore(state_path);
  Require(restored.num_tokens() == sessions[2]->num_tokens() &&
              DecodeTogether({&restored}, 8) == DecodeTogether({sessions[2].get()}, 8) &&
              Logits(restored) == Logits(*sessions[2]),
          "a restored session goes on with the bits of one that never stopped");

  // One of three is cancelled, one fills its memory, and the third does not notice.
  mneme::Budget small(size_t{4} << 20);
  mneme::SessionOptions dense = options;
  dense.context.spec = "dense";
  mneme::Session reader(model, dense, small, device, runner);
  const std::unique_ptr<mneme::Session> steady = sessions[1]->Clone(), alone = sessions[1]->Clone();
  std::atomic<bool> stop{false};
  bool was_cancelled = false;
  std::string failure;
  std::vector<mneme::TokenId> answer;
  mneme::Scheduler scheduler(runner);
  scheduler.Add({.session = sessions[0].get(),
                 .generate = mneme::GenerateOptions{.max_tokens = -1},
                 .stop = &stop,
                 .on_event = [&](const mneme::JobEvent& event) {
                   if (event.kind == mneme::JobEvent::kDone)
                     was_cancelled = event.result.reason == mneme::StopReason::kInterrupted;
                 }});
  scheduler.Add({.session = &reader,
                 .tokens = std::vector<mneme::TokenId>(size_t{1} << 20, 5),
                 .on_event = [&](const mneme::JobEvent& event) {
                   if (event.kind == mneme::JobEvent::kFailed) failure = event.error->what();
                 }});
  scheduler.Add({.session = steady.get(),
                 .generate = mneme::GenerateOptions{.max_tokens = 100},
                 .on_event = [&](const mneme::JobEvent& event) {
                   if (event.kind == mneme::JobEvent::kPiece) answer.push_back(event.piece.token);
                 }});
  for (int step = 0; step < 20; ++step) scheduler.Step();
  stop = true;
  while (scheduler.Step()) {
  }
  Require(was_cancelled && !failure.empty() && answer == DecodeTogether({alone.get()}, 100)[0] &&
              Logits(*steady) == Logits(*alone),
          "a session that is cancelled and one that fails leave the third as it is");
  std::printf("the one that failed: %s\n", failure.c_str());
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
