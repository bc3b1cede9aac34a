// mneme train, mneme adapt: run the program mneme-train, which stands beside this one and alone loads
// libtorch.
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace mneme::cli {
namespace {

struct TrainArguments {
  std::string config;
  std::string steps;
  std::vector<std::string> changes;
  bool fresh = false;
  bool reference = false;
};

int RunTrainProgram(const char* verb, const TrainArguments& arguments) {
  if (arguments.config.empty() && !arguments.reference) FailUsage("CONFIG is required");
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string program = (self.parent_path() / "mneme-train").string();
  if (::access(program.c_str(), X_OK) != 0) {
    Fail(ErrorKind::kUnsupported,
         "this build has no training (there is no {}): install libtorch-dev, libtomlplusplus-dev and "
         "libsentencepiece-dev, "
         "then build again",
         program);
  }
  std::vector<std::string> words = {program, verb};
  if (!arguments.config.empty()) words.push_back(arguments.config);
  if (arguments.reference) words.push_back("--reference");
  if (arguments.fresh) words.push_back("--fresh");
  if (!arguments.steps.empty()) {
    words.push_back("--steps");
    words.push_back(arguments.steps);
  }
  for (const std::string& change : arguments.changes) {
    words.emplace_back("--set");
    words.push_back(change);
  }
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execv(program.c_str(), pointers.data());
  Fail(ErrorKind::kFile, "{}: cannot be started", program);
}

void AddVerb(Command& program, const char* name, const char* what, const char* example) {
  auto arguments = std::make_shared<TrainArguments>();
  Command& verb = program.AddVerb(name, what);
  verb.Text("config", &arguments->config, "CONFIG", "TOML file; `--reference` lists its keys");
  verb.Text("--steps", &arguments->steps, "N", "Stop after this many steps; the same command goes on");
  verb.List("--set", &arguments->changes, "KEY=VALUE",
            "A setting in place of the file's: memory.update=delta; several times");
  verb.Flag("--fresh", &arguments->fresh, "Start anew although the run's folder holds a checkpoint");
  verb.Flag("--reference", &arguments->reference, "Print every key with its type, default and meaning");
  verb.SetFooter(example);
  verb.SetAction([=] { return RunTrainProgram(name, *arguments); });
}

}  // namespace

void AddTrain(Command& program) {
  AddVerb(program, "train", "Train a model from scratch, with or without a memory",
          "Example:\n  mneme train recipes/tiny-cpu.toml       Ctrl-C saves; the same command goes on");
}

void AddAdapt(Command& program) {
  AddVerb(program, "adapt", "Give an existing model a memory",
          "Example:\n  mneme adapt adapt.toml                  model.base in it names the model");
}

}  // namespace mneme::cli
