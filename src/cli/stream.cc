#include "cli/stream.h"

#include <fmt/core.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <chrono>
#include <span>

#include "base/error.h"
#include "base/message.h"
#include "base/text/text_hash.h"
#include "base/text/units.h"
#include "cli/state_file.h"

namespace mneme::cli {

namespace {

// --pack float32, int16 and bf16 are about float weights.
void CheckFloatProducts(const ModelInfo& info, std::string_view pack) {
  for (const char* encoding : {"f32", "f16", "bf16"})
    if (("," + info.products).find("," + std::string(encoding) + ":") != std::string::npos) return;
  FailUsage(fmt::format(
      "--pack {} says how float weights are multiplied, and {} has none ({}): it would change nothing", pack,
      info.path, info.products));
}

// What is asked for a model that it has no use for.
void CheckRopeLength(const ModelInfo& info, std::span<const Setting> typed) {
  for (const Setting& setting : typed) {
    if (setting.name != "rope_length" || info.rope_length > 0) continue;
    FailUsage(fmt::format(
        "--rope-length: {} rotates alike in streams of any length, so it would change nothing", info.path));
  }
}

void CheckPackCache(const ModelOptions& options) {
  if (options.pack_cache.empty()) return;
  if (options.pack != PackMode::kNever && options.pack != PackMode::kExact) return;
  FailUsage(fmt::format("--pack-cache keeps what repacking makes, and --pack {} repacks nothing",
                        options.pack == PackMode::kNever ? "never" : "exact"));
}

}  // namespace

std::string PackedText(const ModelInfo& info) {
  if (info.packed_bytes == 0) return "";
  const std::string bytes = FormatBytes(info.packed_bytes);
  if (!info.packed_copy.empty()) return fmt::format(", {} repacked, mapped from {}", bytes, info.packed_copy);
  return fmt::format(", {} repacked for speed (not with --pack never)", bytes);
}

OpenedModel::OpenedModel(const ModelArguments& arguments, const EngineOptions& rest, bool load_tokenizer,
                         const std::string& state)
    : model(Load(arguments, rest, load_tokenizer, state)) {}

Model OpenedModel::Load(const ModelArguments& arguments, const EngineOptions& rest, bool load_tokenizer,
                        const std::string& state) {
  ModelOptions options = arguments.options;
  options.load_tokenizer = load_tokenizer;
  if (!state.empty() && HoldsState(state)) {
    saved = ReadStateInfo(state);
    const bool is_typed = std::any_of(arguments.typed.begin(), arguments.typed.end(),
                                      [](const Setting& setting) { return setting.name == "pack"; });
    if (!is_typed) {
      options.pack = saved->pack;
      options.products = saved->products;
    }
  }
  CheckPackCache(options);
  const Engine engine = MakeEngine(arguments.engine, rest);
  const auto start = std::chrono::steady_clock::now();
  Model loaded = Model::Load(engine, ModelPath(arguments.path), options);
  const std::string_view products = options.pack == PackMode::kFloat32    ? "float32"
                                    : options.pack == PackMode::kInt16    ? "int16"
                                    : options.pack == PackMode::kBFloat16 ? "bf16"
                                                                          : "";
  if (!products.empty() && !saved) CheckFloatProducts(loaded.info(), products);
  load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
#if defined(__GLIBC__)
  ::malloc_trim(0);  // what parsing took goes back to the system
#endif
  return loaded;
}

Stream::Stream(const Model& model, const StreamSettings& settings)
    : session(Open(model, settings)), state_(settings.state) {}

Session Stream::Open(const Model& model, const StreamSettings& settings) {
  CheckRopeLength(model.info(), settings.typed);
  if (settings.state.empty()) return Session(model, settings.options);
  model.fingerprint();  // a state has it; now the files are whole
  if (!HoldsState(settings.state)) return Session(model, settings.options);
  is_restored = true;
  return Session::Restore(model, settings.state, settings.typed);
}

void Stream::Bind(const std::string& option, const std::string& value, bool may_come_later) {
  if (value.empty()) return;
  std::string name = option.substr(option.find_first_not_of('-'));
  std::replace(name.begin(), name.end(), '-', '_');
  const std::string kept = session.note(name);
  if (!is_restored || (may_come_later && kept.empty())) return session.SetNote(name, value);
  if (kept == value) return;
  Fail(ErrorKind::kMismatch,
       "{}: the stream in {} did not begin with this one, and its beginning cannot be changed any more; "
       "leave the "
       "option out, or begin another state",
       option, state_);
}

std::string Stream::ContextReason() const {
  return is_restored ? fmt::format("as in the saved state {}", state_) : session.context_reason();
}

void Stream::PrintStart(const EngineOptions& asked) const {
  const ModelInfo& info = session.model().info();
  PrintMessage("model: {} ({}), {} of weights{}\n", info.name, info.family, FormatBytes(info.weight_bytes),
               PackedText(info));
  for (const std::string& note : info.notes) PrintMessage("note: {}\n", note);
  const std::string& context = session.options().context;
  const std::string reason = ContextReason();
  PrintMessage("context: {}\n", reason.empty()                ? context
                                : reason.starts_with(context) ? "auto picked " + reason
                                                              : fmt::format("{} ({})", context, reason));
  if (const int64_t length = session.options().rope_length; length > 0 && info.rope_length > 0) {
    PrintMessage("positions: rotated for streams of up to {} tokens (--rope-length sets another)\n",
                 FormatCount(length));
  }
  PrintMessage("memory cap: {}\n", CapText(session.model().engine(), asked));
  PrintMessage("memory: {}\n", SumMemory(session.model()).ToString());
  if (!session.restore_note().empty()) PrintMessage("state: {}\n", session.restore_note());
}

std::string Stream::BeyondTraining() {
  const ModelInfo& info = session.model().info();
  const int64_t trained =
      std::max(info.trained_length, info.rope_length > 0 ? session.options().rope_length : 0);
  if (has_said_beyond_ || trained <= 0 || session.num_tokens() <= trained) return "";
  if (!session.options().context.starts_with("dense")) return "";
  has_said_beyond_ = true;
  return fmt::format(
      "note: past {} tokens, which the model was trained on at once; with context dense it reads worse from "
      "here on (--context sinks goes on as before)",
      FormatCount(trained));
}

std::string SystemNote(std::string_view system) {
  if (system.empty()) return "";
  TextHash hash;
  hash.Add(system);
  return fmt::format("{:016x}", hash.digest());
}

}  // namespace mneme::cli
