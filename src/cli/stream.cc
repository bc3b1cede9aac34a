#include "cli/stream.h"

#include <fmt/core.h>

#include <chrono>
#include <cstdio>

#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "session/plan.h"
#include "session/snapshot.h"

namespace mneme::cli {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

LoadedModel::LoadedModel(const ModelOptions& options, bool load_tokenizer) : pool(options.num_threads) {
  const auto start = std::chrono::steady_clock::now();
  model = LoadModel(options, pool, load_tokenizer);
  load_seconds = SecondsSince(start);
}

Stream::Stream(LoadedModel& loaded, const StreamSettings& settings)
    : cap(ToMemoryCap(settings.memory)), budget(cap.bytes) {
  SessionOptions options;
  options.context = settings.context;
  options.sampler = settings.sampler;
  options.encode = settings.encode;
  options.show_special = settings.show_special;
  const bool continues = !settings.state.empty() && FileExists(settings.state);
  if (continues && settings.context.spec == "auto") {
    // What the saved run settled on: auto must not decide anew because the cap or the input is another one.
    const SnapshotInfo saved = ReadSnapshotInfo(settings.state);
    options.context = saved.context;
    context_reason = fmt::format("as in the saved state {}", settings.state);
  } else {
    ResolvedContext resolved = ResolveSessionContext(*loaded.model, options, cap.bytes, settings.num_tokens,
                                                     loaded.pool.num_threads());
    options.context = resolved.settings;
    context_reason = std::move(resolved.reason);
  }
  session = std::make_unique<Session>(loaded.model, options, budget, loaded.pool);
  if (continues) {
    session->Restore(settings.state);
    session->set_sampler(settings.sampler);
    is_restored = true;
  }
}

void PrintStart(const Stream& stream, const LoadedModel& loaded) {
  const Model& model = *loaded.model;
  fmt::print(stderr, "model: {} ({}), {} of weights{}\n", model.config().name, model.config().family,
             FormatBytes(model.weight_bytes()),
             model.packed_bytes() > 0
                 ? fmt::format(", {} repacked for speed (not under the cap; --pack never)",
                               FormatBytes(model.packed_bytes()))
                 : "");
  const std::string context = stream.session->context().Describe();
  const std::string& reason = stream.context_reason;
  fmt::print(stderr, "context: {}\n",
             reason.empty()                ? context
             : reason.starts_with(context) ? "auto picked " + reason
                                           : fmt::format("{} ({})", context, reason));
  fmt::print(stderr, "memory cap: {}\n", stream.cap.ToString());
}

}  // namespace mneme::cli
