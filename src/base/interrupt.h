// Ctrl-C as a flag that long loops poll between chunks, so that state is saved and the run says what it did.
#pragma once

namespace mneme {

// Installs a handler for SIGINT and SIGTERM that sets the flag; a second signal ends the process at once.
// Call from main only.
void InstallInterruptHandler();
// True after the first signal, until ClearInterrupt. Async-signal-safe, thread-safe.
bool InterruptRequested();
void RequestInterrupt();
void ClearInterrupt();

}  // namespace mneme
