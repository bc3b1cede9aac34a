// The one way to stop long work: a flag that somebody else may set.
#pragma once

#include <atomic>

namespace mneme {

// Read between forward calls, so a call ends within a chunk; what was done until then stays. Default: never.
// Not std::stop_token: a signal handler must be able to set the flag. Copies look at the same flag, which
// outlives them. Thread-safe.
class StopToken {
 public:
  StopToken(const std::atomic<bool>* flag = nullptr) : flag_(flag) {}  // NOLINT: a flag's address is meant
  bool stop_requested() const { return flag_ != nullptr && flag_->load(std::memory_order_relaxed); }

 private:
  const std::atomic<bool>* flag_;
};

}  // namespace mneme
