// mneme-train: what `mneme train` and `mneme adapt` run. A program of its own, so that nothing else loads
// libtorch.
#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/message.h"
#include "base/progress.h"
#include "cli/console/signals.h"
#include "train/config.h"
#include "train/program/blas.h"
#include "train/program/report.h"
#include "train/trainer.h"

namespace mneme::train {
namespace {

constexpr int kExitInterrupted = 130;
constexpr const char* kUsage =
    "usage: mneme train CONFIG [--steps N] [--fresh] [--set KEY=VALUE]...\n"
    "       mneme adapt CONFIG [--steps N] [--fresh] [--set KEY=VALUE]...\n"
    "       mneme train --reference\n";

[[noreturn]] void FailUsage(std::string_view message) { Fail(ErrorKind::kInput, "{}\n{}", message, kUsage); }

struct Arguments {
  bool is_adapt = false;
  bool reference = false;
  std::string config;
  std::vector<std::string> changes;
  TrainLimits limits;
};

Arguments Parse(int argc, char** argv) {
  Arguments result;
  if (argc < 2) FailUsage("which verb?");
  const std::string_view verb = argv[1];
  if (verb != "train" && verb != "adapt") FailUsage(fmt::format("unknown verb '{}'", verb));
  result.is_adapt = verb == "adapt";
  for (int i = 2; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--fresh") {
      result.limits.fresh = true;
    } else if (argument == "--reference") {
      result.reference = true;
    } else if (argument == "--set" && i + 1 < argc) {
      result.changes.emplace_back(argv[++i]);
    } else if (argument == "--steps" && i + 1 < argc) {
      char* end = nullptr;
      result.limits.stop_after = std::strtoll(argv[++i], &end, 10);
      if (*end != '\0' || result.limits.stop_after < 0)
        FailUsage(fmt::format("--steps {}: not a number", argv[i]));
    } else if (argument.starts_with("-") || !result.config.empty()) {
      FailUsage(fmt::format("unexpected '{}'", argument));
    } else {
      result.config = argument;
    }
  }
  if (!result.reference && result.config.empty()) FailUsage("which configuration?");
  return result;
}

void WritePage(const TrainConfig& config) {
  AtomicFileWriter writer(config.out + "/report.html");
  writer.Write(TrainingPage(config.out + "/log.jsonl", config.model.name));
  writer.Commit();
}

int Main(int argc, char** argv) {
  const Arguments arguments = Parse(argc, argv);
  if (arguments.reference) {
    fmt::print("{}", TrainConfigReference());
    return 0;
  }
  const TrainConfig config = LoadTrainConfig(arguments.config, arguments.changes);
  if (arguments.is_adapt == config.model.base.empty()) {
    FailUsage(arguments.is_adapt ? "adapt needs model.base in the configuration"
                                 : "the configuration has model.base: that is `mneme adapt`");
  }
  if (config.train.device == "cpu") PrintMessage("{}\n", PrepareBlas(argv, config.train.num_threads));
  cli::InstallSignalHandlers();
  ConsoleProgress progress(arguments.is_adapt ? "adapt" : "train");
  TrainEvents events;
  events.progress = &progress;
  events.say = [](const std::string& line) { PrintMessage("{}\n", line); };
  TrainLimits limits = arguments.limits;
  limits.stop = cli::UserStop();
  const TrainOutcome outcome = Train(config, events, limits);
  WritePage(config);
  if (!outcome.model_path.empty()) fmt::print("{}\n", outcome.model_path);
  if (!outcome.finished) {
    PrintMessage("stopped at step {} of {}; the same command goes on from there\n", outcome.step,
                 config.num_steps());
  }
  return outcome.interrupted ? kExitInterrupted : 0;
}

}  // namespace
}  // namespace mneme::train

int main(int argc, char** argv) {
  mneme::OpenClosedStreams();
  mneme::GuardMappedFiles();
  try {
    return mneme::train::Main(argc, argv);
  } catch (const std::exception& error) {
    mneme::PrintMessage("mneme: {}\n", error.what());
    return 1;
  }
}
