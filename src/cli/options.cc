#include "cli/options.h"

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/types.h"
#include "base/units.h"
#include "context/registry.h"
#include "formats/gguf.h"

namespace mneme::cli {
namespace {

constexpr const char* kDefaultModel = "mneme-tiny.gguf";

std::string ProgramFolder() {
  char buffer[4096];
  const ssize_t length = readlink("/proc/self/exe", buffer, sizeof(buffer));
  if (length <= 0) return ".";
  const std::string path(buffer, static_cast<size_t>(length));
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

// A number in a file of one number, or after a label; 0 where it is absent.
size_t ReadNumber(const char* path, const char* label) {
  std::FILE* file = std::fopen(path, "r");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long long value = 0;
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    const char* start = line;
    if (label != nullptr) {
      if (std::strncmp(line, label, std::strlen(label)) != 0) continue;
      start += std::strlen(label);
    }
    if (std::sscanf(start, "%llu", &value) == 1) break;
  }
  std::fclose(file);
  return static_cast<size_t>(value);
}

Encoding ToKvEncoding(const std::string& text, const char* option) {
  const std::optional<Encoding> encoding = ParseEncoding(text);
  if (encoding) {
    switch (*encoding) {
      case Encoding::kF32:
      case Encoding::kF16:
      case Encoding::kBF16:
      case Encoding::kQ8_0:
      case Encoding::kQ4_0:
        return *encoding;
      default:
        break;
    }
  }
  Fail(ErrorKind::kInput,
       "{}: '{}' is not an encoding for keys and values; they are f32, f16, bf16, q8_0, q4_0", option, text);
}

// A value of the command line that cannot be read is a usage error.
template <typename Fn>
auto AsUsage(const Fn& fn) {
  try {
    return fn();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInput) throw;
    FailUsage(error.what());
  }
}

ContextSettings ParseContextSettings(const ContextOptions& options);

}  // namespace

CLI::Option* AddListOption(CLI::App& verb, const std::string& name, std::vector<std::string>* values,
                           const std::string& type, const std::string& help) {
  return verb.add_option(name, *values, help)->type_name(type)->expected(1)->take_all();
}

CLI::Option* AddContextList(CLI::App& verb, std::vector<std::string>* specs, const std::string& more_help) {
  return AddListOption(verb, "--context", specs, "NAME[:key=value,...]",
                       "Context to measure; may be given more than once (default: auto)" + more_help);
}

void AddModelOptions(CLI::App& verb, ModelOptions* options) {
  verb.add_option(
          "MODEL", options->path,
          "GGUF file, Hugging Face folder, or llama2.c checkpoint (default: the model that ships with mneme)")
      ->type_name("");
  verb.add_option("--tokenizer", options->tokenizer,
                  "Tokenizer file, where the model carries none: tokenizer.json, .model, .bin, .gguf")
      ->type_name("PATH")
      ->group("Model");
  verb.add_option(
          "--pack", options->pack,
          "Repack weights for speed at load: auto, never (no start-up cost, no second copy), always; or, "
          "with float weights multiplied as named: float32, int16 (14-bit integers: prefill nearly twice as "
          "fast where the processor has an instruction for it; auto and always then take it for F16 and "
          "BF16), bf16")
      ->type_name("MODE")
      ->check(CLI::IsMember({"auto", "never", "always", "float32", "int16", "bf16"}))
      ->group("Model");
  verb.add_option("--threads", options->num_threads, "Threads (default: all cores)")
      ->type_name("N")
      ->check(CLI::Range(1, 1024))
      ->group("Model");
}

void AddContextOptions(CLI::App& verb, ContextOptions* options, bool with_context) {
  constexpr const char* kGroup = "Context and memory";
  if (with_context) {
    verb.add_option("--context", options->spec, "What of the past a token sees (default: auto)")
        ->type_name("NAME[:key=value,...]")
        ->group(kGroup);
    verb.add_option("--pin", options->pin, "The first N tokens are never dropped")
        ->type_name("N")
        ->group(kGroup);
  }
  verb.add_option("--memory", options->memory,
                  "Cap for everything beside the weights: 256M, 4G (default: half of the free memory)")
      ->type_name("BYTES")
      ->group(kGroup);
  verb.add_option("--kv", options->kv,
                  "Encoding of cached keys and values: f32, f16, bf16, q8_0, q4_0 (default f16)")
      ->type_name("ENC")
      ->group(kGroup);
  verb.add_option("--kv-k", options->kv_keys, "The same for keys alone")->type_name("ENC")->group(kGroup);
  verb.add_option("--kv-v", options->kv_values, "The same for values alone")->type_name("ENC")->group(kGroup);
  verb.add_option("--chunk", options->chunk, "Most tokens in one pass through the model (default 512)")
      ->type_name("N")
      ->group(kGroup);
  verb.add_option("--start-position", options->start_position,
                  "Position of the first token of the stream (default 0)")
      ->type_name("N")
      ->group(kGroup);
}

void AddSamplerOptions(CLI::App& verb, SamplerOptions* options) {
  constexpr const char* kGroup = "Sampling";
  SamplerSettings& settings = options->settings;
  verb.add_option("--temperature,--temp", settings.temperature,
                  "0 always takes the likeliest token (default 0)")
      ->type_name("T")
      ->group(kGroup);
  verb.add_option("--top-k", settings.top_k, "Keep the K likeliest (0: all)")->type_name("K")->group(kGroup);
  verb.add_option("--top-p", settings.top_p, "Keep the likeliest until their sum reaches P (1: all)")
      ->type_name("P")
      ->group(kGroup);
  verb.add_option("--min-p", settings.min_p, "Drop what is less likely than P times the likeliest (0: none)")
      ->type_name("P")
      ->group(kGroup);
  verb.add_option("--repetition-penalty", settings.repetition_penalty,
                  "Make recent tokens less likely (1: no)")
      ->type_name("X")
      ->group(kGroup);
  verb.add_option("--repetition-window", settings.repetition_window,
                  "How many tokens are recent (default 64)")
      ->type_name("N")
      ->group(kGroup);
  verb.add_option("--seed", settings.seed, "Same seed, same text (default 0)")->type_name("N")->group(kGroup);
}

std::string ContextHelp() {
  std::string text = "Contexts (--context NAME[:key=value,...]):\n";
  for (const PolicyRow& row : PolicyTable()) {
    text += fmt::format("  {:<10}{}\n", row.name, row.help);
    if (row.paper.size() > 1) text += fmt::format("  {:<10}{}\n", "", row.paper);
    for (const PolicyKey& key : row.keys) {
      text += fmt::format("  {:<10}  {} (default {}): {}\n", "", key.name, key.DefaultText(), key.help);
    }
  }
  return text;
}

std::string ModelPath(const std::string& given) {
  if (!given.empty()) return given;
  const std::string folder = ProgramFolder();
  // Beside an installed program, and up from a build folder inside the source tree.
  for (const char* relative : {"/../share/mneme/models/", "/models/", "/../models/", "/../../models/",
                               "/../../../models/", "/../../../../models/"}) {
    const std::string path = folder + relative + kDefaultModel;
    if (FileExists(path)) return path;
  }
  Fail(ErrorKind::kInput,
       "no model was named, and the model that ships with mneme (models/{}) is not installed; name a GGUF "
       "file, a "
       "Hugging Face folder or a llama2.c checkpoint",
       kDefaultModel);
}

namespace {

PackMode ParsePackMode(const std::string& name) {
  if (name == "auto") return PackMode::kAuto;
  if (name == "never") return PackMode::kNever;
  if (name == "always") return PackMode::kAlways;
  if (name == "float32") return PackMode::kFloat32;
  if (name == "int16") return PackMode::kInt16;
  if (name == "bf16") return PackMode::kBFloat16;
  Fail(ErrorKind::kInput, "--pack '{}' is not auto, never, always, float32, int16 or bf16", name);
}

}  // namespace

std::shared_ptr<const Model> LoadModel(const ModelOptions& options, ThreadPool& pool, bool load_tokenizer) {
  LoadOptions load;
  load.tokenizer_path = options.tokenizer;
  load.load_tokenizer = load_tokenizer;
  load.pack = ParsePackMode(options.pack);
  return Model::Load(ModelPath(options.path), load, pool);
}

ContextSettings ToContextSettings(const ContextOptions& options) {
  return AsUsage([&] { return ParseContextSettings(options); });
}

namespace {

ContextSettings ParseContextSettings(const ContextOptions& options) {
  ContextSettings settings;
  settings.spec = options.spec;
  if (!options.memory.empty()) ParseBytes(options.memory, "--memory");
  if (settings.spec != "auto") CheckContextSpec(settings.spec);  // refused before the model is loaded
  if (!options.kv.empty()) settings.key_encoding = settings.value_encoding = ToKvEncoding(options.kv, "--kv");
  if (!options.kv_keys.empty()) settings.key_encoding = ToKvEncoding(options.kv_keys, "--kv-k");
  if (!options.kv_values.empty()) settings.value_encoding = ToKvEncoding(options.kv_values, "--kv-v");
  if (!options.pin.empty()) settings.num_pinned = ToCount(options.pin, "--pin");
  if (!options.chunk.empty()) {
    settings.max_chunk = ToCount(options.chunk, "--chunk");
    if (settings.max_chunk < 1 || settings.max_chunk > 65536) {
      Fail(ErrorKind::kInput, "--chunk: {} is outside 1 .. 65536", settings.max_chunk);
    }
  }
  if (!options.start_position.empty()) {
    settings.start_position = ParseCount(options.start_position, "--start-position", true);
  }
  return settings;
}

}  // namespace

std::string MemoryCap::ToString() const {
  if (is_given) return FormatBytes(bytes);
  return FormatBytes(bytes) + ", half of the free memory; --memory sets another";
}

MemoryCap ToMemoryCap(const std::string& option) {
  if (!option.empty()) return {AsUsage([&] { return ParseBytes(option, "--memory"); }), true};
  const size_t available = AvailableMemoryBytes();
  return {available == 0 ? size_t{4} << 30 : available / 2, false};
}

size_t AvailableMemoryBytes() {
  size_t available = ReadNumber("/proc/meminfo", "MemAvailable:") * 1024;
  const size_t limit = ReadNumber("/sys/fs/cgroup/memory.max", nullptr);
  if (limit != 0) {
    const size_t used = ReadNumber("/sys/fs/cgroup/memory.current", nullptr);
    available = std::min(available, limit > used ? limit - used : size_t{0});
  }
  return available;
}

int64_t ToCount(const std::string& text, const std::string& option) {
  if (text == "-1") return -1;
  return AsUsage([&] { return ParseCount(text, option); });
}

Tokenizer OpenTokenizer(const std::string& model, const std::string& tokenizer_path) {
  if (!tokenizer_path.empty()) return LoadTokenizerFile(tokenizer_path);
  const std::string path = ModelPath(model);
  if (IsDirectory(path)) return LoadTokenizerFolder(path);
  const MappedFile probe(path);
  const auto bytes = probe.bytes();
  const bool is_gguf =
      bytes.size() >= 4 && std::string_view(reinterpret_cast<const char*>(bytes.data()), 4) == "GGUF";
  return is_gguf ? LoadTokenizer(GgufFile(path)) : LoadTokenizerFile(path);
}

}  // namespace mneme::cli
