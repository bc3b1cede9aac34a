#include "cli/chat/message_pieces.h"

#include <algorithm>

#include "base/error.h"

namespace mneme::cli {
namespace {

constexpr size_t kMostWaiting = size_t{1} << 16;
// What templates cut off, which is what Python calls white space, as far as it is one byte.
constexpr std::string_view kSpace = " \t\n\v\f\r\x1C\x1D\x1E\x1F";

}  // namespace

void MessagePieces::Feed(std::string_view text, const Sink& sink) {
  if (trims_front_ && !has_begun_) text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  if (text.empty()) return;
  has_begun_ = true;
  if (!trims_back_) return sink(text);
  const size_t last = text.find_last_not_of(kSpace);
  const size_t words = last == std::string_view::npos ? 0 : last + 1;
  if (words > 0) {
    if (!waiting_.empty()) sink(waiting_);
    waiting_.clear();
    num_passed_ = 0;
    sink(text.substr(0, words));
  }
  waiting_ += text.substr(words);
  if (waiting_.size() <= kMostWaiting) return;
  num_passed_ += waiting_.size();
  sink(waiting_);
  waiting_.clear();
}

void MessagePieces::End() const {
  if (num_passed_ == 0) return;
  Fail(ErrorKind::kInput,
       "the message ends in more than {} bytes of white space, which the chat template cuts off: end it "
       "before "
       "them",
       kMostWaiting);
}

}  // namespace mneme::cli
