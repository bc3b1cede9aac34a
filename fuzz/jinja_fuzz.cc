// A hostile chat template, a NUL, and what a user wrote. Whatever the template does ends within its limits,
// and what comes out as the format's own does not hold a mark that only the user wrote.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "chat/jinja/builtins/clock.h"
#include "chat/jinja/template.h"
#include "fuzz/guard.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // No expression makes this character of others.
  constexpr const char* kMark = "\xF0\x9F\x9C\x82";
  std::string jinja(reinterpret_cast<const char*>(data), size), message;
  if (const size_t end = jinja.find('\0'); end != std::string::npos) {
    message = jinja.substr(end + 1);
    jinja.resize(end);
  }
  const bool knows_mark = jinja.find(kMark) != std::string::npos || jinja.find('\\') != std::string::npos;
  mneme::fuzz::Accepts([&] {
    const mneme::jinja::Template parsed(jinja, "t");
    // Bytes that are not UTF-8 are no JSON: they come as U+FFFD.
    const std::string content = nlohmann::ordered_json(message + kMark)
                                    .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    const auto conversation = nlohmann::ordered_json::parse(
        R"({"add_generation_prompt": true, "bos_token": "<s>", "messages": [{"role": "user", "content": )" +
        content + R"(}, {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "n": 2.5}]}]})");
    mneme::jinja::Limits limits;
    limits.max_steps = 1'000'000;
    limits.max_live_bytes = size_t{32} << 20;
    limits.max_output_bytes = size_t{8} << 20;
    const std::vector<mneme::Segment> segments = parsed.Render(
        mneme::jinja::ConversationVariables(conversation), mneme::jinja::ParseTime("2026-01-02"), limits);
    for (const mneme::Segment& segment : segments) {
      if (segment.kind == mneme::TextKind::kFormat && !knows_mark &&
          segment.text.find(kMark) != std::string::npos) {
        __builtin_trap();
      }
    }
  });
  return 0;
}
