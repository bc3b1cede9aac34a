// The program `mneme`: parses the command line, runs one verb, turns errors into one line and an exit code.
#include <fmt/core.h>

#include <cstdio>
#include <exception>
#include <sstream>
#include <string>

#include "base/error.h"
#include "base/files/file.h"
#include "base/message.h"
#include "cli/console/command.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace mneme::cli {
namespace {

constexpr const char* kDescription =
    "mneme runs transformer language models on input that never ends, inside a memory cap, and tells what "
    "it\n"
    "kept and what it dropped. MODEL is a GGUF file, a Hugging Face folder with safetensors, or a llama2.c\n"
    "checkpoint.";

constexpr const char* kExamples =
    "Examples:\n"
    "  mneme inspect model.gguf                              what is in the file, and does it fit\n"
    "  mneme run model.gguf -p \"Once upon a time\" -n 200     write on from a prompt\n"
    "  mneme run model.gguf -f book.txt -p \"The end.\" --memory 256M\n"
    "  cat *.log | mneme run model.gguf -f - --context sinks:sinks=4,window=1020 --state log.state\n"
    "  mneme chat model.gguf                                 a conversation without an end\n"
    "  mneme plan model.gguf --tokens 10M --memory 256M      memory and time, before anything runs\n"
    "  mneme eval perplexity model.gguf -f book.txt --context sinks --context window --html book.html\n"
    "\n"
    "`mneme VERB --help` tells more about each; `mneme run --help` lists the contexts.";

int Main(int argc, char** argv) {
  Command program("mneme", kDescription);
  program.SetFooter(kExamples);
  AddRun(program);
  AddChat(program);
  AddInspect(program);
  AddPlan(program);
  AddConvert(program);
  AddCalibrate(program);
  AddStore(program);
  AddBench(program);
  AddTokenize(program);
  AddTemplate(program);
  AddEval(program);
  AddTrain(program);
  AddAdapt(program);
  const ParsedCommand parsed = ParseCommandLine(program, "mneme " MNEME_VERSION, argc, argv, HintForOption);
  if (parsed.action == nullptr) return parsed.code;
  return parsed.action();
}

}  // namespace
}  // namespace mneme::cli

int main(int argc, char** argv) {
  mneme::OpenClosedStreams();
  mneme::GuardMappedFiles();
  mneme::cli::InstallSignalHandlers();
  try {
    const int code = mneme::cli::Main(argc, argv);
    if (code == 0) mneme::cli::WriteOutNow("");  // the last of the output may not fit
    return code;
  } catch (const std::exception& error) {
    std::fflush(stdout);
    mneme::PrintMessage("mneme: {}\n", mneme::cli::DescribeException(error));
    if (dynamic_cast<const mneme::cli::UsageError*>(&error) != nullptr) return mneme::cli::kExitUsage;
    return mneme::cli::IsInterruption(error) ? mneme::cli::kExitInterrupted : mneme::cli::kExitError;
  }
}
