#include "eval/tasks/summary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "eval/report/suite.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

class SummaryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    parts_ = (fs::path(::testing::TempDir()) /
              ("mneme-parts-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name())))
                 .string();
    fs::remove(parts_);
    settings_.session.context = "sinks:sinks=4,window=200";
    settings_.max_tokens = 6;
  }
  void TearDown() override { fs::remove(parts_); }

  SummaryResult Run(const std::string& data, const std::string& text, size_t piece = 7) {
    const Model model =
        Model::Load(Engine({.num_threads = 1}), data + "/models/stories260K/stories260K.gguf");
    NoProgress progress;
    size_t at = 0;
    return Summarize(
        model, settings_,
        [&] {
          const std::string next = text.substr(std::min(at, text.size()), piece);
          at += piece;
          return next;
        },
        progress);
  }
  static std::string Story() {
    std::string text;
    for (int i = 0; i < 20; ++i) text += "Lily went to the park and saw " + std::to_string(i) + " birds. ";
    return text;
  }

  SummarySettings settings_;
  std::string parts_;
};

TEST_F(SummaryTest, OneStreamDoesNotDependOnPieces) {
  MNEME_REQUIRE_DATA(data);
  const SummaryResult small = Run(data, Story(), 3), large = Run(data, Story(), 1000);
  EXPECT_EQ(small.text, large.text);
  EXPECT_EQ(small.num_tokens, large.num_tokens);
  EXPECT_EQ(small.num_parts, 0);
  EXPECT_FALSE(small.text.empty());
}

TEST_F(SummaryTest, PassesCutPartsAndKeepThem) {
  MNEME_REQUIRE_DATA(data);
  settings_.passes = 2;
  settings_.part_tokens = 100;
  settings_.parts_path = parts_;
  const SummaryResult first = Run(data, Story());
  EXPECT_EQ(first.num_parts, (first.num_tokens + 99) / 100);
  std::ifstream in(parts_);
  const std::string kept{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(std::count(kept.begin(), kept.end(), '\n'), first.num_parts + 1);
  EXPECT_EQ(Run(data, Story(), 50).text, first.text);
  // A part that a crash cut is made again.
  std::ofstream(parts_, std::ios::trunc) << kept.substr(0, kept.size() - 5);
  EXPECT_EQ(Run(data, Story()).text, first.text);
  std::ifstream again(parts_);
  EXPECT_EQ((std::string{std::istreambuf_iterator<char>(again), {}}), kept);
  EXPECT_THROW(Run(data, "Tom had a dog. " + Story()), Error);  // another text
  settings_.session.keys = Encoding::kQ8_0;
  EXPECT_THROW(Run(data, Story()), Error);
  settings_.session.keys = SessionOptions().keys;
  settings_.part_tokens = 50;
  EXPECT_THROW(Run(data, Story()), Error);
}

TEST_F(SummaryTest, EmptyTextIsRefusedAndAStopSaid) {
  MNEME_REQUIRE_DATA(data);
  EXPECT_THROW(Run(data, ""), Error);
  const std::atomic<bool> stop{true};
  settings_.stop = &stop;
  const SummaryResult result = Run(data, Story());
  EXPECT_TRUE(result.is_interrupted);
}

TEST(SuiteTest, PagesAreJoinedWithOneStyle) {
  const std::string page =
      "<html><head><style>b{}</style></head><body>\n<h1>One</h1><h2>Two</h2></body></html>";
  const std::vector<SuitePart> parts = {{"a", "mneme a", "done", 2, page, ""},
                                        {"b", "mneme b <x>", "failed", 0, "", "out & out"},
                                        {"c", "mneme c", "done", 1, page, ""}};
  const std::string html = SuiteHtml("All", parts);
  EXPECT_EQ(html.find("<style>b{}</style>"), html.rfind("<style>b{}</style>"));
  EXPECT_NE(html.find("<h2>One</h2>"), std::string::npos);
  EXPECT_NE(html.find("<h3>Two</h3>"), std::string::npos);
  EXPECT_EQ(html.find("<h1>One"), std::string::npos);
  EXPECT_NE(html.find("mneme b &lt;x&gt;"), std::string::npos);
  EXPECT_NE(html.find("out &amp; out"), std::string::npos);
  EXPECT_EQ(html.find("<body>"), html.rfind("<body>"));
}

}  // namespace
}  // namespace mneme
