// State files (Session::Save, Restore): what they look like, and what can be known of one before a session
// exists.
//
//   magic "MNEMEST\n", version u32
//   header: length u64, then lines of text "name=value": which model, tokenizer and arithmetic the state
//   belongs to, the
//           session's options (session/fields.cc), the application's notes
//   body:   recent tokens, logits, pending text, the context's own state
//   footer: length of all before it u64, XXH3-64 of all before the checksum u64
//
// Little-endian, no padding. A state holds everything that decides the next token. An option whose line is
// missing has its default: a new option whose default is what was done before keeps old states readable. A
// line that is not known is refused, because it may say what this program would do otherwise.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/files/serial.h"
#include "mneme/session.h"
#include "model/loaded_model.h"

namespace mneme {

inline constexpr uint32_t kSnapshotVersion = 4;

// The two halves of a state, for Session and for tests.
struct Snapshot {
  StateInfo info;
  std::string_view body;  // into the bytes that were parsed
};
// Throws Error(kFile), naming `name`, for anything that Save did not write.
Snapshot ParseSnapshot(std::string_view bytes, const std::string& name);
StateInfo StateInfoOf(const Session::Impl& session);
// The part that a model decides.
StateInfo StateInfoOf(const LoadedModel& model);
// Throws Error(kMismatch) if the state belongs to another model or tokenizer, or to other arithmetic, and
// names it. Options are compared by CompareOptions (session/fields.h).
void CompareModels(const StateInfo& saved, const StateInfo& here, const std::string& name);

}  // namespace mneme
