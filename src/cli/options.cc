#include "cli/options.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/files/file.h"
#include "base/message.h"
#include "base/text/fields.h"
#include "base/text/units.h"
#include "base/types.h"

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

// "repetition_penalty,s" -> "--repetition-penalty,-s".
std::string OptionNames(std::string_view names) {
  std::string text;
  while (!names.empty()) {
    const size_t comma = names.find(',');
    text += (text.empty() ? "" : ",") + OptionName(names.substr(0, comma));
    names = comma == std::string_view::npos ? std::string_view() : names.substr(comma + 1);
  }
  return text;
}

}  // namespace

std::string SessionArguments::Typed(std::string_view name) const {
  for (const std::vector<Setting>* list : {&typed, &typed_engine}) {
    for (const Setting& setting : *list) {
      if (setting.name == name) return setting.value;
    }
  }
  return "";
}

template <typename Options>
void AddFields(Command& verb, std::string_view names, Options* options, std::vector<Setting>* typed) {
  for (const SettingInfo& row : SettingsOf(*options)) {
    if (!names.empty() && !HasName(names, row.name())) continue;
    Option option{
        .names = OptionNames(row.names), .type = std::string(row.type), .help = std::string(row.help)};
    option.is_flag = row.type.empty();
    option.is_list = row.is_list;
    const bool tells_default = row.help.find("(default") != std::string_view::npos;
    if (!option.is_flag && !tells_default && !row.default_value.empty()) {
      option.help += fmt::format(" (default {})", row.default_value);
    }
    option.take = [=, name = std::string(row.name()), what = option.Name()](const std::string& text) {
      const Setting setting{name, text};
      ApplyOne(setting, what, options);
      typed->push_back(setting);
    };
    verb.Add(std::move(option));
  }
}
template void AddFields(Command&, std::string_view, EngineOptions*, std::vector<Setting>*);
template void AddFields(Command&, std::string_view, ModelOptions*, std::vector<Setting>*);
template void AddFields(Command&, std::string_view, SamplerOptions*, std::vector<Setting>*);
template void AddFields(Command&, std::string_view, GenerateOptions*, std::vector<Setting>*);
template void AddFields(Command&, std::string_view, SessionOptions*, std::vector<Setting>*);

void AddContextList(Command& verb, std::vector<std::string>* specs, const std::string& more_help) {
  verb.List("--context", specs, "NAME[:key=value,...]",
            "Context to measure; may be given more than once (default: auto)" + more_help);
}

void AddModelOptions(Command& verb, ModelArguments* arguments, std::string_view names) {
  verb.SetGroup("");
  verb.Text(
      "MODEL", &arguments->path, "",
      "GGUF file, Hugging Face folder, or llama2.c checkpoint (default: the model that ships with mneme)");
  verb.SetGroup("Model");
  verb.Text("-m,--model", &arguments->path, "MODEL", "The same as MODEL");
  AddFields(verb, names, &arguments->options, &arguments->typed);
  if (HasName(names, "threads")) AddFields(verb, "threads", &arguments->engine, &arguments->typed);
  verb.SetGroup("");
}

void AddContextOptions(Command& verb, SessionArguments* arguments, bool with_context) {
  verb.SetGroup("Context and memory");
  AddFields(verb, "memory", &arguments->engine, &arguments->typed_engine);
  const std::string one_stream =
      with_context ? "context,pin,max_rewind,rope_length,store,disk,disk_full," : "";
  AddFields(verb, one_stream + "kv,kv_k,kv_v", &arguments->options, &arguments->typed);
  AddFields(verb, "chunk", &arguments->engine, &arguments->typed_engine);
  AddFields(verb, "start_position", &arguments->options, &arguments->typed);
  verb.SetGroup("");
}

void CheckStops(const GenerateOptions& options) {
  for (const std::string& text : options.stop_strings) {
    if (text.empty()) FailUsage("--stop: an empty text would end every answer before its first word");
  }
}

void AddSamplerOptions(Command& verb, SessionArguments* arguments, const SamplerOptions& defaults) {
  verb.SetGroup("Sampling (where nothing is given: as the model's files say, else as here)");
  arguments->options.sampler = defaults;
  AddFields(verb, "", &arguments->options.sampler, &arguments->typed);
  verb.SetGroup("");
}

std::string ContextHelp() {
  std::string text = "Contexts (--context NAME[:key=value,...]):\n";
  for (const ContextInfo& row : ContextTable()) {
    text += fmt::format("  {:<10}{}\n", row.name, row.help);
    if (row.paper.size() > 1) text += fmt::format("  {:<10}{}\n", "", row.paper);
    for (const ContextKey& key : row.keys) {
      text += fmt::format("  {:<10}  {} (default {}): {}\n", "", key.name, key.default_value, key.help);
    }
  }
  return text;
}

std::string_view HintForOption(std::string_view option) {
  static constexpr struct {
    std::string_view names;
    std::string_view hint;
  } kHints[] = {
      {"-c,--ctx-size,--n-ctx,--num-ctx",
       "a stream has no fixed size here; --memory is the cap, and --context names what of the past is kept "
       "(--context sinks:window=4K)"},
      {"-b,--batch-size,-ub,--ubatch-size", "--chunk is the most tokens in one pass through the model"},
      {"-ngl,--gpu-layers,--n-gpu-layers", "mneme computes on the processor"},
      {"-i,--interactive,-cnv,--conversation", "`mneme chat` holds a conversation"},
      {"-sys,--system-prompt", "the system prompt is --system"},
      {"--jinja,--chat-template,--chat-template-file",
       "a model is spoken to by its own chat template (`mneme chat`, `run --chat`); --template names "
       "another"},
      {"--chat-template-kwargs", "a template's variables are set one by one: --template-arg NAME=VALUE"},
      {"-r,--reverse-prompt", "--stop TEXT ends an answer before a text"},
      {"-fa,--flash-attn,--mlock,--mmap,--no-mmap",
       "there is nothing to choose: models are mapped, and attention is "
       "computed in tiles"},
      {"--prompt-cache", "--state FILE keeps a stream, and goes on with it"},
      {"--rope-freq-base,--rope-freq-scale,--rope-scaling,--yarn-orig-ctx",
       "positions are as the model says; the contexts keep distances inside what it was trained on"},
      {"-ctk,--cache-type-k", "the encoding of keys is --kv-k"},
      {"-ctv,--cache-type-v", "the encoding of values is --kv-v"},
  };
  for (const auto& row : kHints) {
    if (HasName(row.names, option)) return row.hint;
  }
  return {};
}

std::vector<std::string> InputsOf(const ModelArguments& arguments, std::vector<std::string> more) {
  more.push_back(ModelPath(arguments.path));
  more.push_back(arguments.options.tokenizer);
  // A copy is read, and written where there is none: no other result may have its name. A folder is no file.
  std::error_code ignored;
  const std::string& copy = arguments.options.pack_cache;
  if (copy != "auto" && !std::filesystem::is_directory(copy, ignored)) more.push_back(copy);
  return more;
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

SessionOptions OptionsFor(const SessionArguments& arguments, const std::string& context) {
  SessionOptions options = arguments.options;
  try {
    ApplyOne({"context", context}, "--context", &options);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInput) throw;
    FailUsage(error.what());
  }
  return options;
}

Engine MakeEngine(const EngineOptions& threads, const EngineOptions& rest) {
  EngineOptions options = rest;
  options.num_threads = threads.num_threads;
  Engine engine(options);
  if (engine.num_threads() < engine.options().num_threads) {
    PrintMessage(
        "mneme: the system gave {} of {} threads (`ulimit -u` may be the limit); the results are the same, "
        "later\n",
        engine.num_threads(), engine.options().num_threads);
  }
  return engine;
}

ContextChoice ChooseShared(const Model& model, SessionOptions options, size_t num_sessions) {
  if (num_sessions < 2) return ChooseContext(model, options);
  options.memory_bytes = model.engine().options().memory_bytes / 4 * 3 / num_sessions;
  try {
    return ChooseContext(model, options);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget) throw;
    options.memory_bytes = 0;
    return ChooseContext(model, options);
  }
}

std::string CapText(const Engine& engine, const EngineOptions& asked) {
  const std::string text = FormatBytes(engine.options().memory_bytes);
  return asked.memory_bytes != 0 ? text : text + ", half of the free memory; --memory sets another";
}

Tokenizer OpenTokenizer(const std::string& model, const std::string& tokenizer_path) {
  return LoadTokenizerFile(tokenizer_path.empty() ? ModelPath(model) : tokenizer_path);
}

}  // namespace mneme::cli
