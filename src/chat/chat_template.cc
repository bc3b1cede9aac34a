#include <algorithm>
#include <cctype>

#include "mneme/chat.h"

namespace mneme {
namespace {

constexpr std::string_view kAlpacaSystem =
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.";

constexpr ChatTemplate kTemplates[] = {
    {.name = "chatml",
     .title = "ChatML (Qwen, SmolLM and many others)",
     .system_before = "<|im_start|>system\n",
     .system_after = "<|im_end|>\n",
     .default_system = "",
     .system_in_user = false,
     .user_before = "<|im_start|>user\n",
     .user_after = "<|im_end|>\n",
     .later_user_before = "",
     .assistant_before = "<|im_start|>assistant\n",
     .generation_prompt = "<|im_start|>assistant\n",
     .assistant_end = "<|im_end|>",
     .assistant_tail = "\n",
     .trims = false,
     .stop = ""},
    {.name = "llama-2",
     .title = "Llama 2 chat",
     .system_before = "<<SYS>>\n",
     .system_after = "\n<</SYS>>\n\n",
     .default_system = "",
     .system_in_user = true,
     .user_before = "[INST] ",
     .user_after = " [/INST]",
     .later_user_before = "<s>[INST] ",
     .assistant_before = " ",
     .generation_prompt = "",
     .assistant_end = " </s>",
     .assistant_tail = "",
     .trims = true,
     .stop = ""},
    {.name = "llama-3",
     .title = "Llama 3 instruct",
     .system_before = "<|start_header_id|>system<|end_header_id|>\n\n",
     .system_after = "<|eot_id|>",
     .default_system = "",
     .system_in_user = false,
     .user_before = "<|start_header_id|>user<|end_header_id|>\n\n",
     .user_after = "<|eot_id|>",
     .later_user_before = "",
     .assistant_before = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .generation_prompt = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .assistant_end = "<|eot_id|>",
     .assistant_tail = "",
     .trims = true,
     .stop = ""},
    {.name = "mistral",
     .title = "Mistral and Mixtral instruct",
     .system_before = "",
     .system_after = "\n\n",
     .default_system = "",
     .system_in_user = true,
     .user_before = "[INST] ",
     .user_after = " [/INST]",
     .later_user_before = "",
     .assistant_before = " ",
     .generation_prompt = "",
     .assistant_end = "</s>",
     .assistant_tail = "",
     .trims = true,
     .stop = ""},
    {.name = "gemma",
     .title = "Gemma instruct",
     .system_before = "",
     .system_after = "\n\n",
     .default_system = "",
     .system_in_user = true,
     .user_before = "<start_of_turn>user\n",
     .user_after = "<end_of_turn>\n",
     .later_user_before = "",
     .assistant_before = "<start_of_turn>model\n",
     .generation_prompt = "<start_of_turn>model\n",
     .assistant_end = "<end_of_turn>",
     .assistant_tail = "\n",
     .trims = true,
     .stop = ""},
    {.name = "phi-3",
     .title = "Phi-3 instruct",
     .system_before = "<|system|>\n",
     .system_after = "<|end|>\n",
     .default_system = "",
     .system_in_user = false,
     .user_before = "<|user|>\n",
     .user_after = "<|end|>\n",
     .later_user_before = "",
     .assistant_before = "<|assistant|>\n",
     .generation_prompt = "<|assistant|>\n",
     .assistant_end = "<|end|>",
     .assistant_tail = "\n",
     .trims = false,
     .stop = ""},
    {.name = "zephyr",
     .title = "Zephyr, StableLM and TinyLlama chat",
     .system_before = "<|system|>\n",
     .system_after = "</s>\n",
     .default_system = "",
     .system_in_user = false,
     .user_before = "<|user|>\n",
     .user_after = "</s>\n",
     .later_user_before = "",
     .assistant_before = "<|assistant|>\n",
     .generation_prompt = "<|assistant|>\n",
     .assistant_end = "</s>",
     .assistant_tail = "\n",
     .trims = false,
     .stop = ""},
    {.name = "alpaca",
     .title = "Alpaca instructions",
     .system_before = "",
     .system_after = "\n\n",
     .default_system = kAlpacaSystem,
     .system_in_user = false,
     .user_before = "### Instruction:\n",
     .user_after = "\n\n",
     .later_user_before = "",
     .assistant_before = "### Response:\n",
     .generation_prompt = "### Response:\n",
     .assistant_end = "</s>",
     .assistant_tail = "\n\n",
     .trims = true,
     .stop = "### Instruction:"},
    {.name = "plain",
     .title = "names and colons, for models without a chat format",
     .system_before = "",
     .system_after = "\n\n",
     .default_system = "",
     .system_in_user = false,
     .user_before = "User: ",
     .user_after = "\n",
     .later_user_before = "",
     .assistant_before = "Assistant: ",
     .generation_prompt = "Assistant:",
     .assistant_end = "",
     .assistant_tail = "\n",
     .trims = true,
     .stop = "\nUser:"},
};

// Markers in the order they are looked for: the first row of which all are in the text names the format.
struct Markers {
  std::string_view name;
  std::string_view first;
  std::string_view second;
};
constexpr Markers kMarkers[] = {
    {"chatml", "<|im_start|>", ""},
    {"llama-3", "<|start_header_id|>", ""},
    {"gemma", "<start_of_turn>", ""},
    {"phi-3", "<|user|>", "<|end|>"},
    {"zephyr", "<|user|>", "eos_token"},
    {"zephyr", "<|user|>", "</s>"},
    {"zephyr", "<|user|>", "<|endoftext|>"},
    {"llama-2", "[INST]", "<<SYS>>"},
    {"mistral", "[INST]", ""},
    {"alpaca", "### Instruction", ""},
};

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\v\f\r";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

void Append(std::string_view text, TextKind kind, std::vector<Segment>* out) {
  if (text.empty()) return;
  if (!out->empty() && out->back().kind == kind)
    out->back().text += text;
  else
    out->push_back({std::string(text), kind});
}

}  // namespace

std::span<const ChatTemplate> ChatTemplates() { return kTemplates; }

const ChatTemplate* FindChatTemplate(std::string_view name) {
  const auto same = [name](std::string_view other) {
    return std::equal(name.begin(), name.end(), other.begin(), other.end(), [](char a, char b) {
      return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
    });
  };
  for (const ChatTemplate& format : kTemplates)
    if (same(format.name)) return &format;
  return nullptr;
}

const ChatTemplate* RecogniseChatTemplate(std::string_view jinja_text) {
  const auto has = [jinja_text](std::string_view marker) {
    return jinja_text.find(marker) != std::string_view::npos;
  };
  for (const Markers& markers : kMarkers)
    if (has(markers.first) && has(markers.second)) return FindChatTemplate(markers.name);
  return nullptr;
}

std::string_view TrimmedContent(const ChatTemplate& format, std::string_view content) {
  return format.trims ? Trim(content) : content;
}

void ChatRenderer::AppendFormat(std::string_view text, std::vector<Segment>* out) const {
  constexpr std::string_view kEnd = "</s>";
  const size_t at = text.find(kEnd);
  if (at == std::string_view::npos) {
    Append(text, TextKind::kFormat, out);
    return;
  }
  Append(text.substr(0, at), TextKind::kFormat, out);
  Append(end_of_text_, TextKind::kFormat, out);
  Append(text.substr(at + kEnd.size()), TextKind::kFormat, out);
}

void ChatRenderer::Add(const ChatMessage& message, std::vector<Segment>* out) {
  const std::string_view content = TrimmedContent(*format_, message.content);
  switch (message.role) {
    case ChatRole::kSystem:
      if (format_->system_in_user) {
        pending_system_ = content;
      } else {
        AppendFormat(format_->system_before, out);
        Append(content, TextKind::kPlain, out);
        AppendFormat(format_->system_after, out);
      }
      has_system_ = true;
      break;
    case ChatRole::kUser: {
      if (!has_system_ && !format_->default_system.empty())
        Add({ChatRole::kSystem, std::string(format_->default_system)}, out);
      const bool later = past_first_user_ && !format_->later_user_before.empty();
      AppendFormat(later ? format_->later_user_before : format_->user_before, out);
      if (!pending_system_.empty()) {
        AppendFormat(format_->system_before, out);
        Append(pending_system_, TextKind::kPlain, out);
        AppendFormat(format_->system_after, out);
        pending_system_.clear();
      }
      Append(content, TextKind::kPlain, out);
      AppendFormat(format_->user_after, out);
      past_first_user_ = true;
      break;
    }
    case ChatRole::kAssistant:
      AppendFormat(format_->assistant_before, out);
      Append(content, TextKind::kPlain, out);
      EndReply(false, out);
      break;
  }
}

void ChatRenderer::StartReply(std::vector<Segment>* out) { AppendFormat(format_->generation_prompt, out); }

void ChatRenderer::EndReply(bool model_wrote_end, std::vector<Segment>* out) {
  if (!model_wrote_end) AppendFormat(format_->assistant_end, out);
  AppendFormat(format_->assistant_tail, out);
}

void FeedSegments(std::span<const Segment> segments, StreamEncoder* encoder, std::vector<TokenId>* out) {
  for (const Segment& segment : segments) {
    if (segment.kind == TextKind::kFormat)
      encoder->Feed(segment.text, out);
    else
      encoder->FeedPlain(segment.text, out);
  }
}

std::vector<TokenId> EncodeSegments(const Tokenizer& tokenizer, std::span<const Segment> segments,
                                    bool add_bos) {
  std::vector<TokenId> ids;
  StreamEncoder encoder(tokenizer, {.parse_special = true, .add_bos = add_bos});
  FeedSegments(segments, &encoder, &ids);
  encoder.Finish(&ids);
  return ids;
}

}  // namespace mneme
