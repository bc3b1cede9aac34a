#include "cli/stream.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "base/error.h"
#include "base/file.h"
#include "base/message.h"
#include "base/units.h"
#include "cli/state_file.h"
#include "session/plan.h"
#include "session/text_hash.h"

namespace mneme::cli {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void WarnOfFewerThreads(const ThreadPool& pool) {
  if (pool.num_threads() == pool.num_threads_asked()) return;
  PrintMessage(
      "mneme: the system gave {} of {} threads (`ulimit -u` may be the limit); the results are the same, "
      "later\n",
      pool.num_threads(), pool.num_threads_asked());
}

LoadedModel::LoadedModel(const ModelArguments& arguments, bool load_tokenizer, const std::string& state)
    : pool(arguments.engine.num_threads) {
  ModelArguments chosen = arguments;
  if (!state.empty() && HoldsState(state)) {
    saved = ReadSnapshotInfo(state);
    const bool is_typed = std::any_of(arguments.typed.begin(), arguments.typed.end(),
                                      [](const Setting& setting) { return setting.name == "pack"; });
    if (!is_typed) chosen.options.pack = saved->pack;
  }
  WarnOfFewerThreads(pool);
  const auto start = std::chrono::steady_clock::now();
  model = LoadModel(chosen, pool, load_tokenizer);
  load_seconds = SecondsSince(start);
}

Stream::Stream(LoadedModel& loaded, const StreamSettings& settings)
    : cap(ToMemoryCap(settings.engine)), budget(cap.bytes), state(settings.state) {
  if (!state.empty()) loaded.model->fingerprint();  // a state has it; now the files are whole
  if (!state.empty() && HoldsState(state)) {
    session = Session::Restore(loaded.model, state, settings.typed, budget, loaded.pool);
    context_reason = fmt::format("as in the saved state {}", state);
    is_restored = true;
    return;
  }
  SessionOptions options = settings.options;
  ResolvedContext resolved = ResolveSessionContext(*loaded.model, options, cap.bytes, settings.num_tokens,
                                                   loaded.pool.num_threads());
  options.context = resolved.settings;
  context_reason = std::move(resolved.reason);
  session = std::make_unique<Session>(loaded.model, options, budget, loaded.pool);
}

void Stream::Bind(const std::string& option, const std::string& value, bool may_come_later) {
  if (value.empty()) return;
  std::string name = option.substr(option.find_first_not_of('-'));
  std::replace(name.begin(), name.end(), '-', '_');
  const std::string kept = session->note(name);
  if (!is_restored || (may_come_later && kept.empty())) return session->SetNote(name, value);
  if (kept == value) return;
  Fail(ErrorKind::kMismatch,
       "{}: the stream in {} did not begin with this one, and its beginning cannot be changed any more; "
       "leave the "
       "option out, or begin another state",
       option, state);
}

std::string SystemNote(std::string_view system) {
  if (system.empty()) return "";
  TextHash hash;
  hash.Add(system);
  return fmt::format("{:016x}", hash.digest());
}

void PrintStart(const Stream& stream, const LoadedModel& loaded) {
  const Model& model = *loaded.model;
  PrintMessage("model: {} ({}), {} of weights{}\n", model.config().name, model.config().family,
               FormatBytes(model.weight_bytes()),
               model.packed_bytes() > 0
                   ? fmt::format(", {} repacked for speed (not under the cap; --pack never)",
                                 FormatBytes(model.packed_bytes()))
                   : "");
  const std::string context = stream.session->context().Describe();
  const std::string& reason = stream.context_reason;
  PrintMessage("context: {}\n", reason.empty()                ? context
                                : reason.starts_with(context) ? "auto picked " + reason
                                                              : fmt::format("{} ({})", context, reason));
  PrintMessage("memory cap: {}\n", stream.cap.ToString());
  if (!stream.session->restore_note().empty()) PrintMessage("state: {}\n", stream.session->restore_note());
}

}  // namespace mneme::cli
