#include "cli/stream.h"

#include <fmt/core.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "base/checked.h"
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

// What the program holds on the heap; 0 where the C library cannot tell.
size_t HeapBytes() {
#if defined(__GLIBC__)
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
#else
  return 0;
#endif
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
    : device(arguments.engine.num_threads) {
  ModelArguments chosen = arguments;
  if (!state.empty() && HoldsState(state)) {
    saved = ReadSnapshotInfo(state);
    const bool is_typed = std::any_of(arguments.typed.begin(), arguments.typed.end(),
                                      [](const Setting& setting) { return setting.name == "pack"; });
    if (!is_typed) chosen.options.pack = saved->pack;
  }
  WarnOfFewerThreads(device.pool());
  const auto start = std::chrono::steady_clock::now();
  const size_t heap_before = HeapBytes();
  model = LoadModel(chosen, device, load_tokenizer);
  load_seconds = SecondsSince(start);
  const size_t before = heap_before + model->packed_bytes();
  table_bytes = std::max(HeapBytes(), before) - before;
  load_peak_bytes = PeakResidentBytes();
#if defined(__GLIBC__)
  ::malloc_trim(0);  // what parsing took goes back to the system
#endif
}

MemorySum LoadedModel::SumWith(size_t cap_bytes) const {
  return SumMemory(*model, cap_bytes, table_bytes, device.num_threads(), load_peak_bytes);
}

namespace {

// The context of a saved state is taken as it is: it fits, or the cap that would do is named.
void CheckSavedFits(const LoadedModel& loaded, const StreamSettings& settings, size_t cap_bytes) {
  const SnapshotInfo saved = loaded.saved ? *loaded.saved : ReadSnapshotInfo(settings.state);
  CompareModels(saved, SnapshotInfoOf(*loaded.model), settings.state);
  const size_t num_threads = loaded.device.num_threads();
  SessionBytes bytes = PeakSessionBytes(*loaded.model, saved.options, -1, num_threads);
  if (!bytes.is_bounded) {
    bytes = PeakSessionBytes(*loaded.model, saved.options, saved.num_tokens, num_threads);
  }
  const size_t total = SaturatingAdd(bytes.total(), settings.input_bytes);
  if (total <= cap_bytes) return;
  Fail(ErrorKind::kBudget, "{}: its context {} takes {}, and the memory cap is {}: give --memory at least {}",
       settings.state, saved.options.context.spec, FormatBytes(total), FormatBytes(cap_bytes),
       FormatBytesUp(total));
}

}  // namespace

Stream::Stream(LoadedModel& loaded, const StreamSettings& settings)
    : cap(ToMemoryCap(settings.engine)), budget(cap.bytes), state(settings.state) {
  weights_lease = budget.Reserve(MemoryTag::kWeights, loaded.model->mapped_bytes(), "the weights");
  packed_lease = budget.Reserve(MemoryTag::kPacked, loaded.model->packed_bytes(), "the repacked weights");
  const auto keep_input = [&] {
    input_lease = budget.Reserve(MemoryTag::kInput, settings.input_bytes, "the lines of the input");
  };
  if (!state.empty()) loaded.model->fingerprint();  // a state has it; now the files are whole
  if (!state.empty() && HoldsState(state)) {
    CheckSavedFits(loaded, settings, cap.bytes);
    keep_input();
    session = Session::Restore(loaded.model, state, settings.typed, budget, loaded.device);
    context_reason = fmt::format("as in the saved state {}", state);
    is_restored = true;
    return;
  }
  SessionOptions options = settings.options;
  ResolvedContext resolved = ResolveSessionContext(*loaded.model, options, cap.bytes, settings.num_tokens,
                                                   loaded.device.num_threads(), settings.input_bytes);
  options.context = resolved.settings;
  context_reason = std::move(resolved.reason);
  keep_input();
  session = std::make_unique<Session>(loaded.model, options, budget, loaded.device);
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
                   ? fmt::format(", {} repacked for speed (--pack never)", FormatBytes(model.packed_bytes()))
                   : "");
  const std::string context = stream.session->context().Describe();
  const std::string& reason = stream.context_reason;
  PrintMessage("context: {}\n", reason.empty()                ? context
                                : reason.starts_with(context) ? "auto picked " + reason
                                                              : fmt::format("{} ({})", context, reason));
  PrintMessage("memory cap: {}\n", stream.cap.ToString());
  PrintMessage("memory: {}\n", loaded.SumWith(stream.cap.bytes).ToString());
  if (!stream.session->restore_note().empty()) PrintMessage("state: {}\n", stream.session->restore_note());
}

}  // namespace mneme::cli
