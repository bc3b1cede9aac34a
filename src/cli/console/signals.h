// Ctrl-C as a flag that the verbs hand to whatever takes long, so that state is saved and the run says what
// it did.
#pragma once

#include "mneme/stop.h"

namespace mneme::cli {

// SIGINT, SIGTERM and SIGHUP set the flag; a second SIGINT ends the process at once. A closed pipe and a
// limit on file sizes become write errors. Call from main only.
void InstallSignalHandlers();
// True after the first signal, until ClearStop; after SIGTERM and SIGHUP for good.
StopToken UserStop();
inline bool StopRequested() { return UserStop().stop_requested(); }
void RequestStop();
void ClearStop();

}  // namespace mneme::cli
