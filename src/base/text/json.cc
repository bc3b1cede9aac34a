#include "base/text/json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "base/error.h"

namespace mneme {

using Json = nlohmann::json;

std::string JsonReason(const Json::exception& error) {
  if (const auto* parse = dynamic_cast<const Json::parse_error*>(&error)) {
    return fmt::format("this is not JSON from byte {} on", parse->byte);
  }
  const std::string_view text = error.what();  // "[json.exception.out_of_range.403] key 'text' not found"
  const size_t end = text.starts_with('[') ? text.find("] ") : std::string_view::npos;
  return std::string(end == std::string_view::npos ? text : text.substr(end + 2));
}

namespace {

template <typename AnyJson>
AnyJson Parse(std::string_view text, const std::string& name, int max_depth) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, typename AnyJson::parse_event_t event, AnyJson& parsed) {
    if (depth > max_depth) Fail(ErrorKind::kFile, "{}: its JSON is nested too deeply", name);
    if (event == AnyJson::parse_event_t::object_start) keys.emplace_back();
    if (event == AnyJson::parse_event_t::object_end) keys.pop_back();
    if (event == AnyJson::parse_event_t::key &&
        !keys.back().insert(parsed.template get<std::string>()).second) {
      Fail(ErrorKind::kFile, "{}: {} occurs twice in its JSON", name, parsed.template get<std::string>());
    }
    return true;
  };
  try {
    return AnyJson::parse(text.begin(), text.end(), check);
  } catch (const Json::exception& error) {
    Fail(ErrorKind::kFile, "{}: {}", name, JsonReason(error));
  }
}

}  // namespace

Json ParseStrictJson(std::string_view text, const std::string& name, int max_depth) {
  return Parse<Json>(text, name, max_depth);
}

nlohmann::ordered_json ParseStrictOrderedJson(std::string_view text, const std::string& name, int max_depth) {
  return Parse<nlohmann::ordered_json>(text, name, max_depth);
}

}  // namespace mneme
