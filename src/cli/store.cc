// `mneme store ls|check|rm DIR`: what is in the folder of --store.
#include "mneme/store.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/text/units.h"
#include "cli/console/command.h"
#include "cli/console/console.h"
#include "cli/verbs.h"

namespace mneme::cli {
namespace {

constexpr size_t kMostNamed = 20;

int ListStore(const std::string& folder) {
  const StoreSummary summary = SummarizeStore(folder, /*reads_all=*/false);
  WriteOut(fmt::format("{}: store {:016x}, {} tokens in {} slices, {} on disk, {} a token\ncontext: {}\n",
                       folder, summary.id, FormatCount(summary.num_tokens()), FormatCount(summary.num_slices),
                       FormatBytes(summary.disk_bytes), FormatBytes(summary.slice_bytes / 64),
                       summary.context));
  return 0;
}

int CheckStore(const std::string& folder) {
  const StoreSummary summary = SummarizeStore(folder, /*reads_all=*/true);
  std::string text;
  for (size_t i = 0; i < summary.damaged.size() && i < kMostNamed; ++i) {
    const int64_t begin = summary.damaged[i] * 64;
    text += fmt::format("damaged: tokens {}-{} ({})\n", FormatCount(begin), FormatCount(begin + 63),
                        summary.FileOf(summary.damaged[i]));
  }
  if (summary.damaged.size() > kMostNamed)
    text += fmt::format("and {} more\n", summary.damaged.size() - kMostNamed);
  WriteOut(text + fmt::format("{}: {} slices are whole, {} are damaged\n", folder,
                              FormatCount(summary.num_slices - static_cast<int64_t>(summary.damaged.size())),
                              summary.damaged.size()));
  return summary.damaged.empty() ? 0 : kExitError;
}

int RemoveTheStore(const std::string& folder) {
  RemoveStore(folder);
  WriteOut(fmt::format("{}: removed\n", folder));
  return 0;
}

}  // namespace

void AddStore(Command& program) {
  Command& verb = program.AddVerb("store", "What is in the folder of --store");
  const auto add = [&verb](const char* name, const char* help, int (*action)(const std::string&)) {
    auto folder = std::make_shared<std::string>();
    Command& one = verb.AddVerb(name, help);
    one.Text("DIR", folder.get(), "", "The folder");
    one.SetAction([folder, action] {
      if (folder->empty()) FailUsage("name the folder of a store");
      return action(*folder);
    });
  };
  add("ls", "How much it holds, and of which context", &ListStore);
  add("check", "Read all of it, and name what is damaged (exit code 1 if anything is)", &CheckStore);
  add("rm", "Remove it; nothing else that lies in the folder", &RemoveTheStore);
}

}  // namespace mneme::cli
