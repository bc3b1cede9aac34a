// Progress of long work: a bar on a terminal, a plain line now and then otherwise. The library reports
// through the Progress interface and never prints; the CLI owns the one that does.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "mneme/progress.h"

namespace mneme {

// Draws to `out`: at most ten updates a second on a terminal, one line every five seconds otherwise.
class ConsoleProgress : public Progress {
 public:
  explicit ConsoleProgress(std::string label, std::FILE* out = stderr);
  ~ConsoleProgress() override;
  void Update(int64_t done, int64_t total, std::string_view note) override;
  void Finish(std::string_view note) override;

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  std::FILE* out_;
  bool is_terminal_;
  bool line_open_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
  int64_t first_done_ = -1;  // what was done before the first update: a resumed run begins in the middle
};

}  // namespace mneme
