#include "cli/state_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/message.h"
#include "base/text/units.h"
#include "cli/options.h"

namespace mneme::cli {
namespace {

// Seconds of "30s", "5min", "1h"; -1 for what is no time.
int64_t ParseTime(std::string_view text) {
  for (const auto& [unit, seconds] : {std::pair("min", 60), {"s", 1}, {"h", 3600}}) {
    const std::string_view name = unit;
    if (!text.ends_with(name)) continue;
    const int64_t count = ParseCount(text.substr(0, text.size() - name.size()), "--save-every");
    return std::min<int64_t>(count, INT32_MAX) * seconds;
  }
  return -1;
}

}  // namespace

bool HoldsState(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && info.st_size > 0;
}

StateFile::StateFile(const std::string& path, const std::string& save_every) : path_(path) {
  if (!save_every.empty()) SetInterval(save_every);
  if (!path.empty()) lock_ = std::make_unique<FileLock>(path);
}

void StateFile::SetInterval(const std::string& text) {
  if (path_.empty()) FailUsage("--save-every saves a state: name it with --state FILE");
  int64_t seconds = -1;
  try {
    seconds = ParseTime(text);
    if (seconds < 0) every_tokens_ = ParseCount(text, "--save-every");
  } catch (const Error& error) {
    FailUsage(error.what());
  }
  every_time_ = std::chrono::seconds(std::max<int64_t>(seconds, 0));
  if (every_tokens_ == 0 && seconds <= 0) {
    FailUsage("--save-every takes a number of tokens (100K) or a time (30s, 5min, 1h)");
  }
}

void StateFile::Save(const Session& session) {
  if (!is_named()) return;
  session.Save(path_);
  saved_tokens_ = session.num_tokens();
  saved_at_ = Clock::now();
}

bool StateFile::IsDue(const Session& session) {
  if (saved_tokens_ < 0) saved_tokens_ = session.num_tokens();
  if (every_tokens_ > 0) return session.num_tokens() - saved_tokens_ >= every_tokens_;
  return every_time_.count() > 0 && Clock::now() - saved_at_ >= every_time_;
}

void StateFile::SaveIfDue(const Session& session) {
  if (!IsDue(session)) return;
  try {
    Save(session);
  } catch (const Error& error) {
    PrintMessage("mneme: the state could not be saved and is tried again later: {}\n", error.what());
    saved_tokens_ = session.num_tokens();
    saved_at_ = Clock::now();
  }
}

}  // namespace mneme::cli
