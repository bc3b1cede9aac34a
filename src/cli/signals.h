// Ctrl-C as a flag that the verbs hand to whatever takes long, so that state is saved and the run says what it
// did.
#pragma once

#include "base/stop.h"

namespace mneme::cli {

// SIGINT and SIGTERM set the flag; a second signal ends the process at once. A closed pipe becomes a write error.
// Call from main only.
void InstallSignalHandlers();
// True after the first signal, until ClearStop.
StopToken UserStop();
inline bool StopRequested() { return UserStop().stop_requested(); }
void RequestStop();
void ClearStop();

}  // namespace mneme::cli
