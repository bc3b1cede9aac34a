// Files: read-only mappings, whole-file reads, streams of bytes, and writes that are atomic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "mneme/stop.h"

namespace mneme {

// Read-only memory mapping of a whole file. Movable. The bytes stay valid as long as this object lives, and
// stay what they were as long as nobody writes to the file or cuts it short; CheckUnchanged tells. A file
// that is removed, or replaced by another of its name, stays mapped as it was.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws Error(kFile): missing, not a regular file (a pipe is not waited for), unreadable, or empty.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  // When it was last written to, before it was mapped.
  int64_t modified_ns() const { return modified_ns_; }
  // Throws Error(kFile), naming the file, if it was written to or cut short since it was mapped: what was
  // read from bytes() in the meantime cannot be trusted. Costs one system call.
  void CheckUnchanged() const;

 private:
  void Swap(MappedFile& other) noexcept;

  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  uint64_t device_ = 0;
  uint64_t inode_ = 0;
  int64_t modified_ns_ = 0;
  size_t guard_ = SIZE_MAX;  // which entry of the table that the signal handler reads
};

// A page of a mapping that the file no longer has, or that the disk cannot read, is a SIGBUS, which ends a
// process. From this call on (in main, as it takes the signal) such pages read as zeros, and CheckUnchanged
// of their file fails. For at most 4096 mappings at a time.
void GuardMappedFiles();

// The most that is read whole, by kind of file: several times the largest that are known.
inline constexpr size_t kMaxTextBytes = size_t{1} << 26;       // prompts, settings, results
inline constexpr size_t kMaxTokenizerBytes = size_t{1} << 28;  // the largest has 33 MB
inline constexpr size_t kMaxDataBytes = size_t{1} << 31;       // data sets, logs of answers
// Whole content of a file of at most max_bytes; of a device, which may have no end, at most 1 MiB. Throws
// Error(kFile).
std::string ReadWholeFile(const std::string& path, size_t max_bytes = kMaxTextBytes);
bool FileExists(const std::string& path);
bool IsDirectory(const std::string& path);

// Bytes of unknown length from a file, a pipe or standard input ("-").
class ByteSource {
 public:
  // Throws Error(kFile) if the path cannot be opened. stop: see Read.
  explicit ByteSource(const std::string& path, StopToken stop = {});
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills up to buffer.size() bytes; returns how many; 0 only at the end or after a stop, also one that a
  // signal handler asks for while it waits. A pipe returns what is there without waiting for a full buffer.
  // Throws Error(kFile) on a read error.
  size_t Read(std::span<char> buffer);
  // Size in bytes if it is a regular file, else -1.
  int64_t size_bytes() const { return size_bytes_; }
  // A terminal, /dev/zero: a source without an end of its own.
  bool is_device() const { return is_device_; }
  // Bytes given out so far.
  int64_t position_bytes() const { return position_bytes_; }

 private:
  std::string path_;
  StopToken stop_;
  int fd_ = -1;
  int64_t size_bytes_ = -1;
  bool is_device_ = false;
  int64_t position_bytes_ = 0;
};

class FileLock;

// Writes a file as a whole: into a temporary file beside it, which Commit flushes to disk and renames, so
// that a reader sees the old file or the whole new one, also after kill -9. Without Commit the temporary file
// is removed and the file is untouched.
//
// A symbolic link stays, and what it points to is replaced. The new file takes the mode of the old one, and
// its owner and group where this process may give them. What is no regular file (a pipe, a terminal,
// /dev/stdout) cannot be replaced: bytes go straight into it.
//
// The temporary file is NAME.tmp-RANDOM in the same folder: created anew, never through a link that somebody
// laid there, and locked (flock) for as long as its process lives. One that nobody locks is of a process that
// was killed: the next writer to the same file removes it.
class AtomicFileWriter {
 public:
  // Throws Error(kFile) if the file could not be written: no such folder, read-only, a folder, locked by
  // another process (FileLock).
  explicit AtomicFileWriter(std::string path);
  ~AtomicFileWriter();
  AtomicFileWriter(const AtomicFileWriter&) = delete;
  AtomicFileWriter& operator=(const AtomicFileWriter&) = delete;

  // Appends. Throws Error(kFile), naming the path and the cause (a full disk, say); PATH is untouched then.
  void Write(const void* data, size_t bytes);
  void Write(std::string_view text) { Write(text.data(), text.size()); }
  int64_t position_bytes() const { return position_bytes_; }
  // Flushes, syncs and renames. Throws Error(kFile); PATH is untouched then.
  void Commit();

 private:
  void CreateTemporary();
  void Flush();
  void Replace();

  std::string path_;            // as the caller named it, for messages
  std::string name_;            // of the file that is replaced, in its folder
  FileLock* lock_ = nullptr;    // of this process on the file that is replaced
  std::string temporary_name_;  // empty: bytes go straight into what `path_` names
  int folder_ = -1;
  int fd_ = -1;
  int64_t position_bytes_ = 0;
  std::unique_ptr<char[]> buffer_;
  size_t buffered_ = 0;
};

// Keeps other processes of ours away from a file that this one reads at its start and writes at its end:
// until it is destroyed, or the process ends, however it ends. Where there is no file an empty one is made,
// and removed again in the destructor if nothing was written to it. An AtomicFileWriter of this process hands
// the lock on to the file that it puts in place; one of another process is refused.
class FileLock {
 public:
  // Throws Error(kFile): the file cannot be written, or another process holds it, which is named if that is
  // known. Locks nothing where the path is no regular file or the file system has no locks.
  explicit FileLock(const std::string& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  friend class AtomicFileWriter;
  bool TryOpen();
  static FileLock* Find(uint64_t device, uint64_t inode);

  std::string path_;
  std::string target_;  // without links
  int fd_ = -1;
  bool was_created_ = false;
};

// Throws what an AtomicFileWriter of this path would throw now, so that the work of hours does not end at a
// folder that is not there. Leaves nothing behind, and opens no pipe.
void CheckWritable(const std::string& path);

}  // namespace mneme
