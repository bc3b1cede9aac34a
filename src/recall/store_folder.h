// A store as a folder: what left a stream's window, on disk.
//
//   DIR/manifest       text: what the slices are, and the number by which a state knows the store
//   DIR/slices-000000  so many slices of one size each, one behind the other; the next file follows it
//
// A slice on disk is a header, the ids, the keys to choose by, the record. The header has hashes of what
// follows and one of itself, its digest: whoever knows the digest knows every byte. A saved state has the
// digests of its slices, so what it reads back is what it wrote, or is left out.
//
// Slices are only added; Sync makes them durable, and comes before the state that names them is put in place.
// So a process may be killed at any time: what lies behind the last state is written again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/types.h"

namespace mneme {

// Bytes of one slice; multiples of 64.
struct SliceLayout {
  size_t record_bytes = 0;  // keys and values, layer after layer
  size_t key_bytes = 0;     // to choose by

  size_t slice_bytes() const;  // with the ids
  // On disk, with a header.
  size_t disk_bytes() const;
  bool operator==(const SliceLayout&) const = default;
};

// Where what left the window goes.
struct StoreOptions {
  std::string path = "";  // a folder; empty: it stays in memory
  size_t most_bytes = 0;  // on disk; 0: what the disk has
  bool forgets = false;   // at most_bytes the oldest goes; else the stream ends there
};

// What a manifest says.
struct StoreManifest {
  uint64_t id = 0;  // drawn when the store was made
  SliceLayout layout;
  int64_t first = 0;        // the number of the first slice
  int64_t file_slices = 0;  // slices in a file
  int64_t forgotten = 0;    // slices before this one were let go of
  std::string context;      // as it described itself, for people

  // Throws Error(kFile): there is none, or it is damaged.
  static StoreManifest Read(const std::string& folder);
  std::string Text() const;
};

// An open file of slices, which lives on after its name is gone.
class SliceFile {
 public:
  SliceFile(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  ~SliceFile();
  SliceFile(const SliceFile&) = delete;
  SliceFile& operator=(const SliceFile&) = delete;

  int fd() const { return fd_; }
  const std::string& name() const { return name_; }
  // Whether all bytes are there.
  bool Read(void* data, size_t bytes, int64_t offset) const;
  // Throws Error(kFile); what was written of it is cut off again where it stood at the end of the file.
  void Write(const void* data, size_t bytes, int64_t offset) const;

 private:
  int fd_;
  std::string name_;
};

// What stands before a slice on disk.
struct SliceHeader {
  char magic[8] = {'M', 'N', 'S', 'L', 'I', 'C', 'E', '1'};
  uint64_t store = 0;  // StoreManifest::id
  int64_t number = 0;
  uint64_t keys_hash = 0;  // of ids and keys
  uint64_t record_hash = 0;
  uint64_t digest = 0;  // of all before
  uint64_t rest[2] = {};

  uint64_t Digest() const;
};
static_assert(sizeof(SliceHeader) == 64);

// Thread rule: one thread at a time; the files may be read by others.
class StoreFolder {
 public:
  // Makes the folder where there is none, and keeps every other process and store away from it. Throws
  // Error(kFile): it cannot be written, is no store, or another has it; Error(kMismatch): its slices are
  // others. num_slices: of a store whose size is bounded; files are cut to go one by one.
  StoreFolder(const StoreOptions& options, const SliceLayout& layout, int64_t first, int64_t num_slices,
              const std::string& context);
  ~StoreFolder();
  StoreFolder(const StoreFolder&) = delete;
  StoreFolder& operator=(const StoreFolder&) = delete;

  const StoreManifest& manifest() const { return manifest_; }
  const std::string& path() const { return path_; }
  // Whether there were slices when it was opened.
  bool had_slices() const { return had_slices_; }

  // The file that slice `number` lies in, and where; null where there is none.
  std::shared_ptr<SliceFile> FileOf(int64_t number) const;
  int64_t OffsetOf(int64_t number) const;
  // The same, made if it is not there. Throws Error(kFile).
  std::shared_ptr<SliceFile> MakeFileOf(int64_t number);
  // A file that nobody else sees, gone when it is closed. Throws Error(kFile).
  std::shared_ptr<SliceFile> MakeNameless() const;
  // Writes a slice, header first in `bytes`, as number end(). Throws Error(kFile).
  void Append(int64_t number, const uint8_t* bytes);
  // Nothing from slice `end` on. Throws Error(kFile).
  void CutAt(int64_t end);
  // Lets go of the file that begins with slice `number`, and says so in the manifest first. Throws
  // Error(kFile); it is there then.
  void Forget(int64_t number);
  // What was written is on the disk when it returns. Throws Error(kFile), and from then on at every call:
  // what a disk has refused once may be lost.
  void Sync();

 private:
  std::string NameOf(int64_t file) const;
  void WriteManifest() const;
  void Unlink(int64_t file);
  void OpenAll();
  void CheckSound() const;

  std::string path_;
  int folder_ = -1;  // locked
  StoreManifest manifest_;
  bool had_slices_ = false;
  bool has_failed_ = false;
  bool has_new_names_ = false;
  std::map<int64_t, std::shared_ptr<SliceFile>> files_;
  std::set<int64_t> dirty_;
};

}  // namespace mneme
