// The file of --state: tried and locked before the first token, saved to now and then (--save-every) and at
// the end.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/files/file.h"
#include "mneme/session.h"

namespace mneme::cli {

// Whether there is something to go on from. An empty file is one that nothing was saved to yet: of a run that
// was killed before its first save, or made by mktemp.
bool HoldsState(const std::string& path);

class StateFile {
 public:
  // Without a path nothing is saved. save_every: "" (only at the end), tokens ("100K") or time ("30s",
  // "5min", "1h"). Throws UsageError for another interval or one without a path, Error(kFile) if the file
  // cannot be written or another process has it.
  StateFile(const std::string& path, const std::string& save_every);

  bool is_named() const { return lock_ != nullptr; }
  const std::string& path() const { return path_; }
  // Throws Error(kFile); the file is as it was then.
  void Save(const Session& session);
  // Whether --save-every asks for a save now.
  bool IsDue(const Session& session);
  // Saves if so. A save that fails is told, and the run goes on to the next one.
  void SaveIfDue(const Session& session);

 private:
  using Clock = std::chrono::steady_clock;
  void SetInterval(const std::string& text);

  std::string path_;
  std::unique_ptr<FileLock> lock_;
  int64_t every_tokens_ = 0;  // 0: not by tokens
  Clock::duration every_time_{0};
  int64_t saved_tokens_ = -1;  // of the stream, at the last save; -1: not looked at yet
  Clock::time_point saved_at_ = Clock::now();
};

}  // namespace mneme::cli
