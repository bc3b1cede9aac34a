#include "cli/chat/reasoning.h"

#include <algorithm>

namespace mneme::cli {
namespace {

// Most used first: some templates read the marks of others too.
constexpr ReasoningMarks kMarks[] = {
    {"<|channel|>analysis<|message|>", "<|channel|>final<|message|>"},  // gpt-oss
    {"<|channel>thought", "<channel|>"},                                // Gemma 4
    {"<|START_THINKING|>", "<|END_THINKING|>"},                         // Command
    {"<seed:think>", "</seed:think>"},
    {"[THINK]", "[/THINK]"},                   // Magistral
    {"<|inner_prefix|>", "<|inner_suffix|>"},  // Apertus
    {"<think>", "</think>"},
    {"<reasoning>", "</reasoning>"},
};
constexpr std::string_view kSpace = " \t\r\n";

std::string_view Strip(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

// How many bytes at the end of the text may be the beginning of the mark.
size_t PartAtEnd(std::string_view text, std::string_view mark) {
  for (size_t size = std::min(text.size(), mark.size() - 1); size > 0; --size)
    if (mark.starts_with(text.substr(text.size() - size))) return size;
  return 0;
}

}  // namespace

const ReasoningMarks* FindReasoning(const Tokenizer& tokenizer, std::string_view jinja_text) {
  for (const ReasoningMarks& marks : kMarks)
    if (jinja_text.find(marks.close) != std::string_view::npos) return &marks;
  for (const ReasoningMarks& marks : kMarks)
    if (tokenizer.FindToken(marks.open) && tokenizer.FindToken(marks.close)) return &marks;
  return nullptr;
}

bool OpensReasoning(const ReasoningMarks& marks, std::string_view prompt) {
  const size_t end = prompt.find_last_not_of(kSpace);
  return end != std::string_view::npos && prompt.substr(0, end + 1).ends_with(marks.open);
}

std::optional<SplitReply> TakeApart(const ReasoningMarks& marks, std::string_view reply, bool is_open) {
  const size_t close = reply.find(marks.close);
  if (close == std::string_view::npos) return std::nullopt;
  std::string_view thought = reply.substr(0, close);
  const size_t open = thought.find(marks.open);
  if (open != std::string_view::npos) {
    thought.remove_prefix(open + marks.open.size());
  } else if (!is_open) {
    return std::nullopt;
  }
  // gpt-oss ends one message and begins another between its marks.
  thought = thought.substr(0, thought.find("<|end|>"));
  const std::string_view rest = reply.substr(close + marks.close.size());
  const size_t begin = std::min(rest.find_first_not_of(kSpace), rest.size());
  return SplitReply{std::string(Strip(thought)), std::string(rest.substr(begin))};
}

void ReasoningReader::Give(size_t size, std::vector<Part>* parts) {
  if (size == 0) return;
  if (!parts->empty() && parts->back().is_reasoning == is_open_) {
    parts->back().text.append(held_, 0, size);
  } else {
    parts->push_back({held_.substr(0, size), is_open_});
  }
  held_.erase(0, size);
}

void ReasoningReader::Feed(std::string_view text, std::vector<Part>* parts) {
  held_ += text;
  while (true) {
    const std::string_view mark = is_open_ ? marks_.close : marks_.open;
    const size_t at = held_.find(mark);
    if (at == std::string::npos) {
      Give(held_.size() - PartAtEnd(held_, mark), parts);
      return;
    }
    if (is_open_) {
      Give(at + mark.size(), parts);
      is_open_ = false;
    } else {
      Give(at, parts);
      is_open_ = true;
      Give(mark.size(), parts);
    }
  }
}

void ReasoningReader::Finish(std::vector<Part>* parts) { Give(held_.size(), parts); }

}  // namespace mneme::cli
