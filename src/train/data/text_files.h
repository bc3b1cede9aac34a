// Text files of any size as documents: mapped, never read whole.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/files/file.h"
#include "base/random.h"

namespace mneme::train {

// Immutable after construction.
class TextFiles {
 public:
  // Throws Error(kFile) for a file that is missing or empty, Error(kInput) for one that is not text (a NUL
  // byte or broken UTF-8 near its front) or holds nothing but white space.
  explicit TextFiles(const std::vector<std::string>& paths);

  size_t num_files() const { return files_.size(); }
  std::string_view text(size_t file) const {
    return {reinterpret_cast<const char*>(files_[file].bytes().data()), files_[file].bytes().size()};
  }
  uint64_t total_bytes() const { return total_bytes_; }

  struct Place {
    size_t file = 0;
    size_t offset = 0;
  };
  // The start of a random line; files in proportion to their size.
  Place RandomLine(Random& random) const;
  // About num_bytes of text from a random line, cut at a space; shorter at a file's end. Line ends become
  // spaces.
  std::string RandomText(size_t num_bytes, Random& random) const;
  // Hash of names' ends and sizes: another corpus gives another value.
  uint64_t Fingerprint() const;
  // Throws Error(kFile), naming the file, if it was written to or cut short since it was opened: what was
  // read from it in the meantime cannot be trusted.
  void CheckUnchanged(size_t file) const { files_[file].CheckUnchanged(); }

 private:
  std::vector<MappedFile> files_;
  uint64_t total_bytes_ = 0;
};

}  // namespace mneme::train
