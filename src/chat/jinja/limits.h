// What a template may take. Templates come with files of strangers: one that wants too much ends with an
// error, in bounded time and memory.
#pragma once

#include <cstddef>
#include <string>

#include "mneme/error.h"

namespace mneme::jinja {

struct Limits {
  size_t max_steps = 50'000'000;  // a step: a node of the template, or 16 bytes or an item made or read
  size_t max_live_bytes = size_t{256} << 20;    // of strings, lists and variables at any time
  size_t max_output_bytes = size_t{128} << 20;  // of one rendering
  int max_depth = 600;                          // nodes inside each other while it runs, macros and all
};

inline constexpr size_t kMaxTemplateBytes = size_t{1} << 20;
inline constexpr int kMaxSyntaxDepth = 150;   // nodes inside each other in the text
inline constexpr int kMaxValueDepth = 100;    // lists and dicts inside each other
inline constexpr size_t kMaxRange = 100'000;  // the sandbox of Jinja2 has the same

// What went wrong, without the place, which whoever runs the template adds.
struct TemplateError {
  ErrorKind kind;
  std::string message;
};

// Counts steps and memory of one rendering. Throws TemplateError(kBudget).
class Meter {
 public:
  explicit Meter(const Limits& limits) : limits_(limits) {}
  void Step(size_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.max_steps) {
      throw TemplateError{ErrorKind::kBudget,
                          "it takes more than " + std::to_string(limits_.max_steps) + " steps"};
    }
  }
  void Take(size_t bytes) {
    Step(bytes / 16);
    if (bytes > limits_.max_live_bytes - live_bytes_) {
      throw TemplateError{ErrorKind::kBudget, "its strings and lists need more than " +
                                                  std::to_string(limits_.max_live_bytes >> 20) + " MiB"};
    }
    live_bytes_ += bytes;
  }
  void Give(size_t bytes) { live_bytes_ -= bytes; }
  size_t live_bytes() const { return live_bytes_; }
  const Limits& limits() const { return limits_; }

 private:
  Limits limits_;
  size_t steps_ = 0;
  size_t live_bytes_ = 0;
};

// Memory counted by a meter for as long as this lives.
class Charge {
 public:
  Charge() = default;
  Charge(Meter* meter, size_t bytes) : meter_(meter), bytes_(bytes) {
    if (meter_ != nullptr) meter_->Take(bytes_);
  }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;
  ~Charge() {
    if (meter_ != nullptr) meter_->Give(bytes_);
  }

 private:
  Meter* meter_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace mneme::jinja
