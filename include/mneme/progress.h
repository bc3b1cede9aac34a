// Progress of long work.
#pragma once

#include <cstdint>
#include <string_view>

#include "mneme/export.h"

namespace mneme {

// Where long work reports. Thread rule: called from the thread that does the work.
class MNEME_API Progress {
 public:
  virtual ~Progress() = default;
  // done and total in the same unit (bytes, tokens); total < 0 when unknown. `note` is free text for the end
  // of the line ("48,210 tok/s, 15.9 MiB"). Cheap enough to call per chunk.
  virtual void Update(int64_t done, int64_t total, std::string_view note) = 0;
  // Leaves the line complete and starts no other.
  virtual void Finish(std::string_view note) = 0;
};

// For whoever does not want to know.
class MNEME_API NoProgress : public Progress {
 public:
  void Update(int64_t, int64_t, std::string_view) override {}
  void Finish(std::string_view) override {}
};

}  // namespace mneme
