#include "base/text/json.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace mneme {
namespace {

template <typename Call>
std::string ReasonOf(const Call& call) {
  try {
    call();
  } catch (const nlohmann::json::exception& error) {
    return JsonReason(error);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

TEST(Json, ReasonsAreInWordsOfOurOwn) {
  using Json = nlohmann::json;
  EXPECT_EQ(ReasonOf([] { return Json::parse("{\"a\": \x1b[2J}"); }), "this is not JSON from byte 7 on");
  EXPECT_EQ(ReasonOf([] { return Json::parse("{}").at("text"); }), "key 'text' not found");
  EXPECT_EQ(ReasonOf([] { return Json(7).get<std::string>(); }), "type must be string, but is number");
}

TEST(Json, StrictRefusesDepthAndKeysThatAreThereTwice) {
  EXPECT_EQ(ParseStrictJson("{\"a\": [1]}", "f", 2)["a"][0], 1);
  EXPECT_EQ(ReasonOf([] { return ParseStrictJson("[[[1]]]", "f", 2); }), "f: its JSON is nested too deeply");
  EXPECT_EQ(ReasonOf([] { return ParseStrictJson("{\"a\": 1, \"a\": 2}", "f", 2); }),
            "f: a occurs twice in its JSON");
  EXPECT_EQ(ReasonOf([] { return ParseStrictJson("{", "f", 2); }), "f: this is not JSON from byte 2 on");
}

}  // namespace
}  // namespace mneme
