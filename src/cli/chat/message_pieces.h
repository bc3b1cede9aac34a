// A message of any length as the template writes it: without the white space around it, where the template
// cuts that off.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace mneme::cli {

class MessagePieces {
 public:
  using Sink = std::function<void(std::string_view)>;
  MessagePieces(bool trims_front, bool trims_back) : trims_front_(trims_front), trims_back_(trims_back) {}

  // Hands on what belongs to the message for certain: white space that may be its last waits, up to 64 KiB.
  void Feed(std::string_view text, const Sink& sink);
  // The message is over. Throws Error(kInput) where more white space at its end was handed on than can wait.
  void End() const;

 private:
  const bool trims_front_, trims_back_;
  bool has_begun_ = false;
  std::string waiting_;    // white space
  size_t num_passed_ = 0;  // bytes of white space that were too many to wait, with nothing behind them yet
};

}  // namespace mneme::cli
