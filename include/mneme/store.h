// The folder that a session with SessionOptions::store writes, as a thing that is looked at, checked and
// removed. Thread rule: any thread, one at a time for a folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mneme/export.h"

namespace mneme {

struct MNEME_API StoreSummary {
  uint64_t id = 0;
  std::string context;
  int64_t num_slices = 0;  // that have room in its files
  size_t slice_bytes = 0;  // of one, on disk
  size_t disk_bytes = 0;
  std::vector<int64_t> damaged;  // numbers of slices; only where all was read
  int64_t first = 0;             // number of the oldest slice
  int64_t file_slices = 1;       // slices of one file

  int64_t num_tokens() const;
  // The file that a slice lies in.
  std::string FileOf(int64_t number) const;
};

// reads_all: every slice is read and checked. Changes nothing. Throws Error(kFile): it is no store, or its
// manifest is damaged. Locks nothing: of a store that grows
// meanwhile the last slice may look damaged.
MNEME_API StoreSummary SummarizeStore(const std::string& folder, bool reads_all);
// Removes the store's files, and the folder if nothing else is in it. Throws Error(kFile): it is no store, or
// in use, and stays as it is then.
MNEME_API void RemoveStore(const std::string& folder);

}  // namespace mneme
