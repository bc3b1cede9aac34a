#include "recall/store_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <system_error>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "base/files/file.h"
#include "base/hash.h"
#include "base/text/units.h"
#include "kernels/attend/attend.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kManifest = "manifest";
constexpr std::string_view kMagicLine = "mneme store 1";
constexpr std::string_view kPrefix = "slices-";
constexpr size_t kIdBytes = kBlockTokens * sizeof(TokenId);
constexpr int64_t kMostFileSlices = 1024;  // 65,536 tokens
constexpr int64_t kLeastFileSlices = 16;

[[noreturn]] void FailErrno(const std::string& path, std::string_view what) {
  const int code = errno;
  Fail(ErrorKind::kFile, "{}: {}: {}", path, what, std::strerror(code));
}

uint64_t DrawId() {
  uint64_t id = 0;
  while (id == 0) {
    if (::getrandom(&id, sizeof(id), 0) != sizeof(id)) FailErrno("the store", "no random number");
  }
  return id;
}

// The number behind the prefix; -1 for the name of something else.
int64_t FileNumber(const std::string& name) {
  if (!name.starts_with(kPrefix) || name.size() != kPrefix.size() + 6) return -1;
  int64_t number = 0;
  for (const char c : name.substr(kPrefix.size())) {
    if (c < '0' || c > '9') return -1;
    number = number * 10 + (c - '0');
  }
  return number;
}

}  // namespace

size_t SliceLayout::slice_bytes() const {
  return SaturatingAdd(SaturatingAdd(record_bytes, key_bytes), kIdBytes);
}

size_t SliceLayout::disk_bytes() const { return SaturatingAdd(slice_bytes(), sizeof(SliceHeader)); }

uint64_t SliceHeader::Digest() const {
  return HashBytes({reinterpret_cast<const char*>(this), offsetof(SliceHeader, digest)});
}

// ---- files

SliceFile::~SliceFile() { ::close(fd_); }

bool SliceFile::Read(void* data, size_t bytes, int64_t offset) const {
  auto* to = static_cast<uint8_t*>(data);
  while (bytes > 0) {
    const ssize_t count = ::pread(fd_, to, bytes, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    to += count;
    offset += count;
    bytes -= static_cast<size_t>(count);
  }
  return true;
}

void SliceFile::Write(const void* data, size_t bytes, int64_t offset) const {
  const auto* from = static_cast<const uint8_t*>(data);
  const int64_t begin = offset;
  while (bytes > 0) {
    const ssize_t count = ::pwrite(fd_, from, bytes, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int code = count < 0 ? errno : ENOSPC;
      // Half a slice is of no use, and its room may be what somebody lacks.
      [[maybe_unused]] const int cut = ::ftruncate(fd_, begin);
      Fail(ErrorKind::kFile, "{}: {}", name_, std::strerror(code));
    }
    from += count;
    offset += count;
    bytes -= static_cast<size_t>(count);
  }
}

// ---- the manifest

std::string StoreManifest::Text() const {
  std::string text = fmt::format(
      "{}\nid {:016x}\nrecord_bytes {}\nkey_bytes {}\nfirst_slice {}\nfile_slices {}\nforgotten {}\ncontext "
      "{}\n",
      kMagicLine, id, layout.record_bytes, layout.key_bytes, first, file_slices, forgotten, context);
  return text + fmt::format("hash {:016x}\n", HashBytes(text));
}

StoreManifest StoreManifest::Read(const std::string& folder) {
  const std::string path = folder + "/" + std::string(kManifest);
  const std::string text = ReadWholeFile(path);
  StoreManifest manifest;
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  if (line != kMagicLine) Fail(ErrorKind::kFile, "{}: is no manifest of a store that is known here", path);
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name == "id") words >> std::hex >> manifest.id;
    if (name == "record_bytes") words >> manifest.layout.record_bytes;
    if (name == "key_bytes") words >> manifest.layout.key_bytes;
    if (name == "first_slice") words >> manifest.first;
    if (name == "file_slices") words >> manifest.file_slices;
    if (name == "forgotten") words >> manifest.forgotten;
    if (name == "context" && line.size() > 8) manifest.context = line.substr(8);
  }
  const bool is_sound = manifest.id != 0 && manifest.file_slices > 0 && manifest.first >= 0 &&
                        manifest.forgotten >= 0 && manifest.file_slices <= kMostFileSlices &&
                        manifest.layout.record_bytes <= (size_t{1} << 32) &&
                        manifest.layout.key_bytes <= (size_t{1} << 32) && manifest.Text() == text;
  if (!is_sound) Fail(ErrorKind::kFile, "{}: is damaged", path);
  return manifest;
}

// ---- the folder

StoreFolder::StoreFolder(const StoreOptions& options, const SliceLayout& layout, int64_t first,
                         int64_t num_slices, const std::string& context)
    : path_(options.path) {
  std::error_code code;
  fs::create_directories(path_, code);  // what is wrong with it the next call says
  folder_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_ < 0) FailErrno(path_, "the store cannot be opened");
  try {
    if (::flock(folder_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      Fail(ErrorKind::kFile, "{}: another process, or another session of this one, has this store", path_);
    }
    if (::access(path_.c_str(), W_OK) != 0) FailErrno(path_, "the store cannot be written");
    // Whoever was killed while it made the folder leaves an empty manifest, or the beginnings of one.
    const std::string manifest = path_ + "/" + std::string(kManifest);
    const auto is_other = [](const fs::directory_entry& entry) {
      return !entry.path().filename().string().starts_with(kManifest);
    };
    if (FileExists(manifest) && fs::file_size(manifest, code) > 0) {
      manifest_ = StoreManifest::Read(path_);
      if (manifest_.layout != layout || manifest_.first != first) {
        Fail(
            ErrorKind::kMismatch,
            "{}: this store is of another model or context ({}): name another folder, or `mneme store rm` it",
            path_, manifest_.context);
      }
    } else if (std::any_of(fs::directory_iterator(path_), fs::directory_iterator(), is_other)) {
      Fail(ErrorKind::kFile, "{}: the folder is not empty, and is no store", path_);
    } else {
      manifest_ = {.id = DrawId(),
                   .layout = layout,
                   .first = first,
                   .file_slices = std::clamp(num_slices / 8 / kLeastFileSlices * kLeastFileSlices,
                                             kLeastFileSlices, kMostFileSlices),
                   .context = context};
      WriteManifest();
    }
    OpenAll();
  } catch (...) {
    ::close(folder_);
    throw;
  }
}

StoreFolder::~StoreFolder() { ::close(folder_); }

std::string StoreFolder::NameOf(int64_t file) const { return fmt::format("{}{:06}", kPrefix, file); }

void StoreFolder::OpenAll() {
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    const int64_t number = FileNumber(name);
    if (number < 0) continue;
    const int fd = ::openat(folder_, name.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) FailErrno(path_ + "/" + name, "cannot be opened");
    files_[number] = std::make_shared<SliceFile>(fd, path_ + "/" + name);
    struct stat info {};
    had_slices_ = had_slices_ || (::fstat(fd, &info) == 0 && info.st_size > 0);
  }
}

std::shared_ptr<SliceFile> StoreFolder::FileOf(int64_t number) const {
  const auto found = files_.find((number - manifest_.first) / manifest_.file_slices);
  return found == files_.end() ? nullptr : found->second;
}

int64_t StoreFolder::OffsetOf(int64_t number) const {
  return (number - manifest_.first) % manifest_.file_slices *
         static_cast<int64_t>(manifest_.layout.disk_bytes());
}

std::shared_ptr<SliceFile> StoreFolder::MakeFileOf(int64_t number) {
  const int64_t file = (number - manifest_.first) / manifest_.file_slices;
  std::shared_ptr<SliceFile>& made = files_[file];
  if (made == nullptr) {
    const std::string name = NameOf(file);
    const int fd = ::openat(folder_, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) {
      files_.erase(file);
      FailErrno(path_ + "/" + name, "cannot be made");
    }
    made = std::make_shared<SliceFile>(fd, path_ + "/" + name);
    has_new_names_ = true;
  }
  return made;
}

std::shared_ptr<SliceFile> StoreFolder::MakeNameless() const {
  std::string name = path_ + "/copy-XXXXXX";
  const int fd = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd < 0) FailErrno(name, "cannot be made");
  ::unlink(name.c_str());
  return std::make_shared<SliceFile>(fd, path_ + ": a copy's slices");
}

void StoreFolder::CheckSound() const {
  if (!has_failed_) return;
  Fail(ErrorKind::kFile,
       "{}: the disk has failed before; what was written since the last saved state may be lost: go on from "
       "that state",
       path_);
}

void StoreFolder::Append(int64_t number, const uint8_t* bytes) {
  CheckSound();
  MakeFileOf(number)->Write(bytes, manifest_.layout.disk_bytes(), OffsetOf(number));
  dirty_.insert((number - manifest_.first) / manifest_.file_slices);
}

void StoreFolder::CutAt(int64_t end) {
  CheckSound();
  const int64_t file = (end - manifest_.first) / manifest_.file_slices;
  while (!files_.empty() && files_.rbegin()->first > file) Unlink(files_.rbegin()->first);
  const auto last = files_.find(file);
  if (last == files_.end()) return;
  struct stat info {};
  const int64_t offset = OffsetOf(end);
  if (::fstat(last->second->fd(), &info) == 0 && info.st_size <= offset) return;
  if (::ftruncate(last->second->fd(), offset) != 0) FailErrno(last->second->name(), "cannot be cut");
  dirty_.insert(file);
}

void StoreFolder::Unlink(int64_t file) {
  ::unlinkat(folder_, NameOf(file).c_str(), 0);
  files_.erase(file);
  dirty_.erase(file);
}

void StoreFolder::Forget(int64_t number) {
  manifest_.forgotten = number + manifest_.file_slices;
  WriteManifest();
  Unlink((number - manifest_.first) / manifest_.file_slices);
}

void StoreFolder::WriteManifest() const {
  AtomicFileWriter writer(path_ + "/" + std::string(kManifest));
  writer.Write(manifest_.Text());
  writer.Commit();
}

void StoreFolder::Sync() {
  CheckSound();
  const auto fail = [this](const std::string& name) {
    has_failed_ = true;
    FailErrno(name, "cannot be brought to the disk");
  };
  for (const int64_t file : dirty_) {
    if (::fdatasync(files_.at(file)->fd()) != 0) fail(files_.at(file)->name());
  }
  if (has_new_names_ && ::fsync(folder_) != 0) fail(path_);
  dirty_.clear();
  has_new_names_ = false;
}

}  // namespace mneme
