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

#include "base/serial.h"
#include "session/session.h"

namespace mneme {

inline constexpr uint32_t kSnapshotVersion = 3;

// The header.
struct SnapshotInfo {
  uint64_t model_fingerprint = 0;
  std::string model_name;  // for people
  bool has_tokenizer = false;
  uint64_t tokenizer_fingerprint = 0;
  PackMode pack = PackMode::kAuto;  // what was asked for; `products` is what came of it
  std::string products;             // Model::products
  std::string simd_target;          // SimdTargetName
  int64_t num_tokens = 0;
  SessionOptions options;  // with the resolved context: a session made with it takes the state
  std::map<std::string, std::string> notes;
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
// The part that a model decides.
SnapshotInfo SnapshotInfoOf(const Model& model);
// Throws Error(kMismatch) if the state belongs to another model or tokenizer, or to other arithmetic, and
// names it. Options are compared by CompareOptions (session/fields.h).
void CompareModels(const SnapshotInfo& saved, const SnapshotInfo& here, const std::string& name);

}  // namespace mneme
