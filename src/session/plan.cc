#include "mneme/plan.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "base/text/units.h"
#include "context/policy.h"
#include "mneme/calibrate.h"
#include "model/model_impl.h"
#include "session/fields.h"
#include "session/resolve.h"
#include "session/session_impl.h"

namespace mneme {
namespace {

// Tokens that a query sees, averaged over the stream. What a bounded context keeps, all of it is seen; of
// what is stored, what comes back.
double MeanVisible(const LoadedModel& model, const SessionOptions& options, const Policy& policy,
                   size_t kv_bytes, int64_t num_tokens) {
  const RecallOptions* const recall = policy.recall();
  const double kept = recall != nullptr ? static_cast<double>(recall->sinks + recall->window + recall->budget)
                                        : static_cast<double>(kv_bytes) / KvBytesPerToken(model, options);
  const auto n = static_cast<double>(num_tokens);
  // Grows to `kept`, then stays.
  return n <= kept ? n / 2 : (kept * kept / 2 + (n - kept) * kept) / n;
}

constexpr size_t kMiB = size_t{1} << 20;
// Measured (x86-64, glibc): program and libraries 13 MiB if all of it is touched; what a report of the
// longest kept answer takes while it is written, 6; the arguments, at most 2; the last huge page of packed
// weights, 2.
constexpr size_t kProgramBytes = 24 * kMiB;
// Stack and malloc arena of a thread.
constexpr size_t kThreadBytes = kMiB / 4;

size_t RoundUp(size_t bytes) { return (bytes / kMiB + (bytes % kMiB != 0 ? 1 : 0)) * kMiB; }

}  // namespace

size_t SessionBytes::total() const {
  return SaturatingAdd(kv_bytes, SaturatingAdd(scratch_bytes, other_bytes));
}

namespace {

// What a session would choose by, if that is known already.
void UseKnownCalibration(const Model& model) {
  if (!model.impl()->loaded->context_shape().recall.heads.empty()) return;
  if (const std::optional<Calibration> found = FindCalibration(model)) UseCalibration(model, *found);
}

}  // namespace

ContextChoice ChooseContext(const Model& model, const SessionOptions& options, size_t more_bytes) {
  CheckOptions(options);
  if (Recalls(options.context)) UseKnownCalibration(model);
  SessionLimits limits = LimitsOf(model);
  limits.used_bytes = SaturatingAdd(limits.used_bytes, more_bytes);
  ResolvedContext resolved = ResolveSession(*model.impl()->loaded, options, limits);
  return {std::move(resolved.settings.spec), std::move(resolved.reason)};
}

namespace {

// Fills what a resolved context takes.
void FillRow(const LoadedModel& model, const SessionOptions& options, const ContextSettings& settings,
             const SpeedEstimate* speed, size_t num_threads, PlanRow* row) {
  row->context = settings.spec;
  row->bytes = PeakSessionBytes(model, options, settings, options.expected_tokens, num_threads);
  if (speed == nullptr || options.expected_tokens < 0) return;
  const double visible =
      MeanVisible(model, options, *settings.policy, row->bytes.kv_bytes, options.expected_tokens);
  row->seconds = static_cast<double>(options.expected_tokens) * speed->SecondsFor(visible);
  row->slow_seconds = row->seconds * speed->slow_factor;
}

}  // namespace

std::vector<PlanRow> PlanRun(const Model& model, const SessionOptions& options, const SpeedEstimate* speed) {
  CheckOptions(options);
  UseKnownCalibration(model);
  const LoadedModel& loaded = *model.impl()->loaded;
  const SessionLimits limits = LimitsOf(model);
  std::vector<PlanRow> rows;
  for (const ContextInfo& context : ContextTable()) {
    PlanRow row{.name = std::string(context.name),
                .context = std::string(context.name),
                .help = std::string(context.help),
                .paper = std::string(context.paper)};
    SessionOptions session = options;
    session.context = row.name;
    const auto fill = [&](const SessionLimits& under) {
      FillRow(loaded, session, ResolveSession(loaded, session, under).settings, speed, limits.num_threads,
              &row);
    };
    try {
      fill(limits);
      row.fits = row.bytes.total() <= limits.cap_bytes && row.bytes.kv_bytes != SIZE_MAX;
      if (row.bytes.kv_bytes == SIZE_MAX) {
        row.note = "grows without bound; give the number of tokens to see how far the cap reaches";
      }
    } catch (const Error& error) {
      row.note = error.what();
      // What it would take with room enough, if it can be at all.
      SessionLimits endless = limits;
      endless.cap_bytes = SIZE_MAX;
      session.memory_bytes = 0;
      try {
        fill(endless);
      } catch (const Error&) {
        row.bytes = {};  // the note says why
      }
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

// ---- one sum

size_t MemorySum::total_bytes() const {
  const size_t parts =
      RoundUp(weight_bytes) + RoundUp(packed_bytes) + RoundUp(cap_bytes) + RoundUp(program_bytes);
  return std::max(parts, RoundUp(load_peak_bytes));
}

std::string MemorySum::ToString() const {
  const auto in_mib = [](size_t bytes) { return RoundUp(bytes) / kMiB; };
  std::string text = fmt::format("weights {} MiB", in_mib(weight_bytes));
  for (const auto& [name, bytes] : {std::pair("packed", packed_bytes), std::pair("cap", cap_bytes),
                                    std::pair("program", program_bytes)}) {
    if (bytes > 0) text += fmt::format(" + {} {} MiB", name, in_mib(bytes));
  }
  const size_t total = total_bytes();
  if (total == RoundUp(load_peak_bytes)) text += fmt::format("; while loading {} MiB", in_mib(total));
  return text + fmt::format(" = {0} MiB at most (MemoryMax={0}M)", in_mib(total));
}

MemorySum SumMemory(const Model& model) {
  const ModelInfo& info = model.info();
  // A quarter more for what allocation loses between blocks.
  const size_t tables = info.table_bytes + info.table_bytes / 4;
  return {.weight_bytes = info.mapped_bytes,
          .packed_bytes = info.packed_bytes,
          .cap_bytes = model.engine().options().memory_bytes,
          .program_bytes = kProgramBytes + model.engine().num_threads() * kThreadBytes + tables,
          .load_peak_bytes = info.load_peak_bytes};
}

}  // namespace mneme
