// What a conversation feeds, against the ids of the template's own rendering of the whole.
#include "cli/chat/conversation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/testing.h"
#include "formats/gguf.h"
#include "mneme/convert.h"

namespace mneme::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kChatml =
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Q.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
// Reasoning of earlier turns is dropped; the rest of a reply is trimmed.
constexpr const char* kThinking =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{{ m.content.split('</think>')[-1] | trim }}{% else %}{{ m.content | trim }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{{ opener }}{% endif %}";
// The system text stands in the last message of the user.
constexpr const char* kMoving =
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content ~ '\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if m.role == 'user' %}[{% if loop.last %}{{ system }}{% endif %}{{ m.content "
    "}}]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";

const std::vector<std::string> kMarks = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>",
                                         "</think>"};

// A small model of bytes, with five control tokens behind them.
std::string WriteModel(const Engine& engine, const fs::path& folder, const std::string& jinja) {
  const std::string random = (folder / "random.gguf").string();
  NoProgress progress;
  WriteRandomModel(engine, ParseRandomShape("layers=1,dim=32,heads=2,kv_heads=2,ffn=32,vocab=320,length=512"),
                   Encoding::kF32, 1, random, progress);
  const GgufFile file(random);
  GgufWriter writer;
  std::vector<std::string> pieces;
  std::vector<int32_t> types(320, 1);
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    static uint32_t next;
    if (byte == 0) next = 256;
    const uint32_t code = printable ? byte : next++;
    pieces.push_back(code < 0x80 ? std::string(1, static_cast<char>(code))
                                 : std::string{static_cast<char>(0xC0 | code >> 6),
                                               static_cast<char>(0x80 | (code & 0x3F))});
  }
  for (const std::string& mark : kMarks) {
    types[pieces.size()] = 3;
    pieces.push_back(mark);
  }
  while (pieces.size() < 320) pieces.push_back("[PAD" + std::to_string(pieces.size()) + "]");
  for (size_t i = 256 + kMarks.size(); i < 320; ++i) types[i] = 5;
  pieces[319] = "he";
  types[319] = 1;
  writer.Set("tokenizer.ggml.model", std::string("gpt2"));
  writer.Set("tokenizer.ggml.pre", std::string("gpt-2"));
  writer.SetArray("tokenizer.ggml.tokens", pieces);
  writer.SetArray("tokenizer.ggml.token_type", types);
  writer.SetArray("tokenizer.ggml.merges", std::vector<std::string>{"h e"});
  writer.Set("tokenizer.ggml.bos_token_id", uint32_t{256});
  writer.Set("tokenizer.ggml.eos_token_id", uint32_t{258});
  writer.Set("tokenizer.ggml.add_bos_token", false);
  if (!jinja.empty()) {
    writer.Set("tokenizer.chat_template", jinja);
    writer.Set("tokenizer.chat_template.tool_use", std::string("T{{ messages[0].content }}"));
  }
  for (const char* key : {"tokenizer.ggml.scores", "tokenizer.ggml.unknown_token_id"}) writer.Remove(key);
  writer.CopyAllMetadata(file);
  for (const char* key : {"tokenizer.ggml.scores", "tokenizer.ggml.unknown_token_id"}) writer.Remove(key);
  for (const GgufTensor& tensor : file.tensors())
    writer.AddTensor(tensor.name, tensor.encoding, tensor.shape, tensor.data);
  const std::string path = (folder / "model.gguf").string();
  writer.Write(path);
  return path;
}

class ConversationTest : public ::testing::Test {
 protected:
  ConversationTest() : engine_({.num_threads = 1, .memory_bytes = size_t{64} << 20}) {
    std::string pattern = (fs::temp_directory_path() / "mneme_conversation_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~ConversationTest() override { fs::remove_all(folder_); }

  void Open(const std::string& jinja, int64_t max_rewind = 200, const std::string& system = "",
            FormatArguments arguments = {}) {
    model_.emplace(Model::Load(engine_, WriteModel(engine_, folder_, jinja)));
    arguments_ = std::move(arguments);
    session_.emplace(*model_, SessionOptions{.context = "dense", .max_rewind = max_rewind});
    talk_ = std::make_unique<Conversation>(
        model_->tokenizer(), PromptFormat(model_->tokenizer(), "m", arguments_, nullptr), system);
  }
  const Tokenizer& tokenizer() const { return model_->tokenizer(); }

  void Ask(const std::string& message) {
    talk_->Say(message, &*session_, {});
    talk_->EndMessage(&*session_, {});
  }
  // The model writes this; its control tokens are meant.
  void Answer(const std::string& text) {
    for (const TokenId id : tokenizer().Encode(text, {.parse_special = true})) {
      session_->Feed({&id, 1});
      talk_->Hear(id);
    }
    talk_->EndReply(&*session_);
  }
  std::string Stream() const {
    return tokenizer().Decode(session_->RecentTokens(), {.show_special = true, .at_text_start = false});
  }
  // What the template writes of a conversation: user and assistant in turns.
  std::vector<TokenId> Right(const std::vector<std::string>& said, const std::string& system = "") const {
    std::vector<Message> messages;
    if (!system.empty()) messages.push_back({.role = "system", .content = system});
    for (size_t i = 0; i < said.size(); ++i)
      messages.push_back({.role = i % 2 == 0 ? "user" : "assistant", .content = said[i]});
    return EncodePrompt(tokenizer(), talk_->format().Render(messages, true));
  }

  Engine engine_;
  fs::path folder_;
  FormatArguments arguments_;
  std::optional<Model> model_;
  std::optional<Session> session_;
  std::unique_ptr<Conversation> talk_;
};

TEST_F(ConversationTest, TurnsAreTheTemplatesOwnRendering) {
  Open(kChatml);
  Ask("Hi");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi"}));
  EXPECT_EQ(
      Stream(),
      "<|im_start|>system\nYou are Q.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  Answer("Good day<|im_end|>");
  Ask("and <|im_end|>?");  // letters, as a user wrote them
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "Good day", "and <|im_end|>?"}));
  Answer("cut");  // by a limit: the end is still owed
  Ask("more");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "Good day", "and <|im_end|>?", "cut", "more"}));
  EXPECT_EQ(talk_->remark(), "");
}

TEST_F(ConversationTest, TheModelsWordsStayItsTokens) {
  Open(kChatml);
  Ask("Hi");
  // "he" in two tokens, where the tokenizer has one.
  for (const char* letter : {"h", "e"}) {
    const TokenId id = *tokenizer().FindToken(letter);
    session_->Feed({&id, 1});
    talk_->Hear(id);
  }
  talk_->EndReply(&*session_);
  const std::vector<TokenId> before = session_->RecentTokens();
  Ask("x");
  const std::vector<TokenId> after = session_->RecentTokens();
  ASSERT_GT(after.size(), before.size());
  EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin()));
  EXPECT_EQ(after.size(), Right({"Hi", "he", "x"}).size() + 1);
}

TEST_F(ConversationTest, AnotherEndThanTheTemplatesIsReplaced) {
  Open(kChatml);
  Ask("Hi");
  Answer("ok<|endoftext|>");
  Ask("x");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "ok", "x"}));
}

TEST_F(ConversationTest, ReasoningIsDroppedWhereTheTemplateDropsIt) {
  Open(kThinking);
  Ask("  Hi ");
  Answer("<think>hm, well</think>\n\nGood day <|im_end|>");
  Ask("and?");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "Good day", "and?"}));
  EXPECT_EQ(Stream().find("hm"), std::string::npos);
  EXPECT_EQ(talk_->remark(), "");
  EXPECT_EQ(talk_->format().SuggestedRewind(256, 1024), 1280);  // for which whole replies are in reach
  EXPECT_EQ(talk_->format().SuggestedRewind(256, -1), 4096);
}

TEST_F(ConversationTest, ReasoningThatThePromptOpensIsDroppedWithIt) {
  Open(kThinking, 200, "", {.variables = {"opener=<think>"}});
  Ask("Hi");
  EXPECT_TRUE(talk_->is_reply_reasoning());
  Answer("hm</think>Good day<|im_end|>");
  Ask("and?");
  EXPECT_EQ(
      Stream(),
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nGood day<|im_end|>\n<|im_start|>user\nand?"
      "<|im_end|>\n<|im_start|>assistant\n<think>");
}

TEST_F(ConversationTest, ReasoningGoesApartWhereTheTemplateReadsItSo) {
  Open(
      "{% for m in messages %}<|im_start|>{% if m.reasoning_content %}<think>{{ m.reasoning_content "
      "}}</think>"
      "{{ '\n\n' }}{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>{% endif %}");
  EXPECT_TRUE(talk_->format().reads_reasoning());
  Ask("Hi");
  Answer("<think>hm</think>\n\nyes<|im_end|>");
  Ask("x");
  EXPECT_EQ(Stream(),
            "<|im_start|>Hi<|im_end|><|im_start|><think>hm</think>\n\nyes<|im_end|><|im_start|>x<|im_end|>"
            "<|im_start|>");
  Answer("ok<|im_end|>");
  Ask("y");
  EXPECT_NE(Stream().find("hm"), std::string::npos);
}

// Whatever the template: what the stream holds after three messages is what it writes of them.
TEST_F(ConversationTest, EveryRealTemplateGoesOnAsItRenders) {
  MNEME_REQUIRE_DATA(data);
  Open("");
  size_t num_templates = 0;
  for (const auto& entry : fs::directory_iterator(data + "/chat-templates")) {
    const auto json = nlohmann::json::parse(std::ifstream(entry.path()));
    if (!json.contains("template")) continue;
    const std::string path = (folder_ / "t.jinja").string();
    std::ofstream(path) << json["template"].get<std::string>();
    session_.emplace(*model_, SessionOptions{.context = "dense", .max_rewind = 50000});
    const PromptFormat format(tokenizer(), "m", {.name = path}, nullptr);
    talk_ = std::make_unique<Conversation>(tokenizer(), format, "");
    const std::vector<Message> said = {{.role = "user", .content = "Hi"},
                                       {.role = "assistant", .content = "Good day"},
                                       {.role = "user", .content = "and?"}};
    std::string
        right;  // the moment of a format is that of its making, so what it writes of a day is the same
    try {
      for (const Segment& segment : format.Render(said, true)) right += segment.text;
    } catch (const Error&) {
      continue;  // which it refuses
    }
    Ask(said[0].content);
    Answer(said[1].content);
    Ask(said[2].content);
    EXPECT_EQ(Stream(), right) << entry.path();
    EXPECT_EQ(talk_->remark(), "") << entry.path();
    ++num_templates;
  }
  EXPECT_GE(num_templates, 60u);
}

TEST_F(ConversationTest, WhatIsOutOfReachStaysAndIsSaid) {
  Open(kThinking, /*max_rewind=*/4);
  Ask("Hi");
  Answer("<think>hm, well, what is this</think>Good day<|im_end|>");
  const std::string before = Stream();
  Ask("and?");
  const std::string after = before + "\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_TRUE(after.ends_with(Stream())) << Stream();  // of which only the last tokens are known
  EXPECT_NE(Stream().find("what is this"), std::string::npos);
  EXPECT_NE(talk_->remark().find("--max-rewind"), std::string::npos) << talk_->remark();
}

TEST_F(ConversationTest, ASystemTextThatMovesIsTakenAlong) {
  Open(kMoving, 200, "Be brief.");
  Ask("Hi");
  EXPECT_EQ(Stream(), "<|endoftext|>[Be brief.\nHi]");
  Answer("Good day<|im_end|>");
  Ask("x");
  EXPECT_EQ(Stream(), "<|endoftext|>[Hi]Good day<|im_end|>[Be brief.\nx]");
  Answer("yes<|im_end|>");
  Ask("y");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "Good day", "x", "yes", "y"}, "Be brief."));
}

TEST_F(ConversationTest, ALongMessageIsFedInPieces) {
  Open(kThinking, 150000);
  std::string book(" \n");
  for (int i = 0; i < 2500; ++i) book += "word " + std::to_string(i) + ", ";
  for (size_t at = 0; at < book.size(); at += 777) talk_->Say(book.substr(at, 777), &*session_, {});
  talk_->EndMessage(&*session_, {});
  EXPECT_EQ(session_->RecentTokens(), Right({book}));
  Answer("so<|im_end|>");
  Ask("x");
  EXPECT_EQ(session_->RecentTokens(), Right({book, "so", "x"}));
  Answer("<think>hm</think>no<|im_end|>");
  Ask(book);  // once more, where the reasoning goes
  EXPECT_EQ(session_->RecentTokens(), Right({book, "so", "x", "no", book}));
  // A template that changes messages cannot be fed so.
  Open("{% for m in messages %}{{ m.content | upper }}{% endfor %}");
  try {
    Ask(book);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("piece by piece"), std::string::npos) << error.what();
  }
  Ask("short");
  EXPECT_EQ(Stream(), "SHORT");
}

TEST_F(ConversationTest, ARestoredStreamGoesOnTheSame) {
  Open(kThinking);
  const auto begin = [&] {
    Ask("Hi");
    Answer("<think>hm</think>Good day<|im_end|>");
    Ask("x");
    Answer("cut");
  };
  begin();
  const std::string state = (folder_ / "state").string();
  session_->Save(state);
  session_.emplace(Session::Restore(*model_, state));
  talk_ = std::make_unique<Conversation>(tokenizer(), PromptFormat(tokenizer(), "m", {}, nullptr), "");
  talk_->TakeUp(&*session_);
  Ask("y");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "Good day", "x", "cut", "y"}));
  // Of a state that says nothing of what was said, what follows a reply is known.
  Open(kThinking);
  begin();
  session_->SetNote("conversation", "");
  talk_->TakeUp(&*session_);
  const std::string before = Stream();
  Ask("y");
  EXPECT_EQ(Stream(), before + "<|im_end|>\n<|im_start|>user\ny<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ConversationTest, TurnsThatAreTakenBackAreAsIfNeverSaid) {
  Open(kThinking);
  Ask("Hi");
  Answer("<think>hm</think>Good day<|im_end|>");
  const Conversation::Place first = talk_->place();
  const int64_t first_end = session_->num_tokens();
  Ask("x");
  // The second turn took the reasoning back, so its beginning lies before the end of the first.
  EXPECT_LT(talk_->turn_begin(), first_end);
  EXPECT_EQ(talk_->turn_place().num_messages, first.num_messages);
  const Conversation::Place second = talk_->turn_place();
  const int64_t second_begin = talk_->turn_begin();
  const Conversation::Place asked = talk_->place();
  Answer("yes, a long reply");
  session_->Rewind(5);
  talk_->CutReply(asked, &*session_);
  Ask("cut");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "Good day", "x", "yes, a long ", "cut"}));
  session_->Rewind(session_->num_tokens() - second_begin);
  talk_->GoBackTo(second, &*session_);
  Ask("y");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "Good day", "y"}));
}

TEST_F(ConversationTest, FormatsOfModelsWithoutATemplate) {
  Open("", 200, "", {.name = "chatml"});
  EXPECT_EQ(talk_->format().identity(), "chatml");
  Ask("Hi");
  Answer("ok<|im_end|>");
  Ask("x");
  EXPECT_EQ(session_->RecentTokens(), Right({"Hi", "ok", "x"}));
  Open("");
  EXPECT_EQ(talk_->format().name(), "plain");
  EXPECT_NE(talk_->format().remark(), "");
  Ask("Hi");
  Answer(" ok\n");
  Ask("x");
  EXPECT_EQ(Stream(), "User: Hi\nAssistant: ok\nUser: x\nAssistant:");
}

TEST_F(ConversationTest, AConversationWithoutAnEndKeepsItsLastMessages) {
  Open(kThinking);
  session_.emplace(*model_, SessionOptions{.context = "sinks:window=100", .max_rewind = 1000});
  const std::string words(900, 'w');
  for (int turn = 0; turn < 60; ++turn) {
    Ask(words + std::to_string(turn));
    Answer("<think>hm</think>" + std::to_string(turn) + "<|im_end|>");
    EXPECT_LT(session_->note("conversation").size(), 40u << 10);
  }
  EXPECT_GT(session_->note("conversation").size(), 20u << 10);
  EXPECT_EQ(session_->note("conversation").find(words + "0\""), std::string::npos);
  const Conversation::Place place = talk_->place();
  EXPECT_EQ(place.num_messages, 120);
  Ask("and?");
  EXPECT_EQ(talk_->remark(), "");
  const std::string stream = Stream();
  EXPECT_TRUE(stream.ends_with(words +
                               "59<|im_end|>\n<|im_start|>assistant\n59<|im_end|>\n<|im_start|>user\nand?"
                               "<|im_end|>\n<|im_start|>assistant\n"))
      << stream;
}

TEST_F(ConversationTest, WhichFormatIsMeant) {
  Open(kChatml, 200, "", {.name = "tool_use"});
  Ask("Hi");
  EXPECT_EQ(Stream(), "THi");
  const auto choose = [&](const FormatArguments& arguments, const StateInfo* saved) {
    return PromptFormat(tokenizer(), "m", arguments, saved);
  };
  EXPECT_EQ(choose({.name = "default"}, nullptr).identity(), choose({}, nullptr).identity());
  EXPECT_EQ(choose({.name = "ChatML"}, nullptr).identity(), "chatml");
  EXPECT_THROW(choose({.name = "nonsense"}, nullptr), UsageError);
  EXPECT_THROW(choose({.variables = {"x"}}, nullptr), UsageError);
  // What a state began with, as long as it is there.
  StateInfo saved;
  for (const FormatArguments& arguments : {FormatArguments{}, {.name = "tool_use"}, {.name = "plain"}}) {
    saved.notes["template"] = choose(arguments, nullptr).identity();
    EXPECT_EQ(choose({}, &saved).identity(), saved.notes["template"]);
    EXPECT_NE(choose({.name = "zephyr"}, &saved).identity(), saved.notes["template"]);
  }
  for (const char* gone :
       {"model:0123456789abcdef", "rag:0123456789abcdef", "file:0123456789abcdef", "nonsense"}) {
    saved.notes["template"] = gone;
    EXPECT_THROW(choose({}, &saved), Error) << gone;
  }
}

TEST_F(ConversationTest, ATemplateThatCannotBeRunIsAnError) {
  Open("{% for m in messages %}\n{{ raise_exception('no ' ~ m.content) }}{% endfor %}");
  try {
    Ask("Hi");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("m: chat template, line 2: no Hi"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(session_->num_tokens(), 0);
  EXPECT_THROW(Open("{% for %}"), Error);
}

TEST(MessagePiecesTest, WhiteSpaceAroundIsCutOffWhateverThePieces) {
  const std::string text = " \n a b \n\n c \t\n";
  for (const bool front : {false, true}) {
    for (const bool back : {false, true}) {
      for (size_t step = 1; step <= text.size(); ++step) {
        std::string out;
        MessagePieces pieces(front, back);
        for (size_t at = 0; at < text.size(); at += step)
          pieces.Feed(text.substr(at, step), [&](std::string_view piece) { out += piece; });
        pieces.End();
        EXPECT_EQ(out, std::string(front ? "" : " \n ") + "a b \n\n c" + (back ? "" : " \t\n")) << step;
      }
    }
  }
  MessagePieces pieces(true, true);
  size_t size = 0;
  const auto count = [&](std::string_view piece) { size += piece.size(); };
  pieces.Feed("a" + std::string(100000, ' '), count);
  EXPECT_THROW(pieces.End(), Error);
  pieces.Feed("b", count);
  pieces.End();
  EXPECT_EQ(size, 100002u);
}

TEST(ReasoningTest, PartsWhateverThePieces) {
  const ReasoningMarks marks{"<think>", "</think>"};
  for (const bool is_open : {false, true}) {
    const std::string text = std::string(is_open ? "" : "<think>") + "a <b</think>\n<think answer";
    for (size_t step = 1; step <= text.size(); ++step) {
      ReasoningReader reader(marks, is_open);
      std::vector<ReasoningReader::Part> parts;
      for (size_t at = 0; at < text.size(); at += step) reader.Feed(text.substr(at, step), &parts);
      reader.Finish(&parts);
      std::string thought, answer;
      for (const auto& part : parts) (part.is_reasoning ? thought : answer) += part.text;
      EXPECT_EQ(thought, text.substr(0, text.size() - 14)) << step;
      EXPECT_EQ(answer, "\n<think answer") << step;
    }
  }
  const auto parts = TakeApart(marks, "<think>\na\n</think>\n\nb\n", false);
  ASSERT_TRUE(parts.has_value());
  EXPECT_EQ(parts->reasoning, "a");
  EXPECT_EQ(parts->answer, "b\n");
  EXPECT_FALSE(TakeApart(marks, "no marks", false).has_value());
  EXPECT_FALSE(TakeApart(marks, "a</think>b", false).has_value());
  EXPECT_TRUE(TakeApart(marks, "a</think>b", true).has_value());
  const ReasoningMarks harmony{"<|channel|>analysis<|message|>", "<|channel|>final<|message|>"};
  const auto channels = TakeApart(harmony,
                                  "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final"
                                  "<|message|>yes",
                                  false);
  ASSERT_TRUE(channels.has_value());
  EXPECT_EQ(channels->reasoning, "hm");
  EXPECT_EQ(channels->answer, "yes");
  EXPECT_TRUE(OpensReasoning(marks, "assistant\n<think>\n"));
  EXPECT_FALSE(OpensReasoning(marks, "<think>\n\n</think>\n"));
}

}  // namespace
}  // namespace mneme::cli
