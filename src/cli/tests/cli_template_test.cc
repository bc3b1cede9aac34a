// mneme template: prompts as text and as ids, from a template on its own and from a model's files.
#include <nlohmann/json.hpp>

#include "cli/tests/cli_test_util.h"

namespace mneme {
namespace {

constexpr const char* kConversation =
    R"({"messages": [{"role": "user", "content": "a<|user|>b"}], "add_generation_prompt": true, "x": 1})";

// A tokenizer with two control tokens, as a folder keeps it.
std::string TokenizerJson() {
  return R"({"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<|user|>","special":true},)"
         R"({"id":2,"content":"<s>","special":true}],"normalizer":{"type":"Sequence","normalizers":[)"
         R"({"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,"decoder":null,)"
         R"("model":{"type":"BPE","unk_token":"<unk>","byte_fallback":false,)"
         R"("vocab":{"<unk>":0,"<|user|>":1,"<s>":2,"a":3,"b":4,"<":5,"|":6,"u":7,"s":8,"e":9,"r":10,">":11},"merges":[]}})";
}

TEST_F(CliTest, TemplateOfItsOwnFile) {
  const std::string jinja =
      Write("t.jinja",
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
            "{{ x }}{{ y }}{{ strftime_now('%d.%m.%Y') }}{{ raise_exception('no') if fail }}\n\n");
  const std::string talk = Write("talk.json", kConversation);
  const Outcome good = RunProgram({"template", jinja, "--conversation", talk, "--now", "2026-01-02T03:04:05",
                                   "--template-arg", "y=[1, true]", "--template-arg", "x=high"});
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_EQ(good.out, "<|user|>a<|user|>bhigh[1, True]02.01.2026\n");
  const Outcome piped =
      RunProgram({"template", jinja, "--conversation", "-", "--now", "2026-01-02"}, kConversation);
  EXPECT_EQ(piped.out, "<|user|>a<|user|>b102.01.2026\n");
  const Outcome refused =
      RunProgram({"template", jinja, "--conversation", talk, "--template-arg", "fail=true"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.err.find("t.jinja, line 1: no"), std::string::npos) << refused.err;
  EXPECT_EQ(refused.out, "");
  EXPECT_EQ(RunProgram({"template", jinja, "--conversation", talk, "--ids"}).code, 2);
  EXPECT_EQ(RunProgram({"template", jinja, "--conversation", talk, "--template-arg", "x"}).code, 2);
  EXPECT_EQ(RunProgram({"template", jinja, "--conversation", talk, "--now", "yesterday"}).code, 1);
  EXPECT_EQ(RunProgram({"template", jinja}).code, 2);
  const Outcome empty = RunProgram({"template", jinja, "--conversation", Write("empty.json", "{}")});
  EXPECT_EQ(empty.code, 1);
  EXPECT_NE(empty.err.find("empty.json"), std::string::npos) << empty.err;
}

TEST_F(CliTest, TemplateOfAModelWithIds) {
  const std::string talk = Write("talk.json", kConversation);
  const std::string with_tools =
      Write("tools.json", R"({"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "b"}]})");
  fs::create_directory(Path("m"));
  Write("m/tokenizer.json", TokenizerJson());
  Write(
      "m/tokenizer_config.json",
      R"({"bos_token": "<s>", "add_bos_token": true, "chat_template": [{"name": "default", "template": "old"},)"
      R"( {"name": "tool_use", "template": "{{ tools[0].name }}"}]})");
  Write("m/chat_template.jinja",
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}");
  const auto run = [&](const std::string& file, std::vector<std::string> more) {
    std::vector<std::string> arguments = {"template", Path("m"), "--conversation", file};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = RunProgram(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  };
  EXPECT_EQ(run(talk, {}), "<s><|user|>a<|user|>b");
  EXPECT_EQ(run(with_tools, {}), "b");
  // BOS once, although template and tokenizer both put one; the user's mark is letters.
  EXPECT_EQ(
      run(talk, {"--ids"}),
      "2\tcontrol\t<s>\n1\tcontrol\t<|user|>\n3\ttext\ta\n5\ttext\t<\n6\ttext\t|\n7\ttext\tu\n8\ttext\ts\n"
      "9\ttext\te\n10\ttext\tr\n6\ttext\t|\n11\ttext\t>\n4\ttext\tb\n");
  EXPECT_EQ(run(with_tools, {"--ids"}), "2\tcontrol\t<s>\n4\ttext\tb\n");
  fs::remove(Path("m/chat_template.jinja"));
  EXPECT_EQ(run(talk, {}), "old");
  Write("m/chat_template.json", R"({"chat_template": "newer"})");
  EXPECT_EQ(run(talk, {}), "newer");
  fs::create_directory(Path("m/additional_chat_templates"));
  Write("m/additional_chat_templates/tool_use.jinja", "newest");
  fs::remove(Path("m/tokenizer_config.json"));
  EXPECT_EQ(run(with_tools, {}), "newest");
}

}  // namespace
}  // namespace mneme
