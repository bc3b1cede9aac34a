// A packed copy of a model's matrices in a file (--pack-cache): packing is done once, later runs map what it
// made, and processes that run at the same time share its pages.
//
//   magic "MNEMEPK\n", version u32, number of sections u32
//   key u64: what the copy was made from and how; data: bytes u64
//   sections: XXH3-64 of each kPackSectionBytes of the data
//   checksum u64: XXH3-64 of all before it
//   zeros up to a multiple of kPackDataAlignment, then the data: as PackAll writes it
//
// A copy is used if its name, version, key, size and every checksum are right, and packed anew in all other
// cases: it can be stale or damaged, never wrong. What it holds depends on no instruction set, but for the
// arithmetic of float weights, which is part of the key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/files/file.h"
#include "kernels/device.h"

namespace mneme {

inline constexpr size_t kPackSectionBytes = size_t{4} << 20;
inline constexpr size_t kPackDataAlignment = 4096;  // pages of the mapping

// A copy that was found good, mapped. Movable.
struct PackedCopy {
  MappedFile file;
  const uint8_t* data = nullptr;  // aligned to 64
};

class PackCache {
 public:
  // `where`: "auto" (beside the model; where nobody may write there, the user's cache folder), a folder, or a
  // file. `model`: the path that the model was opened by. Touches nothing.
  PackCache(const std::string& where, const std::string& model);

  // The copy with this key and size, or none, with a note if there is a file that cannot be used. Reads all
  // of it on the device's threads, and so has its pages mapped. beside(), which must not throw, is called
  // once in the meantime if a copy may be there: *has_run_beside says so.
  std::optional<PackedCopy> Find(uint64_t key, size_t bytes, Device& device,
                                 const std::function<void()>& beside, bool* has_run_beside);
  // Writes one, in place of what Find did not take. What goes wrong (a full disk, a folder that is read-only)
  // is a note and no error: the model runs without. A file that is no packed copy is never replaced.
  void Write(uint64_t key, std::span<const uint8_t> data, Device& device);

  // What whoever runs the model should know, one sentence each, since the start.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  std::optional<PackedCopy> Open(const std::string& path, uint64_t key, size_t bytes);
  std::string WriteTo(const std::string& path, const std::string& header, std::span<const uint8_t> data);

  std::string model_;
  std::string cache_folder_;        // the user's, if it is one of them
  std::vector<std::string> paths_;  // in the order in which they are tried
  std::vector<std::string> notes_;
};

}  // namespace mneme
