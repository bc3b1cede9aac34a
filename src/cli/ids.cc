#include "cli/ids.h"

#include <charconv>

#include "base/error.h"

namespace mneme::cli {
namespace {

constexpr std::string_view kSpace = " \t\r\n\f\v";
constexpr size_t kReadBytes = size_t{1} << 14;
constexpr size_t kMaxNumberBytes = 32;

}  // namespace

std::vector<TokenId> ParseIds(std::string_view text, std::string_view where, int64_t vocab_size) {
  std::vector<TokenId> ids;
  size_t begin = 0;
  while ((begin = text.find_first_not_of(kSpace, begin)) != std::string_view::npos) {
    const size_t end = std::min(text.find_first_of(kSpace, begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    if (word.find('\0') != std::string_view::npos) {
      Fail(ErrorKind::kInput,
           "{}: token ids are read as text, and this is none; `mneme tokenize` without --ids-out writes them "
           "so",
           where);
    }
    TokenId id = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size() || id < 0 || id >= vocab_size) {
      Fail(ErrorKind::kInput, "{}: '{}' is not a token id of this model (0 .. {})", where,
           word.substr(0, kMaxNumberBytes), vocab_size - 1);
    }
    ids.push_back(id);
    begin = end;
  }
  return ids;
}

IdReader::IdReader(const std::string& path, int64_t vocab_size, StopToken stop)
    : path_(path), vocab_size_(vocab_size), stop_(stop), source_(path, stop), buffer_(kReadBytes) {}

bool IdReader::Read(std::vector<TokenId>* ids) {
  ids->clear();
  while (ids->empty() && !at_end_ && !stop_.stop_requested()) {
    const size_t size = source_.Read(buffer_);
    if (size == 0) {
      if (stop_.stop_requested()) return false;
      at_end_ = true;
    }
    rest_.append(buffer_.data(), size);
    const size_t last_space = at_end_ ? rest_.size() : rest_.find_last_of(kSpace);
    if (last_space == std::string::npos && rest_.size() <= kMaxNumberBytes) continue;
    const size_t end = last_space == std::string::npos ? rest_.size() : last_space;
    *ids = ParseIds(std::string_view(rest_).substr(0, end), path_ == "-" ? "standard input" : path_,
                    vocab_size_);
    rest_.erase(0, end);
  }
  return !ids->empty();
}

}  // namespace mneme::cli
