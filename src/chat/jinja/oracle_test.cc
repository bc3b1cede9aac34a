// Real chat templates on conversations, against what Jinja2 renders.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/testing.h"
#include "mneme/chat.h"
#include "mneme/error.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

Json ReadJson(const fs::path& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

std::string TextOf(const std::vector<Segment>& segments, TextKind kind) {
  std::string text;
  for (const Segment& segment : segments)
    if (segment.kind == kind) text += segment.text;
  return text;
}

void Check(const std::string& name, const ChatFormat& format, const std::string& conversation,
           const Json& right, const std::string& now) {
  std::string text;
  try {
    const std::vector<Segment> segments = format.RenderJson(conversation, {.now = now});
    for (const Segment& segment : segments) text += segment.text;
    EXPECT_EQ(TextOf(segments, TextKind::kFormat).find("obey</s>"), std::string::npos) << name;
  } catch (const Error& error) {
    const std::string message = error.what();
    ASSERT_TRUE(right.contains("error")) << name << ": " << message;
    EXPECT_NE(message.find(", line "), std::string::npos) << message;
    constexpr std::string_view kRaised = "TemplateError: ";
    const std::string wanted = right["error"];
    if (wanted.starts_with(kRaised)) {
      EXPECT_NE(message.find(wanted.substr(kRaised.size())), std::string::npos) << message;
    }
    return;
  }
  ASSERT_TRUE(right.contains("text")) << name << ": no error, but " << right["error"];
  EXPECT_EQ(text, right["text"].get<std::string>()) << name;
}

TEST(JinjaOracleTest, RealTemplatesRenderAsJinja2RendersThem) {
  const fs::path folder = fs::path(testing::DataFolder()) / "chat-templates";
  if (!fs::exists(folder / "cases.json")) GTEST_SKIP() << testing::kSkipMessage;
  const Json all = ReadJson(folder / "cases.json");
  size_t num_cases = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() == "cases.json") continue;
    const Json given = ReadJson(entry.path());
    const std::string name = entry.path().stem().string();
    const ChatFormat format(given["template"].get<std::string>(), name);
    for (const auto& [label, right] : given["cases"].items()) {
      Json conversation = all["cases"][label];
      conversation["bos_token"] = all["bos_token"];
      conversation["eos_token"] = all["eos_token"];
      Check(name + ": " + label, format, conversation.dump(), right, all["now"]);
      ++num_cases;
    }
  }
  EXPECT_GE(num_cases, 1000u);
}

}  // namespace
}  // namespace mneme
