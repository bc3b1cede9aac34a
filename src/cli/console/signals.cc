#include "cli/console/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace mneme::cli {
namespace {

std::atomic<bool> requested{false};  // what is running is to end
std::atomic<bool> is_last{false};    // and nothing else to begin
static_assert(std::atomic<bool>::is_always_lock_free);

// Only Ctrl-C, by somebody who waits, ends the process at once when it is repeated: a terminal that closes
// and a service that is stopped often tell a process twice, while it saves its state.
void OnSignal(int signal_number) {
  const bool is_repeated = requested.exchange(true);
  if (signal_number != SIGINT) is_last.store(true);
  if (signal_number == SIGINT && is_repeated) _exit(128 + signal_number);
}

void Ignore(int signal_number) { std::signal(signal_number, SIG_IGN); }

}  // namespace

void InstallSignalHandlers() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);  // no SA_RESTART: a blocked read returns, and the loop sees the flag
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction hangup {};
  // Under nohup a terminal that closes is none of our business.
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) {
    sigaction(SIGHUP, &action, nullptr);
  }
  Ignore(SIGPIPE);
  Ignore(SIGXFSZ);
}

StopToken UserStop() { return &requested; }
void RequestStop() { requested.store(true); }
void ClearStop() { requested.store(is_last.load()); }

}  // namespace mneme::cli
