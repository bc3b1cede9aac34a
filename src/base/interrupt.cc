#include "base/interrupt.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace mneme {
namespace {

std::atomic<bool> requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void OnSignal(int signal_number) {
  if (requested.exchange(true)) _exit(128 + signal_number);
}

}  // namespace

void InstallInterruptHandler() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);  // no SA_RESTART: a blocked read returns, and the loop sees the flag
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool InterruptRequested() { return requested.load(std::memory_order_relaxed); }
void RequestInterrupt() { requested.store(true); }
void ClearInterrupt() { requested.store(false); }

}  // namespace mneme
