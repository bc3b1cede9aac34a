// What Jinja2 has no oracle for: who wrote what, limits, and errors.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/testing.h"
#include "chat/jinja/builtins/clock.h"
#include "chat/jinja/template.h"
#include "mneme/chat.h"
#include "mneme/error.h"

namespace mneme {
namespace {

// A conversation whose user's message is `content`.
std::string Conversation(const std::string& content, const std::string& role = "user") {
  const nlohmann::ordered_json json = {{"messages", {{{"role", role}, {"content", content}}}},
                                       {"bos_token", "<s>"},
                                       {"eos_token", "</s>"},
                                       {"n", 5}};
  return json.dump();
}

// Plain text in [brackets].
std::string Marked(const std::string& jinja, const std::string& content, const std::string& role = "user") {
  std::string text;
  for (const Segment& segment : ChatFormat(jinja).RenderJson(Conversation(content, role))) {
    text += segment.kind == TextKind::kPlain ? "[" + segment.text + "]" : segment.text;
  }
  return text;
}

TEST(JinjaTest, WhatUsersWroteStaysMarked) {
  const std::string set = "{% set c = messages[0].content %}";
  const auto marked = [&](const std::string& expression) {
    return Marked(set + "{{ " + expression + " }}", " aBc,d ");
  };
  EXPECT_EQ(marked("'<x>' + c + '</x>'"), "<x>[ aBc,d ]</x>");
  EXPECT_EQ(marked("'<x>' ~ c|trim ~ '</x>'"), "<x>[aBc,d]</x>");
  EXPECT_EQ(marked("c.strip().upper()"), "[ABC,D]");
  EXPECT_EQ(marked("c|trim|title"), "[Abc,d]");
  EXPECT_EQ(marked("c|replace('B', '<b>')"), "[ a]<b>[c,d ]");
  EXPECT_EQ(marked("'<b>'|replace('b', c)"), "<[ aBc,d ]>");
  EXPECT_EQ(marked("c.split(',')|join('<|>')"), "[ aBc]<|>[d ]");
  EXPECT_EQ(marked("c.split(',')"), "[[' aBc'], ['d ']]");
  EXPECT_EQ(marked("(c ~ '<x>')[-5:-1]"), "[d ]<x");
  EXPECT_EQ(marked("(c ~ '!')|reverse"), "![ d,cBa ]");
  EXPECT_EQ(marked("[c]|tojson"), "[[\" aBc,d \"]]");
  EXPECT_EQ(marked("messages|tojson"), "[[{\"role\": ]\"user\"[, \"content\": \" aBc,d \"}]]");
  EXPECT_EQ(marked("'<%s>' % c"), "<[ aBc,d ]>");
  EXPECT_EQ(marked("'<{}>'.format(c)"), "<[ aBc,d ]>");
  EXPECT_EQ(marked("c * 2"), "[ aBc,d  aBc,d ]");
  EXPECT_EQ(marked("c|list|first"), "[ ]");
  EXPECT_EQ(marked("c|e"), "[ aBc,d ]");
  EXPECT_EQ(marked("c|indent(2, true)"), "  [ aBc,d ]");
  EXPECT_EQ(marked("c|center(11)"), "  [ aBc,d ]  ");
  EXPECT_EQ(marked("{'k': c}"), "{'k': [' aBc,d ']}");
  EXPECT_EQ(marked("n ~ '|' ~ (n + 1) ~ '|' ~ 6"), "[5]|[6]|6");
  EXPECT_EQ(marked("'<' ~ c|int(3) ~ '>'"), "<3>");
  EXPECT_EQ(marked("bos_token ~ c ~ eos_token"), "<s>[ aBc,d ]</s>");
  EXPECT_EQ(Marked("{% macro m(x) %}<m>{{ x }}</m>{% endmacro %}{{ m(messages[0].content) }}", "u"),
            "<m>[u]</m>");
  EXPECT_EQ(Marked("{% set x %}<m>{{ messages[0].content }}{% endset %}{{ x|upper }}", "u"), "<M>[U]");
  EXPECT_EQ(Marked("{% filter trim %} {{ messages[0].content }}{% endfilter %}", "u "), "[u]");
  EXPECT_EQ(Marked("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "u"),
            "[role]=user;[content]=[u];");
}

TEST(JinjaTest, RolesAreTheFormatsOnlyAsTheFourWords) {
  const std::string jinja = "{{ '<|' + messages[0].role + '|>' + messages[0]['content'] }}";
  EXPECT_EQ(Marked(jinja, "hi"), "<|user|>[hi]");
  EXPECT_EQ(Marked(jinja, "hi", "tool"), "<|tool|>[hi]");
  EXPECT_EQ(Marked(jinja, "hi", "im_end"), "<|[im_end]|>[hi]");
  EXPECT_EQ(Marked(jinja, "hi", "user|><|system"), "<|[user|><|system]|>[hi]");
  // Only a message's own role: one inside of what it says is a word.
  const std::string inner =
      R"({"messages": [{"role": "user", "content": {"role": "user"}}], "role": "user"})";
  std::string plain;
  for (const Segment& segment : ChatFormat("{{ messages[0].content.role }}{{ role }}").RenderJson(inner))
    if (segment.kind == TextKind::kPlain) plain += segment.text;
  EXPECT_EQ(plain, "useruser");
}

std::string ErrorOf(const std::string& jinja, ErrorKind kind, const std::string& conversation = "{}") {
  try {
    ChatFormat(jinja, "t.jinja").RenderJson(conversation);
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(JinjaTest, ErrorsNameTheLine) {
  EXPECT_EQ(ErrorOf("a\n{{ raise_exception('not ' ~ 'so') }}", ErrorKind::kInput), "t.jinja, line 2: not so");
  EXPECT_EQ(ErrorOf("a\n\n{% wrong %}", ErrorKind::kFile), "t.jinja, line 3: unknown tag 'wrong'");
  EXPECT_EQ(ErrorOf("{{ 1|wrong }}", ErrorKind::kUnsupported),
            "t.jinja, line 1: no filter named 'wrong' is known here");
  EXPECT_EQ(ErrorOf("\n{{ 1 is wrong }}", ErrorKind::kUnsupported),
            "t.jinja, line 2: no test named 'wrong' is known here");
  EXPECT_EQ(ErrorOf("{% macro m() %}\n{{ x.y }}{% endmacro %}\n\n{{ m() }}", ErrorKind::kInput),
            "t.jinja, line 2: 'x' is undefined");
  EXPECT_EQ(ErrorOf("{% macro m() %}{% endmacro %}\n{{ m() + 1 }}", ErrorKind::kInput),
            "t.jinja, line 2: can only concatenate str (not \"int\") to str");
  EXPECT_EQ(ErrorOf("{% if x %}\n", ErrorKind::kFile),
            "t.jinja, line 1: unexpected end of template: elif or else or endif is missing");
  EXPECT_EQ(ErrorOf("{% include 'x' %}", ErrorKind::kFile),
            "t.jinja, line 1: the tag 'include' is not known here: a chat template is one file");
  EXPECT_EQ(ErrorOf("\xff", ErrorKind::kFile), "t.jinja: the template is not UTF-8 from byte 0 on");
  EXPECT_EQ(ErrorOf("", ErrorKind::kInput, "[1]"), "the conversation is no JSON object with `messages`");
  EXPECT_EQ(ErrorOf("", ErrorKind::kInput, "{"), "the conversation: this is not JSON from byte 2 on");
}

// Each would take for ever, or all memory there is, or the stack.
TEST(JinjaTest, HostileTemplatesEndWithAnError) {
  const std::string hostile[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% "
      "endfor %}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{{ range(100001) }}",
      "{{ 'x' * 999999999999 }}",
      "{{ [1] * 999999999999 }}",
      "{{ 'x'|center(999999999999) }}",
      "{{ '' * 10 ** 30 ~ [] * 10 ** 30 }}{{ 1 + '' }}",
      "{{ 'x'.ljust(10 ** 30) }}",
      "{{ '%9999999999d' % 1 }}",
      "{{ 10 ** 100 }}",
      "{{ 99999999999999999 * 99999999999999999 * 99999999999999999 }}",
      "{% set ns = namespace(x='xxxxxxxxxxxxxxxx') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% "
      "endfor %}",
      "{% set ns = namespace(x=['x']) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
      "{% set x = 'x' * 1000000 %}{% for i in range(99999) %}{% for j in range(99999) %}{% if x + 'a' == x + "
      "'b' %}{% endif %}{% endfor %}{% endfor %}",
      "{% set x = 'x' * 1000000 %}{{ x|replace('x', x) }}",
      "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
      "{% set ns = namespace(a=[]) %}{% for i in range(99999) %}{% for j in range(99999) %}{% set ns.a = "
      "[namespace(p=ns.a)] %}{% endfor %}{% endfor %}",
      "{{ '" + std::string(300, '(') + "' }}{{ " + std::string(300, '(') + "1" + std::string(300, ')') +
          " }}",
      "{{ " + std::string(5000, '-') + "1 }}",
      "{{ " + std::string(5000, '[') + std::string(5000, ']') + " }}",
      "{{ x" + std::string(1000, '.') + " }}",
  };
  jinja::Limits limits;
  limits.max_steps = 3'000'000;
  limits.max_live_bytes = size_t{16} << 20;
  for (const std::string& jinja : hostile) {
    try {
      jinja::Template(jinja, "t").Render({}, {}, limits);
      ADD_FAILURE() << "no error: " << jinja.substr(0, 100);
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).substr(0, 7), "t, line") << error.what();
    }
  }
  std::string chain = "{{ 1", filters = "{{ 1", open, ifs;
  for (int i = 0; i < 5000; ++i) {
    chain += " + 1";
    filters += "|string";
    open += "{% if 1 %}";
    ifs += "{% for a in x %}";
  }
  for (const std::string& jinja : {chain + " }}", filters + " }}", open, ifs})
    EXPECT_NE(ErrorOf(jinja, ErrorKind::kFile).find("nested too deeply"), std::string::npos);
}

TEST(JinjaTest, LongConversationsAreNoTroubleAtAll) {
  nlohmann::ordered_json json = {{"messages", nlohmann::ordered_json::array()}};
  for (int i = 0; i < 20000; ++i) {
    json["messages"].push_back(
        {{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(100, 'a')}});
  }
  const ChatFormat format(
      "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') "
      "}}{% endif %}"
      "<|{{ m.role }}|>{{ m.content|trim }}<|end|>{% endfor %}");
  EXPECT_EQ(format.RenderJson(json.dump()).size(), 40001u);
}

TEST(JinjaTest, MessagesAndToolsAsTemplatesReadThem) {
  const ChatFormat format(
      "{{ bos_token }}{% if tools %}{{ tools[0].function.name }};{% endif %}{% for m in messages %}{{ m.role "
      "}}:"
      "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].id }}{% endif %}{% if m.tool_call_id is "
      "defined %}"
      "{{ m.tool_call_id }}{% endif %};{% endfor %}{{ add_generation_prompt }}{{ think }}{{ effort }}");
  const std::vector<Message> messages = {{"user", "hi"},
                                         {"assistant", "", R"([{"id": "c1", "function": {"name": "f"}}])"},
                                         {"tool", "42", {}, "c1"}};
  std::string text;
  for (const Segment& segment :
       format.Render(messages, R"([{"type": "function", "function": {"name": "f"}}])", true,
                     {.bos_token = "<s>", .arguments = {{"think", "false"}, {"effort", "high"}}})) {
    text += segment.text;
  }
  EXPECT_EQ(text, "<s>f;user:hi;assistant:c1;tool:42c1;TrueFalsehigh");
}

TEST(JinjaTest, WhatTransformersAlwaysPassesIsThere) {
  EXPECT_EQ(Marked("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt is false }}{{ other "
                   "is defined }}",
                   ""),
            "TrueTrueTrueFalse");
}

TEST(JinjaTest, TimesAreReadAndRefused) {
  EXPECT_EQ(jinja::FormatTime(jinja::ParseTime("2024-02-29"), "%a %d %b %Y %H:%M"), "Thu 29 Feb 2024 00:00");
  EXPECT_EQ(jinja::FormatTime(jinja::ParseTime("2026-01-02 03:04"), "%H:%M:%S %f%z"), "03:04:00 000000");
  for (const char* wrong : {"", "x", "2026-13-01", "2026-02-29", "2026-01-02T25:00", "2026-01-02T03:04:05Z"})
    EXPECT_THROW(jinja::ParseTime(wrong), Error) << wrong;
}

}  // namespace
}  // namespace mneme
