// The program as a file: what it links, and that it starts.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "repository.h"

namespace mneme::repository {
namespace {

// Shared libraries that a line of `ldd` may name. Adding one is a decision, not an accident.
const std::set<std::string>& Allowed() {
  static const std::set<std::string> allowed = {
      "linux-vdso", "ld-linux-x86-64", "ld-linux-aarch64", "libc",
      "libm",       "libstdc++",       "libgcc_s",         "libdl",
      "libpthread", "librt",           "libfmt",           "libhwy",
      "libxxhash",  "libstemmer",      "libedit",          "libtinfo",
      "libbsd",     "libmd",                        // the last four: line editing
      "libasan",    "libubsan",        "libtsan"};  // sanitizer builds
  return allowed;
}

// "\tlibfmt.so.9 => /lib/..." -> "libfmt"
std::string LibraryName(const std::string& line) {
  const size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  std::string name = line.substr(begin, line.find(' ', begin) - begin);
  const size_t slash = name.rfind('/');
  if (slash != std::string::npos) name = name.substr(slash + 1);
  return name.substr(0, name.find(".so"));
}

TEST(Program, LinksFewLibraries) {
  if (OutputOf("command -v ldd").empty()) GTEST_SKIP() << "no ldd on this system";
  const std::string output = OutputOf("ldd '" MNEME_PROGRAM "'");
  ASSERT_NE(output.find("libc"), std::string::npos) << output;
  for (const std::string& line : Lines(output)) {
    const std::string name = LibraryName(line);
    if (!name.empty()) {
      EXPECT_EQ(Allowed().count(name), 1u) << line;
    }
  }
}

TEST(Program, LibraryNamesAreRead) {
  EXPECT_EQ(LibraryName("\tlibfmt.so.9 => /lib/x86_64-linux-gnu/libfmt.so.9 (0x1)"), "libfmt");
  EXPECT_EQ(LibraryName("\t/lib64/ld-linux-x86-64.so.2 (0x1)"), "ld-linux-x86-64");
  EXPECT_EQ(LibraryName("\tlibtorch.so => not found"), "libtorch");
  EXPECT_EQ(Allowed().count("libtorch"), 0u);
  EXPECT_EQ(Allowed().count("libmpi"), 0u);
}

TEST(Program, SaysItsVersion) {
  EXPECT_TRUE(OutputOf("'" MNEME_PROGRAM "' --version").starts_with("mneme "));
}

}  // namespace
}  // namespace mneme::repository
