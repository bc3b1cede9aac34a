#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/hash.h"
#include "kernels/attend/attend.h"
#include "mneme/store.h"
#include "recall/store_folder.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "slices-";

std::vector<std::string> FilesOf(const std::string& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool IsWhole(const StoreManifest& manifest, const SliceFile& file, int64_t offset, int64_t number,
             std::vector<uint8_t>* slice) {
  if (!file.Read(slice->data(), slice->size(), offset)) return false;
  SliceHeader header;
  std::memcpy(&header, slice->data(), sizeof(header));
  const auto* const ids = reinterpret_cast<const char*>(slice->data() + sizeof(header));
  const size_t id_bytes = kBlockTokens * sizeof(TokenId);
  const char* const keys = ids + id_bytes;
  return header.digest == header.Digest() && header.store == manifest.id && header.number == number &&
         header.keys_hash == HashBytes({keys, manifest.layout.key_bytes}, HashBytes({ids, id_bytes})) &&
         header.record_hash == HashBytes({keys + manifest.layout.key_bytes, manifest.layout.record_bytes});
}

}  // namespace

int64_t StoreSummary::num_tokens() const { return num_slices * static_cast<int64_t>(kBlockTokens); }

std::string StoreSummary::FileOf(int64_t number) const {
  return fmt::format("{}{:06}", kPrefix, (number - first) / file_slices);
}

StoreSummary SummarizeStore(const std::string& folder, bool reads_all) {
  const StoreManifest manifest = StoreManifest::Read(folder);
  StoreSummary summary{.id = manifest.id,
                       .context = manifest.context,
                       .slice_bytes = manifest.layout.disk_bytes(),
                       .damaged = {},
                       .first = manifest.first,
                       .file_slices = manifest.file_slices};
  std::vector<uint8_t> slice(manifest.layout.disk_bytes());
  for (const std::string& name : FilesOf(folder)) {
    const std::string path = folder + "/" + name;
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) Fail(ErrorKind::kFile, "{}: {}", path, std::strerror(errno));
    const SliceFile file(fd, path);
    const auto bytes = static_cast<size_t>(fs::file_size(path));
    const auto count = static_cast<int64_t>((bytes + slice.size() - 1) / slice.size());
    summary.disk_bytes += bytes;
    summary.num_slices += count;
    const int64_t first = manifest.first + std::atoll(name.c_str() + kPrefix.size()) * manifest.file_slices;
    for (int64_t i = 0; reads_all && i < count; ++i) {
      if (!IsWhole(manifest, file, i * static_cast<int64_t>(slice.size()), first + i, &slice))
        summary.damaged.push_back(first + i);
    }
  }
  return summary;
}

void RemoveStore(const std::string& folder) {
  const std::string manifest = folder + "/manifest";
  if (!fs::exists(manifest)) Fail(ErrorKind::kFile, "{}: is no store: it has no manifest", folder);
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)) {
    if (fd >= 0) ::close(fd);
    Fail(ErrorKind::kFile, "{}: another process has this store", folder);
  }
  std::error_code code;
  for (const std::string& name : FilesOf(folder)) fs::remove(folder + "/" + name, code);
  fs::remove(manifest, code);  // last, or what is left would be no store
  ::close(fd);
  if (fs::exists(manifest)) Fail(ErrorKind::kFile, "{}: cannot be removed", manifest);
  fs::remove(folder, code);  // if it is empty
}

}  // namespace mneme
