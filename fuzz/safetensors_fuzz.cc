// A hostile safetensors file, and a hostile Hugging Face folder: the input is config.json, a NUL byte, and
// model.safetensors. Without a NUL byte it is a safetensors file alone.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "formats/safetensors.h"
#include "fuzz/guard.h"
#include "kernels/cpu_device.h"
#include "model/loaded_model.h"

namespace mneme::fuzz {
namespace {

void ReadEverything(const SafetensorsFile& file) {
  uint64_t sum = 0;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    MNEME_CHECK(file.FindTensor(tensor.name) != nullptr);
    if (tensor.bytes > 0) sum += tensor.data[0] + tensor.data[tensor.bytes - 1];
  }
  volatile uint64_t sink = sum;  // the reads must happen
  static_cast<void>(sink);
}

// One folder for the life of the process, on a file system in memory where there is one.
class Folder {
 public:
  Folder() {
    std::string name = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    name += "/mneme-fuzz-XXXXXX";
    MNEME_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() {
    unlink((path_ + "/config.json").c_str());
    unlink((path_ + "/model.safetensors").c_str());
    rmdir(path_.c_str());
  }
  const std::string& path() const { return path_; }
  void Put(const char* name, std::string_view bytes) const {
    const int fd = open((path_ + "/" + name).c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    MNEME_CHECK(fd >= 0 && write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    close(fd);
  }

 private:
  std::string path_;
};

void LoadFolder(std::string_view config, std::string_view tensors) {
  static const Folder folder;
  static CpuDevice device(1);
  folder.Put("config.json", config);
  folder.Put("model.safetensors", tensors);
  ModelOptions options;
  options.load_tokenizer = false;
  LoadedModel::Load(folder.path(), options, device);
}

}  // namespace
}  // namespace mneme::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using mneme::fuzz::Accepts;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.starts_with("{") ? input.find('\0') : std::string_view::npos;
  const std::string_view tensors = end == std::string_view::npos ? input : input.substr(end + 1);
  const bool is_good = Accepts([&] {
    const std::string copy(tensors);  // its end is where the sanitizer sees it
    mneme::fuzz::ReadEverything(
        mneme::SafetensorsFile::FromBytes({reinterpret_cast<const uint8_t*>(copy.data()), copy.size()}));
  });
  if (is_good && end != std::string_view::npos) {
    Accepts([&] { mneme::fuzz::LoadFolder(input.substr(0, end), tensors); });
  }
  return 0;
}
