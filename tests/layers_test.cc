// A folder of src/ uses only itself and the folders above it (docs/architecture.md, "Layers").
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "repository.h"

namespace mneme::repository {
namespace {

const std::vector<std::string>& Layers() {
  static const std::vector<std::string> layers = {"base",  "formats", "tokenizer", "chat",  "kernels",
                                                  "kv",    "recall",  "context",   "model", "session",
                                                  "train", "eval",    "bench",     "cli"};
  return layers;
}

// What other folders see of the kernels; the rest (layouts, tiles, SIMD) is their own business.
const std::set<std::string>& KernelHeaders() {
  static const std::set<std::string> headers = {
      "kernels/device.h",        "kernels/cpu_device.h",      "kernels/timing_device.h",
      "kernels/linear/linear.h", "kernels/attend/attend.h",   "kernels/choose/choose.h",
      "kernels/attend/rope.h",   "kernels/experts/experts.h", "kernels/memory/memory.h",
      "kernels/simd/peak.h",     "kernels/simd/target.h",     "kernels/pointwise/elementwise.h",
      "kernels/recur/gates.h",   "kernels/recur/recur.h",     "kernels/recur/recur_test_util.h"};
  return headers;
}

// The folder that a public header belongs to: what it declares is written there.
std::string FolderOf(const std::string& path) {
  static const std::map<std::string, std::string> owners = {
      {"tokenizer.h", "tokenizer"}, {"chat.h", "chat"},         {"engine.h", "model"},
      {"model.h", "model"},         {"inspect.h", "model"},     {"convert.h", "model"},
      {"ledger.h", "context"},      {"stats.h", "session"},     {"session.h", "session"},
      {"scheduler.h", "session"},   {"calibrate.h", "session"}, {"store.h", "recall"},
      {"plan.h", "session"},        {"report.h", "session"}};
  const size_t slash = path.find('/');
  if (path.substr(0, slash) != "mneme") return path.substr(0, slash);
  const auto found = owners.find(path.substr(slash + 1));
  return found == owners.end() ? "base" : found->second;
}

// Folders that stand on the public headers, as everybody else does, and the folders whose own headers they
// may see.
const std::map<std::string, std::set<std::string>>& OnTheFace() {
  static const std::map<std::string, std::set<std::string>> folders = {
      {"eval", {"base", "eval"}}, {"cli", {"base", "eval", "bench", "cli"}}};
  return folders;
}

std::optional<size_t> Rank(const std::string& folder) {
  const auto found = std::find(Layers().begin(), Layers().end(), folder);
  if (found == Layers().end()) return std::nullopt;
  return static_cast<size_t>(found - Layers().begin());
}

// What is wrong with the includes of a file of `folder`.
std::vector<std::string> Violations(const std::string& folder, const std::string& text,
                                    bool may_look_inside = false) {
  static const std::regex include(R"re(^\s*#\s*include\s+"([^"]+)")re");
  std::vector<std::string> wrong;
  const std::optional<size_t> here = Rank(folder);
  if (!here) return {"src/" + folder + " is not a layer"};
  for (const std::string& line : Lines(text)) {
    std::smatch match;
    if (!std::regex_search(line, match, include)) continue;
    const std::string path = match[1];
    const size_t slash = path.find('/');
    if (slash == std::string::npos) {
      if (!path.ends_with(".inc")) wrong.push_back(path + ": includes name their folder");
      continue;
    }
    const std::optional<size_t> there = Rank(FolderOf(path));
    const auto face = OnTheFace().find(folder);
    if (!may_look_inside && face != OnTheFace().end() && !path.starts_with("mneme/") &&
        !face->second.contains(path.substr(0, slash))) {
      wrong.push_back(path + " is behind the public headers");
    }
    if (there && *there > *here) wrong.push_back(path + " is below src/" + folder);
    if (path.starts_with("kernels/") && folder != "kernels" && !KernelHeaders().contains(path)) {
      wrong.push_back(path + " is private to src/kernels");
    }
    if (path.find("..") != std::string::npos) wrong.push_back(path + " walks out of its folder");
  }
  return wrong;
}

template <typename Fn>
void ForEachSource(const Fn& fn) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(Root() / "src")) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cc") continue;
    const std::filesystem::path relative = std::filesystem::relative(entry.path(), Root() / "src");
    fn(relative, ReadFile(entry.path()));
  }
}

TEST(Layers, EveryIncludePointsUp) {
  size_t num_files = 0;
  ForEachSource([&](const std::filesystem::path& path, const std::string& text) {
    ++num_files;
    // A program inside a layer's folder (training) stands below all layers, and sees its own.
    const bool is_program = path.string().find("/program/") != std::string::npos;
    // Twins see what they are the twins of; only tests see them.
    if (path.string().starts_with("reference/")) return;
    const bool is_test = path.string().find("test") != std::string::npos;
    if (!is_test && text.find("#include \"reference/") != std::string::npos) {
      ADD_FAILURE() << "src/" << path.string() << ": only tests include src/reference";
    }
    for (const std::string& wrong :
         Violations(is_program ? "cli" : path.begin()->string(), text, is_test || is_program)) {
      ADD_FAILURE() << "src/" << path.string() << ": " << wrong;
    }
  });
  EXPECT_GT(num_files, 50u);
}

TEST(Layers, TheCheckFindsWhatItShould) {
  EXPECT_TRUE(
      Violations("context", "#include \"kernels/attend/attend.h\"\n#include \"context/policy.h\"\n").empty());
  EXPECT_TRUE(Violations("context", "#include <vector>\n#include \"CLI/CLI.hpp\"\n").empty());
  EXPECT_EQ(Violations("kernels", "#include \"context/policy.h\"\n").size(), 1u);
  EXPECT_EQ(Violations("kernels", "  #  include \"cli/verbs.h\"\n").size(), 1u);
  EXPECT_EQ(Violations("model", "#include \"config.h\"\n").size(), 1u);
  EXPECT_EQ(Violations("model", "#include \"kernels/linear/layout.h\"\n").size(), 1u);
  EXPECT_TRUE(Violations("kernels", "#include \"kernels/linear/layout.h\"\n").empty());
  EXPECT_EQ(Violations("model", "#include \"context/../cli/verbs.h\"\n").size(), 1u);
  EXPECT_EQ(Violations("utils", "").size(), 1u);
}

TEST(Layers, PublicHeadersIncludeOnlyEachOther) {
  size_t num_headers = 0;
  for (const auto& entry : std::filesystem::directory_iterator(Root() / "include" / "mneme")) {
    ++num_headers;
    for (const std::string& line : Lines(ReadFile(entry.path()))) {
      if (line.find("#include") == std::string::npos) continue;
      const bool is_ours = line.find("#include \"mneme/") != std::string::npos;
      const bool is_standard = line.find("#include <") != std::string::npos &&
                               line.find('/') == std::string::npos && line.find(".h>") == std::string::npos;
      EXPECT_TRUE(is_ours || is_standard) << entry.path().filename() << ": " << line;
    }
  }
  EXPECT_GE(num_headers, 15u);
}

// The library's own folders see of a layer below them nothing, public or not.
TEST(Layers, TheFaceHidesWhatIsBehindIt) {
  EXPECT_EQ(Violations("cli", "#include \"session/session_impl.h\"\n").size(), 1u);
  EXPECT_EQ(Violations("eval", "#include \"kernels/device.h\"\n").size(), 1u);
  EXPECT_TRUE(Violations("eval", "#include \"mneme/session.h\"\n#include \"base/files/file.h\"\n").empty());
  EXPECT_EQ(Violations("model", "#include \"mneme/session.h\"\n").size(), 1u);
  EXPECT_TRUE(Violations("session", "#include \"mneme/model.h\"\n").empty());
}

TEST(Layers, TheDocumentListsThemInThisOrder) {
  const std::string text = ReadFile(Root() / "docs/architecture.md");
  size_t at = text.find("## Layers");
  ASSERT_NE(at, std::string::npos);
  for (const std::string& layer : Layers()) {
    const size_t found = text.find("src/" + layer + "/", at);
    EXPECT_NE(found, std::string::npos) << "src/" << layer << "/ is missing or out of order";
    if (found != std::string::npos) at = found;
  }
}

// The library never prints or exits; the program does.
TEST(Layers, OnlyTheEdgesPrintOrExit) {
  static const std::regex forbidden(
      R"re(\b(std::cout|std::cerr|std::exit|std::abort|std::quick_exit|std::printf|std::puts|puts|printf|exit|abort)\b\s*(\(|<<))re");
  ForEachSource([&](const std::filesystem::path& path, const std::string& text) {
    const std::string name = path.string();
    if (name.starts_with("cli/") || name.find("test") != std::string::npos || name == "base/error.cc" ||
        name.find("/program/") != std::string::npos || name.starts_with("tokenizer/tables/")) {
      return;
    }
    size_t number = 0;
    for (const std::string& line : Lines(text)) {
      ++number;
      const std::string code = line.substr(0, line.find("//"));
      if (std::regex_search(code, forbidden)) {
        ADD_FAILURE() << "src/" << name << ":" << number << ": " << line;
      }
    }
  });
}

}  // namespace
}  // namespace mneme::repository
