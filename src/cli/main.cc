// The program `mneme`: parses the command line, runs one verb, turns errors into one line and an exit code.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "cli/options.h"
#include "cli/signals.h"
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

// Edits (insert, delete, replace, swap of neighbours) that turn a into b.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      cost[i][j] =
          std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

// The known word nearest to what was typed, or empty if none is near enough to be meant.
std::string Nearest(std::string_view typed, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, typed.size() / 3) + 1;
  for (const std::string& word : known) {
    const bool is_prefix = typed.size() >= 3 && word.starts_with(typed);
    const size_t distance = is_prefix ? 1 : EditDistance(typed, word);
    if (distance < best_distance) {
      best_distance = distance;
      best = word;
    }
  }
  return best;
}

void PrintUsageError(std::string_view message, const CLI::App& app) {
  fmt::print(stderr, "mneme: {}\nSee `{} --help`.\n", message,
             app.get_parent() != nullptr ? "mneme " + app.get_name() : std::string("mneme"));
}

const CLI::App& InnermostParsed(const CLI::App& app) {
  const CLI::App* innermost = &app;
  while (!innermost->get_subcommands().empty()) innermost = innermost->get_subcommands().front();
  return *innermost;
}

std::string FullName(const CLI::App& app) {
  if (app.get_parent() == nullptr) return "mneme";
  return FullName(*app.get_parent()) + " " + app.get_name();
}

int ReportParseError(const CLI::ParseError& error, const CLI::App& app) {
  const CLI::App& verb = InnermostParsed(app);
  std::string message = error.what();
  const std::vector<std::string> extras = verb.remaining();
  if (!extras.empty() && dynamic_cast<const CLI::ArgumentMismatch*>(&error) == nullptr) {
    const std::string& typed = extras.front();
    std::vector<std::string> known;
    for (const CLI::Option* option : verb.get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
      for (const std::string& name : option->get_snames()) known.push_back("-" + name);
    }
    for (const CLI::App* sub : verb.get_subcommands([](const CLI::App*) { return true; })) {
      known.push_back(sub->get_name());
    }
    const std::string flag = typed.substr(0, typed.find('='));
    const std::string nearest = Nearest(flag, known);
    message = fmt::format("{} '{}'{}", typed.starts_with("-") ? "unknown option" : "unexpected argument",
                          flag, nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest));
  }
  std::replace(message.begin(), message.end(), '\n', ' ');
  fmt::print(stderr, "mneme: {}\nSee `{} --help`.\n", message, FullName(verb));
  return kExitUsage;
}

int Main(int argc, char** argv) {
  CLI::App app{kDescription, "mneme"};
  app.footer(kExamples);
  app.set_version_flag("--version", "mneme " MNEME_VERSION);
  app.require_subcommand(0, 1);
  app.get_formatter()->column_width(34);
  Action action;
  AddRun(app, &action);
  AddChat(app, &action);
  AddInspect(app, &action);
  AddPlan(app, &action);
  AddConvert(app, &action);
  AddBench(app, &action);
  AddTokenize(app, &action);
  AddEval(app, &action);
  AddTrain(app, &action);
  AddAdapt(app, &action);

  if (argc > 1 && argv[1][0] != '-') {
    std::vector<std::string> verbs;
    for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
      verbs.push_back(sub->get_name());
    }
    if (std::find(verbs.begin(), verbs.end(), argv[1]) == verbs.end()) {
      const std::string nearest = Nearest(argv[1], verbs);
      PrintUsageError(fmt::format("unknown command '{}'{}", argv[1],
                                  nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest)),
                      app);
      return kExitUsage;
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {
    return app.exit(request);  // --help, --version
  } catch (const CLI::ParseError& error) {
    return ReportParseError(error, app);
  }
  if (!action) {
    fmt::print(stderr, "{}", app.help());
    return kExitUsage;
  }
  InstallSignalHandlers();
  return action();
}

}  // namespace
}  // namespace mneme::cli

int main(int argc, char** argv) {
  using mneme::cli::kExitError;
  try {
    const int code = mneme::cli::Main(argc, argv);
    if (std::fflush(stdout) != 0 && code == 0) {
      fmt::print(stderr, "mneme: standard output could not be written\n");
      return kExitError;
    }
    return code;
  } catch (const mneme::cli::UsageError& error) {
    fmt::print(stderr, "mneme: {}\n", mneme::PrintableLines(error.what()));
    return mneme::cli::kExitUsage;
  } catch (const mneme::Error& error) {
    std::fflush(stdout);
    fmt::print(stderr, "mneme: {}\n", mneme::PrintableLines(error.what()));
    return error.kind() == mneme::ErrorKind::kInterrupted ? mneme::cli::kExitInterrupted : kExitError;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "mneme: the machine has no more memory; a smaller --memory cap leaves room\n");
    return kExitError;
  } catch (const std::exception& error) {
    fmt::print(stderr, "mneme: {}\n", mneme::PrintableLines(error.what()));
    return kExitError;
  }
}
