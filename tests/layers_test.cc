// A folder of src/ uses only itself and the folders above it (docs/architecture.md, "Layers").
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "repository.h"

namespace mneme::repository {
namespace {

const std::vector<std::string>& Layers() {
  static const std::vector<std::string> layers = {"base",    "formats", "tokenizer", "chat",
                                                  "kernels", "kv", "context", "model",     "session",
                                                  "train",   "eval",    "bench",     "cli"};
  return layers;
}

// What other folders see of the kernels; the rest (layouts, tiles, SIMD) is their own business.
const std::set<std::string>& KernelHeaders() {
  static const std::set<std::string> headers = {
      "kernels/device.h",        "kernels/cpu_device.h",    "kernels/timing_device.h",
      "kernels/linear/linear.h", "kernels/attend/attend.h", "kernels/attend/rope.h",
      "kernels/memory/memory.h", "kernels/simd/peak.h",     "kernels/simd/target.h",     "kernels/pointwise/elementwise.h"};
  return headers;
}

std::optional<size_t> Rank(const std::string& folder) {
  const auto found = std::find(Layers().begin(), Layers().end(), folder);
  if (found == Layers().end()) return std::nullopt;
  return static_cast<size_t>(found - Layers().begin());
}

// What is wrong with the includes of a file of `folder`.
std::vector<std::string> Violations(const std::string& folder, const std::string& text) {
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
    const std::optional<size_t> there = Rank(path.substr(0, slash));
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
    // A program inside a layer's folder stands below all layers, as src/cli does.
    const bool is_program = path.string().find("/program/") != std::string::npos;
    // Twins see what they are the twins of; only tests see them.
    if (path.string().starts_with("reference/")) return;
    const bool is_test = path.string().find("test") != std::string::npos;
    if (!is_test && text.find("#include \"reference/") != std::string::npos) {
      ADD_FAILURE() << "src/" << path.string() << ": only tests include src/reference";
    }
    for (const std::string& wrong : Violations(is_program ? "cli" : path.begin()->string(), text)) {
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
