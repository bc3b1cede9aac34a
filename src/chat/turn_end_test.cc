// The token that a chat template ends a reply with.
#include <gtest/gtest.h>

#include <string>

#include "mneme/chat.h"

namespace mneme {
namespace {

Tokenizer WithTemplate(std::string jinja) {
  for (size_t at = 0; (at = jinja.find('"', at)) != std::string::npos; at += 2) jinja.insert(at, "\\");
  const std::string json =
      R"({"added_tokens":[{"id":3,"content":"<stop>","special":true},{"id":4,"content":"<next>","special":true}],)"
      R"("normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)"
      R"("model":{"type":"BPE","unk_token":null,"vocab":{"a":0,"b":1,"<":2},"merges":[]}})";
  const std::string config = R"({"chat_template": ")" + jinja + R"("})";
  return WithTurnEnd(
      ParseTokenizerJson({reinterpret_cast<const uint8_t*>(json.data()), json.size()}, config));
}

TEST(TurnEndTest, WhatStandsBehindAReply) {
  EXPECT_TRUE(WithTemplate("{% for m in messages %}{{ m.content }}<stop>{% endfor %}").is_eog(3));
  EXPECT_TRUE(WithTemplate("{% for m in messages %}{{ m.content }} <stop><next>{% endfor %}").is_eog(3));
  EXPECT_FALSE(WithTemplate("{% for m in messages %}{{ m.content }}<stop><next>{% endfor %}").is_eog(4));
  // Models without an end of their own open the next turn.
  EXPECT_TRUE(WithTemplate("{% for m in messages %}<next>{{ m.content }}{% endfor %}").is_eog(4));
  // Letters are none, nor is a template that cannot be run, or none at all.
  for (const char* jinja : {"{% for m in messages %}{{ m.content }}a{% endfor %}",
                            "{{ messages[0].content }}", "{{ raise_exception('no') }}", "{% for %}", ""}) {
    EXPECT_TRUE(WithTemplate(jinja).eog_ids().empty()) << jinja;
  }
}

}  // namespace
}  // namespace mneme
