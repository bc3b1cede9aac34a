// Files: read-only mappings, whole-file reads, streams of bytes, and writes that are atomic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/stop.h"

namespace mneme {

// Read-only memory mapping of a whole file. Movable. The bytes stay valid as long as this object lives.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws Error(kFile): missing, a directory, unreadable, or empty.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  // Inode and device, so that two mappings of one file can be told to be the same.
  uint64_t modified_ns() const { return modified_ns_; }

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  uint64_t modified_ns_ = 0;
};

// Whole content of a file of at most max_bytes. Throws Error(kFile).
std::string ReadWholeFile(const std::string& path, size_t max_bytes = size_t{1} << 31);
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
  // signal handler asks for while it waits. A pipe returns what is there without waiting for a full buffer. Throws
  // Error(kFile) on a read error.
  size_t Read(std::span<char> buffer);
  // Size in bytes if it is a regular file, else -1.
  int64_t size_bytes() const { return size_bytes_; }
  // Bytes given out so far.
  int64_t position_bytes() const { return position_bytes_; }

 private:
  std::string path_;
  StopToken stop_;
  int fd_ = -1;
  int64_t size_bytes_ = -1;
  int64_t position_bytes_ = 0;
};

// Writes to PATH.tmp.PID, and renames onto PATH in Commit after flushing to disk, so that a reader sees the
// old file or the whole new one, also after kill -9. Without Commit the temporary file is removed and PATH is
// untouched.
class AtomicFileWriter {
 public:
  // Throws Error(kFile).
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
  std::string path_;
  std::string temporary_path_;
  int fd_ = -1;
  int64_t position_bytes_ = 0;
  std::unique_ptr<char[]> buffer_;
  size_t buffered_ = 0;
  void Flush();
};

}  // namespace mneme
