#include "cli/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace mneme::cli {
namespace {

std::atomic<bool> requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void OnSignal(int signal_number) {
  if (requested.exchange(true)) _exit(128 + signal_number);
}

}  // namespace

void InstallSignalHandlers() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);  // no SA_RESTART: a blocked read returns, and the loop sees the flag
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

StopToken UserStop() { return &requested; }
void RequestStop() { requested.store(true); }
void ClearStop() { requested.store(false); }

}  // namespace mneme::cli
