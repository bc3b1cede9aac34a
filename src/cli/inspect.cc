// mneme inspect: what is in a model file, whether it can be run here, and how.
#include "mneme/inspect.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text/units.h"
#include "base/text/utf8.h"
#include "cli/chat/prompt_format.h"
#include "cli/console/console.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "cli/verbs.h"
#include "mneme/plan.h"

namespace mneme::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectArguments {
  ModelArguments model;
  SessionArguments context;
  bool tensors = false;
  bool metadata = false;
  bool json = false;
};

struct EncodingShare {
  int64_t num_tensors = 0;
  uint64_t num_values = 0;
  size_t bytes = 0;
};

std::string ShapeText(const std::vector<uint64_t>& shape) {
  std::string text;
  for (const uint64_t size : shape) text += fmt::format("{}{}", text.empty() ? "" : ", ", size);
  return "[" + text + "]";
}

// What one number per layer says: "8", or "4 .. 8" where layers differ.
std::string PerLayer(const std::vector<int64_t>& values) {
  if (values.empty()) return "-";
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return *low == *high ? fmt::format("{}", *low) : fmt::format("{} .. {}", *low, *high);
}

std::string WindowText(const ModelShape& shape) {
  std::map<int64_t, int> counts;
  for (const int64_t window : shape.layer_window) ++counts[window];
  if (counts.empty() || (counts.size() == 1 && counts.begin()->first == 0)) return "none";
  std::string text;
  for (const auto& [window, count] : counts) {
    text += fmt::format("{}{} layers {}", text.empty() ? "" : ", ", count,
                        window == 0 ? "full" : fmt::format("of {} tokens", window));
  }
  return text;
}

// Everything that inspect found; the model may be missing with a reason.
struct Findings {
  FileInfo file;
  std::map<std::string, EncodingShare> encodings;
  uint64_t num_values = 0;
  size_t bytes = 0;
  std::optional<OpenedModel> opened;
  std::string refusal;  // why it cannot be run
  std::string tokenizer_refusal;
  std::vector<PlanRow> contexts;
};

Findings Find(const InspectArguments& arguments) {
  Findings found;
  ModelArguments model_options = arguments.model;
  model_options.path = ModelPath(arguments.model.path);
  model_options.options.pack = PackMode::kNever;
  found.file = InspectFile(model_options.path);
  for (const TensorEntry& tensor : found.file.tensors) {
    EncodingShare& share = found.encodings[std::string(EncodingName(tensor.encoding))];
    ++share.num_tensors;
    share.num_values += tensor.num_values;
    share.bytes += tensor.bytes;
    found.num_values += tensor.num_values;
    found.bytes += tensor.bytes;
  }
  try {
    try {
      found.opened.emplace(model_options, arguments.context.engine);
    } catch (const Error& error) {
      found.tokenizer_refusal = error.what();
      found.opened.emplace(model_options, arguments.context.engine, /*load_tokenizer=*/false);
    }
  } catch (const Error& error) {
    found.refusal = error.what();
    return found;
  }
  found.contexts = PlanRun(found.opened->model, arguments.context.options);
  return found;
}

using Lines = std::vector<std::pair<std::string, std::string>>;

Lines FileLines(const Findings& found) {
  Lines lines;
  lines.reserve(16);
  std::string container = found.file.container;
  if (found.file.version != 0) container += fmt::format(" version {}", found.file.version);
  lines.emplace_back("file", fmt::format("{} ({})", found.file.path, container));
  std::string histogram;
  for (const auto& [name, share] : found.encodings) {
    histogram += fmt::format("{}{} {} ({} {})", histogram.empty() ? "" : ", ", FormatBytes(share.bytes), name,
                             share.num_tensors, share.num_tensors == 1 ? "tensor" : "tensors");
  }
  lines.emplace_back(
      "tensors", fmt::format("{}, {} values, {}", found.file.tensors.size(),
                             FormatCount(static_cast<int64_t>(found.num_values)), FormatBytes(found.bytes)));
  lines.emplace_back("encodings", histogram);
  return lines;
}

std::string HeadsText(const ModelShape& shape) {
  if (shape.num_heads == 0) return "none";
  if (shape.num_latent_layers > 0) {
    return fmt::format("{} over one latent of {} values and a key of {} beside it", shape.num_heads,
                       shape.value_dim, shape.key_dim - shape.value_dim);
  }
  return fmt::format("{}, {} for keys and values, {} wide", shape.num_heads, PerLayer(shape.num_kv_heads),
                     shape.key_dim);
}

Lines ModelLines(const Model& model) {
  const ModelInfo& info = model.info();
  const ModelShape shape = ShapeOf(model);
  Lines lines;
  lines.emplace_back("name", info.name);
  lines.emplace_back("family", info.family);
  lines.emplace_back("layers", shape.num_state_layers == 0
                                   ? fmt::format("{}", info.num_layers)
                                   : fmt::format("{}, {} of them with a state of fixed size", info.num_layers,
                                                 shape.num_state_layers));
  lines.emplace_back("model_dim", fmt::format("{}", info.model_dim));
  lines.emplace_back("heads", HeadsText(shape));
  if (!shape.ffn_dim.empty()) lines.emplace_back("ffn_dim", PerLayer(shape.ffn_dim));
  if (shape.num_expert_layers > 0) {
    lines.emplace_back("experts",
                       fmt::format("{} in {} layers, {} wide; a token goes through {}", shape.num_experts,
                                   shape.num_expert_layers, shape.expert_dim, shape.num_used_experts));
  }
  lines.emplace_back("vocabulary", fmt::format("{}", info.vocab_size));
  lines.emplace_back("trained length",
                     info.trained_length > 0 ? FormatCount(info.trained_length) : "unknown");
  lines.emplace_back("positions",
                     shape.rope_length == 0
                         ? shape.positions
                         : fmt::format("{}, made for {} tokens, otherwise beyond (--rope-length)",
                                       shape.positions, FormatCount(shape.rope_length)));
  lines.emplace_back("own windows", WindowText(shape));
  lines.emplace_back("read per token", FormatBytes(info.read_bytes_per_token));
  for (const std::string& note : info.notes) lines.emplace_back("note", note);
  return lines;
}

Lines TokenizerLines(const Findings& found) {
  Lines lines;
  const Model& model = found.opened->model;
  if (!model.has_tokenizer()) {
    lines.emplace_back("tokenizer",
                       found.tokenizer_refusal.empty() ? "none" : "none: " + found.tokenizer_refusal);
    return lines;
  }
  const Tokenizer& tokenizer = model.tokenizer();
  const int32_t num_padding = tokenizer.vocab_size() - tokenizer.num_pieces();
  lines.emplace_back(
      "tokenizer",
      fmt::format("{}, pre-tokenizer {}, {} pieces{}", tokenizer.kind(), tokenizer.pre_tokenizer(),
                  tokenizer.num_pieces(),
                  num_padding == 0 ? "" : fmt::format("; {} rows of the model have none", num_padding)));
  lines.emplace_back("bos, eos",
                     fmt::format("{}{}, {}{}", tokenizer.bos_id(), tokenizer.adds_bos() ? " (added)" : "",
                                 tokenizer.eos_id(), tokenizer.adds_eos() ? " (added)" : ""));
  lines.emplace_back("chat template", DescribeChatTemplate(tokenizer));
  return lines;
}

std::string FitText(const PlanRow& row) {
  if (row.fits && row.bytes.is_bounded) return "fits, " + FormatBytes(row.bytes.total());
  if (!row.bytes.is_bounded && row.bytes.kv_bytes == SIZE_MAX)
    return "exact; grows with the stream up to the cap";
  return row.fits ? "fits" : "no: " + row.note;
}

void PrintFindings(const Findings& found, const InspectArguments& arguments) {
  Lines lines = FileLines(found);
  if (found.opened) {
    for (const Lines& more : {ModelLines(found.opened->model), TokenizerLines(found)}) {
      lines.insert(lines.end(), more.begin(), more.end());
    }
  }
  for (const auto& [name, value] : lines) WriteOut(fmt::format("{:<16}{}\n", name, Printable(value)));
  if (!found.refusal.empty()) WriteOut(fmt::format("{:<16}no: {}\n", "can be run", Printable(found.refusal)));
  if (!found.contexts.empty()) {
    WriteOut(fmt::format("\ncontexts (cap {}):\n",
                         CapText(found.opened->model.engine(), arguments.context.engine)));
    for (const PlanRow& row : found.contexts)
      WriteOut(fmt::format("  {:<10}{:<40} {}\n", row.name, row.context, FitText(row)));
  }
  if (arguments.metadata && !found.file.metadata.empty()) {
    WriteOut("\nmetadata:\n");
    for (const MetadataEntry& entry : found.file.metadata) {
      WriteOut(fmt::format("  {} = {}\n", Printable(entry.key), PrintableLines(entry.text)));
    }
  }
  if (arguments.tensors) {
    std::vector<std::vector<std::string>> rows = {{"tensor", "encoding", "shape", "bytes"}};
    for (const TensorEntry& tensor : found.file.tensors) {
      rows.push_back({tensor.name, std::string(EncodingName(tensor.encoding)), ShapeText(tensor.shape),
                      FormatCount(static_cast<int64_t>(tensor.bytes))});
    }
    WriteOut("\n" + FormatTable(rows));
  }
}

Json FindingsJson(const Findings& found, const InspectArguments& arguments) {
  Json json;
  const auto add = [](Json& object, const Lines& lines) {
    for (const auto& [name, value] : lines) object[name] = value;
  };
  json["path"] = found.file.path;
  json["container"] = found.file.container;
  json["num_tensors"] = found.file.tensors.size();
  json["num_values"] = found.num_values;
  json["weight_bytes"] = found.bytes;
  for (const auto& [name, share] : found.encodings) {
    json["encodings"][name] = {
        {"tensors", share.num_tensors}, {"values", share.num_values}, {"bytes", share.bytes}};
  }
  json["can_run"] = found.opened.has_value();
  json["refusal"] = found.refusal;
  if (found.opened) {
    const ModelInfo& info = found.opened->model.info();
    const ModelShape shape = ShapeOf(found.opened->model);
    Json& model = json["model"];
    model["name"] = info.name;
    model["family"] = info.family;
    model["num_layers"] = info.num_layers;
    model["model_dim"] = info.model_dim;
    model["num_heads"] = shape.num_heads;
    model["num_kv_heads"] = shape.num_kv_heads;
    model["key_dim"] = shape.key_dim;
    model["num_latent_layers"] = shape.num_latent_layers;
    model["ffn_dim"] = shape.ffn_dim;
    model["vocab_size"] = info.vocab_size;
    model["trained_length"] = info.trained_length;
    model["positions"] = shape.positions;
    model["read_bytes_per_token"] = info.read_bytes_per_token;
    model["notes"] = info.notes;
    add(json["tokenizer"], TokenizerLines(found));
  }
  json["cap_bytes"] = found.opened ? Json(found.opened->model.engine().options().memory_bytes) : Json();
  json["contexts"] = Json::array();
  for (const PlanRow& row : found.contexts) {
    json["contexts"].push_back(
        {{"name", row.name},
         {"context", row.context},
         {"fits", row.fits},
         {"bounded", row.bytes.is_bounded},
         {"total_bytes", row.bytes.total() == SIZE_MAX ? Json() : Json(row.bytes.total())},
         {"note", row.note}});
  }
  if (arguments.tensors) {
    json["tensors"] = Json::array();
    for (const TensorEntry& tensor : found.file.tensors) {
      json["tensors"].push_back({{"name", tensor.name},
                                 {"encoding", EncodingName(tensor.encoding)},
                                 {"shape", tensor.shape},
                                 {"bytes", tensor.bytes}});
    }
  }
  return json;
}

int Inspect(const InspectArguments& arguments) {
  const Findings found = Find(arguments);
  if (arguments.json) {
    WriteOut(FindingsJson(found, arguments).dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    PrintFindings(found, arguments);
  }
  return 0;
}

}  // namespace

void AddInspect(Command& program) {
  auto arguments = std::make_shared<InspectArguments>();
  Command& verb =
      program.AddVerb("inspect", "What is in a model file, does it fit, which contexts it supports");
  AddModelOptions(verb, &arguments->model);
  verb.Flag("--tensors", &arguments->tensors, "List every tensor");
  verb.Flag("--metadata", &arguments->metadata, "List the metadata of a GGUF file");
  verb.Flag("--json", &arguments->json, "JSON in place of text");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetAction([=] { return Inspect(*arguments); });
}

}  // namespace mneme::cli
