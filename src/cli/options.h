// Groups of options that verbs share, and what they mean as settings of the library.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/console/command.h"
#include "mneme/engine.h"
#include "mneme/model.h"
#include "mneme/options.h"
#include "mneme/plan.h"

namespace mneme::cli {

// MODEL and how it is loaded.
struct ModelArguments {
  std::string path;
  EngineOptions engine;  // threads
  ModelOptions options;
  std::vector<Setting> typed;  // what was given, as it was written
};

// A stream: session, sampler, and the cap.
struct SessionArguments {
  SessionOptions options;
  std::vector<Setting> typed;  // of the session, as they were written
  EngineOptions engine;        // the cap and the chunk
  std::vector<Setting> typed_engine;

  // As it was typed; empty if it was not.
  std::string Typed(std::string_view name) const;
};

// An option for each field of *options that `names` lists ("context,pin"; all if it is empty), made from the
// table of mneme/options.h. Values go into *options, and as they were written into *typed.
template <typename Options>
void AddFields(Command& verb, std::string_view names, Options* options, std::vector<Setting>* typed);

// --context, more than once: what a verb that compares contexts takes.
void AddContextList(Command& verb, std::vector<std::string>* specs, const std::string& more_help = "");
// MODEL, and those of --tokenizer, --pack, --pack-cache, --threads that `names` lists.
void AddModelOptions(Command& verb, ModelArguments* arguments,
                     std::string_view names = "tokenizer,pack,pack_cache,threads");
// --memory, --kv, --kv-k, --kv-v, --chunk, --start-position, and with_context what belongs to one stream:
// --context,
// --pin, --max-rewind.
void AddContextOptions(Command& verb, SessionArguments* arguments, bool with_context = true);
// Every field of SamplerOptions; what they are where the model's files say nothing.
// Throws UsageError for an empty one: it would stand before the first word of any answer.
void CheckStops(const GenerateOptions& options);
void AddSamplerOptions(Command& verb, SessionArguments* arguments, const SamplerOptions& defaults);
// What `--context` takes: every policy with its keys and paper. For the end of a help text.
std::string ContextHelp();
// What an option that other programs have is called here; empty if it is none that is known.
std::string_view HintForOption(std::string_view option);

// What a verb reads, for CheckOutputs: model, tokenizer, and what else is named.
std::vector<std::string> InputsOf(const ModelArguments& arguments, std::vector<std::string> more = {});

// The model file that is meant: `given`, or the model that ships with the program. Throws Error(kInput), with
// where it was looked for, if neither is there.
std::string ModelPath(const std::string& given);
// The settings of a verb that compares contexts, for one of them. Throws UsageError for a context that is not
// known.
SessionOptions OptionsFor(const SessionArguments& arguments, const std::string& context);

// The engine of a verb: threads of the one, cap and chunk of the other. Says so if the system gave fewer
// threads than were asked for.
Engine MakeEngine(const EngineOptions& threads, const EngineOptions& rest = {});
// The context of one of num_sessions that are there at the same time: what is left open is chosen for an
// equal part of what activations leave of the cap. One that was named with all its keys may need more, and is
// seen when it is made.
ContextChoice ChooseShared(const Model& model, SessionOptions options, size_t num_sessions);
// "256 MiB" or "5.2 GiB, half of the free memory; --memory sets another".
std::string CapText(const Engine& engine, const EngineOptions& asked);

// The tokenizer of `model` (a model, or a file with only a vocabulary), or `tokenizer_path` if it is not
// empty. Costs no model: only the vocabulary is read. Throws as the loaders in mneme/tokenizer.h do.
Tokenizer OpenTokenizer(const std::string& model, const std::string& tokenizer_path);

}  // namespace mneme::cli
