// State files (Session::Save, Restore): what they look like, and what can be known of one before a session
// exists.
//
//   magic "MNEMEST\n", version u32
//   header: which model, tokenizer, context and settings the state belongs to
//   body:   sampler, recent tokens, logits, pending text, the context's own state
//   footer: length of all before it u64, XXH3-64 of all before the checksum u64
//
// Little-endian, no padding. A state holds everything that decides the next token, and is compared field by
// field before it is taken.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/serial.h"
#include "context/context.h"
#include "session/session.h"

namespace mneme {

inline constexpr uint32_t kSnapshotVersion = 3;

// The header.
struct SnapshotInfo {
  uint64_t model_fingerprint = 0;
  std::string model_name;  // for people
  bool has_tokenizer = false;
  uint64_t tokenizer_fingerprint = 0;
  ContextSettings context;  // with the resolved spec: a session made with it takes the state
  int64_t num_tokens = 0;
};

// Reads a state file whole and checks it (magic, version, length, checksum). Throws Error(kFile).
SnapshotInfo ReadSnapshotInfo(const std::string& path);

// The two halves of a state, for Session and for tests.
struct Snapshot {
  SnapshotInfo info;
  std::string_view body;  // into the bytes that were parsed
};
// Throws Error(kFile), naming `name`, for anything that Save did not write.
Snapshot ParseSnapshot(std::string_view bytes, const std::string& name);
SnapshotInfo SnapshotInfoOf(const Session& session);
// Throws Error(kMismatch) naming the first field in which `saved` differs from `here`.
void CompareSnapshots(const SnapshotInfo& saved, const SnapshotInfo& here, const std::string& name);

}  // namespace mneme
