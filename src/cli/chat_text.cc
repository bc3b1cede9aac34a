#include "cli/chat_text.h"

#include <fmt/core.h>

#include <utility>

#include "cli/options.h"

namespace mneme::cli {
namespace {

// Stands for the user's message while the format is rendered around it.
constexpr std::string_view kMark = "\x01message\x01";

}  // namespace

std::string ChatTemplateList() {
  std::string list;
  for (const ChatTemplate& format : ChatTemplates())
    list += fmt::format("{}{}", list.empty() ? "" : ", ", format.name);
  return list;
}

const ChatTemplate& ChooseChatTemplate(const Tokenizer& tokenizer, const std::string& name,
                                       std::string* note) {
  note->clear();
  if (!name.empty()) {
    const ChatTemplate* named = FindChatTemplate(name);
    if (named == nullptr) {
      FailUsage(fmt::format("--template: '{}' is not known; there are: {}", name, ChatTemplateList()));
    }
    return *named;
  }
  const ChatTemplate* recognised = RecogniseChatTemplate(tokenizer.chat_template());
  if (recognised != nullptr) return *recognised;
  *note = tokenizer.chat_template().empty()
              ? "the model carries no chat template; plain turns are used (--template NAME sets another)"
              : "the model's own chat template is not one that mneme knows; plain turns are used, which such "
                "a model may "
                "not follow (--template NAME sets another)";
  return *FindChatTemplate("plain");
}

std::string DescribeChatTemplate(const Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) return "none";
  const ChatTemplate* recognised = RecogniseChatTemplate(tokenizer.chat_template());
  return recognised != nullptr ? std::string(recognised->name) : "not recognised (--template names one)";
}

std::vector<std::string> StopStrings(const ChatTemplate& format) {
  if (format.stop.empty()) return {};
  return {std::string(format.stop)};
}

ChatRenderer MakeRenderer(const Tokenizer& tokenizer, const ChatTemplate& format) {
  if (tokenizer.eos_id() < 0) return ChatRenderer(&format);
  return ChatRenderer(&format, tokenizer.Piece(tokenizer.eos_id()));
}

TurnText RenderTurn(ChatRenderer& renderer, std::vector<Segment> before) {
  TurnText turn{.head = std::move(before), .tail = {}};
  renderer.Add({ChatRole::kUser, std::string(kMark)}, &turn.head);
  renderer.StartReply(&turn.head);
  // The last one: a system text may hold the mark too.
  size_t at = turn.head.size() - 1;
  while (at > 0 && turn.head[at].text.rfind(kMark) == std::string::npos) --at;
  Segment& segment = turn.head[at];
  const size_t mark = segment.text.rfind(kMark);
  const std::string rest = segment.text.substr(mark + kMark.size());
  if (!rest.empty()) turn.tail.push_back({rest, segment.kind});
  turn.tail.insert(turn.tail.end(), turn.head.begin() + static_cast<ptrdiff_t>(at) + 1, turn.head.end());
  segment.text.resize(mark);
  turn.head.resize(at + 1, {});
  return turn;
}

ChatText::ChatText(const Tokenizer& tokenizer, const ChatTemplate& format, std::string_view system)
    : tokenizer_(tokenizer),
      format_(format),
      encoder_(tokenizer, {.parse_special = true, .add_bos = tokenizer.adds_bos()}) {
  ChatRenderer renderer = MakeRenderer(tokenizer, format);
  std::vector<Segment> segments;
  if (!system.empty()) renderer.Add({ChatRole::kSystem, std::string(system)}, &segments);
  turn_ = RenderTurn(renderer, std::move(segments));
}

void ChatText::GoOn(bool model_wrote_end) {
  ChatRenderer renderer = MakeRenderer(tokenizer_, format_);
  std::vector<Segment> said_before, segments;
  renderer.Add({ChatRole::kUser, "said before"}, &said_before);
  renderer.EndReply(model_wrote_end, &segments);
  turn_ = RenderTurn(renderer, std::move(segments));
  encoder_ = StreamEncoder(tokenizer_, {.parse_special = true});
}

size_t ChatText::num_head_tokens() const {
  return EncodeSegments(tokenizer_, turn_.head, tokenizer_.adds_bos()).size();
}

void ChatText::Begin(std::vector<TokenId>* ids) { FeedSegments(turn_.head, &encoder_, ids); }
void ChatText::Feed(std::string_view text, std::vector<TokenId>* ids) { encoder_.FeedPlain(text, ids); }
void ChatText::End(std::vector<TokenId>* ids) {
  FeedSegments(turn_.tail, &encoder_, ids);
  encoder_.Finish(ids);
}

}  // namespace mneme::cli
