// Groups of options that verbs share, and what they mean as settings of the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/budget.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "context/context.h"
#include "model/model.h"
#include "session/sampler.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace mneme::cli {

struct ModelOptions {
  std::string path;
  std::string tokenizer;
  std::string pack = "auto";
  size_t num_threads = 0;
};

struct ContextOptions {
  std::string spec = "auto";
  std::string memory;
  std::string kv;
  std::string kv_keys;
  std::string kv_values;
  std::string pin;
  std::string start_position;
  std::string chunk;
};

struct SamplerOptions {
  SamplerSettings settings;
};

// The command line itself is wrong: exit code 2.
class UsageError : public Error {
 public:
  explicit UsageError(std::string message) : Error(ErrorKind::kInput, std::move(message)) {}
};
[[noreturn]] inline void FailUsage(std::string message) { throw UsageError(std::move(message)); }

// An option that takes one value and may be given more than once.
CLI::Option* AddListOption(CLI::App& verb, const std::string& name, std::vector<std::string>* values,
                           const std::string& type, const std::string& help);
// --context, more than once: what a verb that compares contexts takes.
CLI::Option* AddContextList(CLI::App& verb, std::vector<std::string>* specs,
                            const std::string& more_help = "");
// MODEL, --tokenizer, --pack, --threads.
void AddModelOptions(CLI::App& verb, ModelOptions* options);
// --memory, --kv, --kv-k, --kv-v, --chunk, --start-position, and with_context: --context, --pin.
void AddContextOptions(CLI::App& verb, ContextOptions* options, bool with_context = true);
// --temperature, --top-k, --top-p, --min-p, --repetition-penalty, --repetition-window, --seed.
void AddSamplerOptions(CLI::App& verb, SamplerOptions* options);
// What `--context` takes: every policy with its keys and paper. For the end of a help text.
std::string ContextHelp();

// The model file that is meant: `given`, or the model that ships with the program. Throws Error(kInput), with
// where it was looked for, if neither is there.
std::string ModelPath(const std::string& given);
// Throws what Model::Load throws, and Error(kInput) for an unknown --pack.
std::shared_ptr<const Model> LoadModel(const ModelOptions& options, ThreadPool& pool,
                                       bool load_tokenizer = true);

// Throws UsageError naming the option. spec may still be "auto".
ContextSettings ToContextSettings(const ContextOptions& options);

// --memory, or half of what the machine has free now.
struct MemoryCap {
  size_t bytes = 0;
  bool is_given = false;
  // "256 MiB" or "5.2 GiB, half of the free memory; --memory sets another".
  std::string ToString() const;
};
MemoryCap ToMemoryCap(const std::string& option);
// What the machine can still give to this process: /proc/meminfo, and the limits of the control group. 0 if
// unknown.
size_t AvailableMemoryBytes();

// "--tokens 10M", "-n 200": counts of tokens with K, M, G as powers of 1000.
int64_t ToCount(const std::string& text, const std::string& option);

// The tokenizer of `model` (a model, or a file with only a vocabulary), or `tokenizer_path` if it is not
// empty. Costs no model: only the vocabulary is read. Throws as the loaders in tokenizer/tokenizer.h do.
Tokenizer OpenTokenizer(const std::string& model, const std::string& tokenizer_path);

}  // namespace mneme::cli
