// Checkpoint files: what a run must know to go on. Written to a temporary name, checksummed, flushed,
// renamed; read only when the checksum is right.
#pragma once

#include <functional>
#include <string>

#include "base/files/serial.h"

namespace mneme::train {

// Throws Error(kFile), naming the cause (a full disk, say); the old file is then untouched.
void WriteCheckpoint(const std::string& path, const std::function<void(StateWriter&)>& save);
// Throws Error(kFile) for a file that is damaged, cut short or something else, before `restore` is called,
// and if `restore` leaves bytes over.
void ReadCheckpoint(const std::string& path, const std::function<void(StateReader&)>& restore);

}  // namespace mneme::train
