// The model that ships, through the program: what its card promises, at lengths that take seconds.
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <string>

#include "repository.h"

namespace mneme::repository {
namespace {

std::string Passkeys(const std::string& options) {
  return OutputOf("'" MNEME_PROGRAM "' eval passkey '" + (Root() / "models/mneme-tiny.gguf").string() +
                  "' --trials 5 --score generate --threads 1 " + options + " 2>&1");
}

TEST(ShippedModel, StaysSmall) {
  uintmax_t total = 0;
  for (const auto& entry : std::filesystem::directory_iterator(Root() / "models")) {
    if (entry.path().extension() == ".gguf") total += entry.file_size();
  }
  EXPECT_GT(total, 0u);
  EXPECT_LE(total, uintmax_t{16} << 20);
}

// The key is many segments away from the question: only the memory can know it.
TEST(ShippedModel, RecallsAPassKeyThroughTheMemory) {
  const std::string output = Passkeys("--lengths 2K,8K --depths 0,0.5");
  const std::regex row(R"re(\s(\d+)%\s+mneme\s+generate\s+5\s+([0-9.]+)\s)re");
  int rows = 0;
  for (std::sregex_iterator at(output.begin(), output.end(), row), end; at != end; ++at, ++rows) {
    EXPECT_GE(std::stod((*at)[2]), 0.8) << output;
  }
  EXPECT_EQ(rows, 4) << output;
}

// The same model without its memory must not know it, or the task would measure something else.
TEST(ShippedModel, DoesNotKnowTheKeyWithoutItsMemory) {
  const std::string output = Passkeys("--lengths 2K --depths 0 --context xl:segment=128,previous=1");
  const std::regex row(R"re(\s0%\s+mneme\s+generate\s+5\s+([0-9.]+)\s)re");
  std::smatch match;
  ASSERT_TRUE(std::regex_search(output, match, row)) << output;
  EXPECT_LE(std::stod(match[1]), 0.2) << output;
}

}  // namespace
}  // namespace mneme::repository
