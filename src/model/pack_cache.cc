#include "model/pack_cache.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/files/serial.h"
#include "base/hash.h"
#include "base/text/units.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "MNEMEPK\n";
constexpr uint32_t kVersion = 1;
constexpr std::string_view kEnding = ".packed";

struct Header {
  uint32_t version = kVersion;
  uint32_t num_sections = 0;
  uint64_t key = 0;
  uint64_t data_bytes = 0;
};

size_t NumSections(size_t data_bytes) { return (data_bytes + kPackSectionBytes - 1) / kPackSectionBytes; }

size_t HeaderBytes(size_t num_sections) { return kMagic.size() + sizeof(Header) + (num_sections + 1) * 8; }

size_t DataOffset(size_t num_sections) {
  return (HeaderBytes(num_sections) + kPackDataAlignment - 1) / kPackDataAlignment * kPackDataAlignment;
}

std::string_view Section(std::span<const uint8_t> data, size_t section) {
  const size_t first = section * kPackSectionBytes;
  return {reinterpret_cast<const char*>(data.data()) + first,
          std::min(kPackSectionBytes, data.size() - first)};
}

std::string MakeHeader(uint64_t key, std::span<const uint8_t> data, Device& device) {
  const size_t num_sections = NumSections(data.size());
  std::vector<uint64_t> hashes(num_sections);
  device.Run(num_sections, [&](size_t section) { hashes[section] = HashBytes(Section(data, section)); });
  BufferWriter writer;
  writer.Write(kMagic.data(), kMagic.size());
  writer.Put(
      Header{.num_sections = static_cast<uint32_t>(num_sections), .key = key, .data_bytes = data.size()});
  writer.Write(hashes.data(), hashes.size() * sizeof(uint64_t));
  writer.Put(HashBytes(writer.buffer()));
  writer.buffer().resize(DataOffset(num_sections), '\0');
  return std::move(writer.buffer());
}

// ---- where

// Where programs keep what they can make again; empty if the system does not say.
std::string UserCacheFolder() {
  const char* const named = std::getenv("XDG_CACHE_HOME");
  if (named != nullptr && named[0] == '/') return std::string(named) + "/mneme";
  const char* const home = std::getenv("HOME");
  return home != nullptr && home[0] == '/' ? std::string(home) + "/.cache/mneme" : "";
}

// In a folder for models from anywhere: two of one name have two copies.
std::string NameInFolder(const fs::path& model) {
  std::error_code ignored;
  const std::string whole = fs::absolute(model, ignored).lexically_normal().string();
  return fmt::format("{}-{:08x}{}", model.filename().string(), HashBytes(whole) >> 32, kEnding);
}

// Whether what is there is a packed copy, whatever its state, or nothing.
bool MayReplace(const std::string& path, const std::string& model) {
  std::error_code error;
  if (!fs::exists(path, error)) return true;
  if (!fs::is_regular_file(path, error) || fs::equivalent(path, model, error)) return false;
  if (path.ends_with(kEnding) || fs::file_size(path, error) == 0) return true;
  try {
    const MappedFile file(path);
    const auto bytes = file.bytes();
    return bytes.size() >= kMagic.size() && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

PackCache::PackCache(const std::string& where, const std::string& model) : model_(model) {
  fs::path plain(model);
  if (!plain.has_filename()) plain = plain.parent_path();  // a folder with a slash at its end
  std::error_code ignored;
  if (where == "auto") {
    paths_.push_back(plain.string() + std::string(kEnding));
    cache_folder_ = UserCacheFolder();
    if (!cache_folder_.empty()) paths_.push_back(cache_folder_ + "/" + NameInFolder(plain));
  } else if (fs::is_directory(where, ignored) || where.ends_with('/')) {
    paths_.push_back(where + (where.ends_with('/') ? "" : "/") + NameInFolder(plain));
  } else {
    paths_.push_back(where);
  }
}

// Checks all but the sections.
std::optional<PackedCopy> PackCache::Open(const std::string& path, uint64_t key, size_t bytes) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  const auto refuse = [&](std::string_view why) {
    notes_.push_back(fmt::format("packed copy {}: {}; packed anew", path, why));
    return std::nullopt;
  };
  try {
    PackedCopy copy{.file = MappedFile(path)};
    const std::string_view all(reinterpret_cast<const char*>(copy.file.bytes().data()),
                               copy.file.bytes().size());
    const size_t num_sections = NumSections(bytes);
    Header header;
    if (!all.starts_with(kMagic)) return refuse("is none, or is damaged at its beginning");
    if (all.size() < kMagic.size() + sizeof(header)) return refuse("is cut off");
    std::memcpy(&header, all.data() + kMagic.size(), sizeof(header));
    if (header.version != kVersion) return refuse("is of another version of this program");
    const size_t checked_bytes = HeaderBytes(header.num_sections) - sizeof(uint64_t);
    if (all.size() < checked_bytes + sizeof(uint64_t)) return refuse("is cut off");
    uint64_t checksum = 0;
    std::memcpy(&checksum, all.data() + checked_bytes, sizeof(checksum));
    if (HashBytes(all.substr(0, checked_bytes)) != checksum) return refuse("is damaged");
    if (header.key != key || header.data_bytes != bytes || header.num_sections != num_sections) {
      return refuse("is stale: of other weights, or packed for another arithmetic");
    }
    if (all.size() != DataOffset(num_sections) + bytes) return refuse("is cut off");
    copy.data = copy.file.bytes().data() + DataOffset(num_sections);
    return copy;
  } catch (const Error& error) {
    return refuse(error.what());
  }
}

std::optional<PackedCopy> PackCache::Find(uint64_t key, size_t bytes, Device& device,
                                          const std::function<void()>& beside, bool* has_run_beside) {
  for (const std::string& path : paths_) {
    std::optional<PackedCopy> copy = Open(path, key, bytes);
    if (!copy) continue;
    const size_t num_sections = NumSections(bytes);
    const uint8_t* const hashes = copy->file.bytes().data() + kMagic.size() + sizeof(Header);
    std::atomic<bool> is_damaged = false;
    const size_t num_beside = *has_run_beside ? 0 : 1;
    *has_run_beside = true;
    device.Run(num_beside + num_sections, [&](size_t task) {
      if (task < num_beside) return beside();
      const size_t section = task - num_beside;
      uint64_t hash = 0;
      std::memcpy(&hash, hashes + section * sizeof(hash), sizeof(hash));
      if (HashBytes(Section({copy->data, bytes}, section)) != hash) is_damaged = true;
    });
    if (!is_damaged) return copy;
    notes_.push_back(fmt::format("packed copy {}: is damaged; packed anew", path));
  }
  return std::nullopt;
}

// Empty if all went well, else why not.
std::string PackCache::WriteTo(const std::string& path, const std::string& header,
                               std::span<const uint8_t> data) {
  try {
    std::error_code ignored;
    if (!cache_folder_.empty() && path.starts_with(cache_folder_))
      fs::create_directories(cache_folder_, ignored);
    AtomicFileWriter writer(path);
    writer.Write(header);
    writer.Write(data.data(), data.size());
    writer.Commit();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

void PackCache::Write(uint64_t key, std::span<const uint8_t> data, Device& device) {
  const std::string header = MakeHeader(key, data, device);
  std::string failures;
  for (const std::string& path : paths_) {
    const std::string failure = MayReplace(path, model_)
                                    ? WriteTo(path, header, data)
                                    : fmt::format("{}: is another kind of file, and is left as it was", path);
    if (failure.empty()) {
      notes_.push_back(fmt::format("packed copy {}: written ({}); later runs map it", path,
                                   FormatBytes(header.size() + data.size())));
      return;
    }
    failures += (failures.empty() ? "" : "; ") + failure;
  }
  notes_.push_back(fmt::format("no packed copy was written, and the model runs without: {}", failures));
}

}  // namespace mneme
