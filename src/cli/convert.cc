// mneme convert: from any container to GGUF, with quantising; and models with random weights, for measuring.
#include "mneme/convert.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/message.h"
#include "base/progress.h"
#include "base/text/units.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace mneme::cli {
namespace {

struct ConvertArguments {
  std::vector<std::string> paths;
  std::string encoding = "q8_0";
  std::string random;
  std::string tokenizer;
  std::optional<uint64_t> seed;
  size_t num_threads = 0;
};

std::string Joined(const std::vector<std::string_view>& names) {
  std::string list;
  for (const std::string_view name : names) list += fmt::format("{}{}", list.empty() ? "" : ", ", name);
  return list;
}

// The name in lower case if it is that of a mix, else nothing.
std::string MixOf(std::string name) {
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const std::vector<std::string_view> mixes = MixNames();
  return std::find(mixes.begin(), mixes.end(), name) == mixes.end() ? std::string() : name;
}

int Convert(const ConvertArguments& arguments) {
  const std::string mix = MixOf(arguments.encoding);
  const std::optional<Encoding> encoding = ParseEncoding(arguments.encoding);
  const bool can_write = encoding && CanWrite(*encoding);
  if (!can_write && (mix.empty() || !arguments.random.empty())) {
    FailUsage(fmt::format(
        "--encoding: '{}' is not one that can be written; there are f32, f16, bf16, q8_0, q4_0, q4_1, "
        "q5_0, q5_1, q3_k, q4_k, q5_k, mxfp4 for all matrices{}",
        arguments.encoding,
        arguments.random.empty() ? ", and the mixes " + Joined(MixNames()) : ", q2_k, q6_k, iq4_nl"));
  }
  const size_t num_paths = arguments.random.empty() ? 2 : 1;
  if (arguments.paths.size() != num_paths) {
    FailUsage(arguments.random.empty()
                  ? "convert takes two paths: the model to read, and the GGUF file to write"
                  : "convert --random SHAPE takes one path: the GGUF file to write");
  }
  if (!arguments.random.empty() && !arguments.tokenizer.empty()) {
    FailUsage("--tokenizer: a random model has a vocabulary of its own, of made-up words; leave it out");
  }
  if (arguments.random.empty() && arguments.seed)
    FailUsage("--seed is of random weights: it needs --random SHAPE");
  CheckOutputs({arguments.paths.back()},
               {arguments.random.empty() ? arguments.paths.front() : "", arguments.tokenizer});
  const Engine engine = MakeEngine({.num_threads = arguments.num_threads});
  const std::string& out = arguments.paths.back();
  ConsoleProgress progress(arguments.random.empty() ? "converting" : "writing");
  if (!arguments.random.empty()) {
    RandomShape shape;
    try {
      shape = ParseRandomShape(arguments.random);
    } catch (const Error& error) {
      FailUsage(error.what());
    }
    WriteRandomModel(engine, shape, *encoding, arguments.seed.value_or(0), out, progress, UserStop());
    progress.Finish(out);
    return 0;
  }
  ConvertOptions options;
  options.encoding = encoding.value_or(Encoding::kF32);
  options.mix = mix;
  options.tokenizer = arguments.tokenizer;
  const ConvertReport report =
      ConvertModel(engine, arguments.paths.front(), out, options, progress, UserStop());
  progress.Finish(fmt::format("{}, {} tensors, {} from {}", out, report.num_tensors,
                              FormatBytes(report.written_bytes), FormatBytes(report.read_bytes)));
  for (const std::string& warning : report.warnings) PrintMessage("note: {}\n", warning);
  return 0;
}

}  // namespace

void AddConvert(Command& program) {
  auto arguments = std::make_shared<ConvertArguments>();
  Command& verb = program.AddVerb("convert", "Write a model as GGUF, quantised; or one with random weights");
  Option& paths = verb.List("PATHS", &arguments->paths, "", "IN OUT.gguf, or with --random only OUT.gguf");
  paths.is_required = true;
  paths.max_values = 2;
  verb.Text(
      "--encoding", &arguments->encoding, "ENC",
      "Of all matrices: f16, bf16, q8_0, q4_0, q4_k... (default q8_0); or a mix: q4_k_m, q5_k_m, q6_k...");
  verb.Text(
      "--random", &arguments->random, "SHAPE",
      "Random weights in the shape of " + Joined(RandomShapeNames()) +
          ", or layers=2,dim=64,heads=4,kv_heads=2,ffn=128,vocab=512,length=256 (and experts=8,used=2)");
  verb.Number("--seed", &arguments->seed, {0, 0x1p64}, "N", "Of the random weights (default 0)");
  verb.Text("--tokenizer", &arguments->tokenizer, "PATH", "Tokenizer file, where the model carries none");
  verb.Number("-t,--threads", &arguments->num_threads, {1, 1024}, "N", "Threads (default: all cores)");
  verb.SetFooter(
      "Examples:\n"
      "  mneme convert ./TinyLlama-1.1B-Chat model-q8.gguf --encoding q8_0\n"
      "  mneme convert --random tinyllama-1.1b random.gguf --encoding q4_0 --seed 1");
  verb.SetAction([=] { return Convert(*arguments); });
}

}  // namespace mneme::cli
