#include "train/checkpoint.h"

#include "base/error.h"
#include "base/files/file.h"
#include "base/hash.h"

namespace mneme::train {
namespace {

constexpr std::string_view kMagic = "MNEMECK2";

// Into the file and into its checksum.
class ChecksumWriter : public StateWriter {
 public:
  explicit ChecksumWriter(AtomicFileWriter* file) : file_(file) {}
  void Write(const void* data, size_t bytes) override {
    file_->Write(data, bytes);
    hash_.Write(data, bytes);
  }
  uint64_t value() const { return hash_.value(); }

 private:
  AtomicFileWriter* file_;
  Hasher hash_;
};

}  // namespace

void WriteCheckpoint(const std::string& path, const std::function<void(StateWriter&)>& save) {
  AtomicFileWriter file(path);
  ChecksumWriter writer(&file);
  writer.Write(kMagic.data(), kMagic.size());
  save(writer);
  const uint64_t hash = writer.value();
  file.Write(&hash, sizeof(hash));
  file.Commit();
}

void ReadCheckpoint(const std::string& path, const std::function<void(StateReader&)>& restore) {
  const MappedFile file(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (!bytes.starts_with(kMagic) || bytes.size() < kMagic.size() + sizeof(uint64_t)) {
    Fail(ErrorKind::kFile, "{}: is not a checkpoint of this version", path);
  }
  const std::string_view content = bytes.substr(0, bytes.size() - sizeof(uint64_t));
  uint64_t stored = 0;
  bytes.substr(content.size()).copy(reinterpret_cast<char*>(&stored), sizeof(stored));
  if (HashBytes(content) != stored) {
    Fail(ErrorKind::kFile, "{}: is damaged (its checksum does not fit); take an older copy or start anew",
         path);
  }
  BufferReader reader(content.substr(kMagic.size()));
  restore(reader);
  file.CheckUnchanged();
  if (reader.remaining_bytes() != 0) {
    Fail(ErrorKind::kFile, "{}: has {} bytes more than this model needs", path, reader.remaining_bytes());
  }
}

}  // namespace mneme::train
