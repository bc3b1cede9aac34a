#include "cli/input.h"

#include <algorithm>

#include "base/error.h"

namespace mneme::cli {
namespace {

constexpr size_t kReadBytes = size_t{1} << 16;
// Text tokens are rarely longer than this on average, so that more bytes mean more tokens than `exact_up_to`.
constexpr int64_t kBytesPerToken = 8;

}  // namespace

InputFiles::InputFiles(const std::vector<std::string>& paths, StopToken stop) : paths_(paths), stop_(stop) {
  for (const std::string& path : paths) {
    sources_.push_back(std::make_unique<ByteSource>(path, stop));
    const int64_t size = sources_.back()->size_bytes();
    size_bytes_ = size < 0 || size_bytes_ < 0 ? -1 : size_bytes_ + size;
  }
}

size_t InputFiles::Read(std::span<char> buffer) {
  while (current_ < sources_.size()) {
    const size_t size = sources_[current_]->Read(buffer);
    if (size > 0 || stop_.stop_requested()) {
      position_bytes_ += static_cast<int64_t>(size);
      return size;
    }
    ++current_;
  }
  return 0;
}

int64_t InputFiles::Skip(int64_t count, TextHash* hash) {
  std::vector<char> buffer(kReadBytes);
  while (count > 0) {
    const size_t size =
        Read(std::span(buffer).first(std::min<size_t>(buffer.size(), static_cast<size_t>(count))));
    if (size == 0) {
      if (stop_.stop_requested())
        Fail(ErrorKind::kInterrupted, "interrupted while passing over what was read before");
      break;
    }
    hash->Add({buffer.data(), size});
    count -= static_cast<int64_t>(size);
  }
  return count;
}

int64_t CountTokens(const Tokenizer& tokenizer, const std::vector<std::string>& paths, int64_t size_bytes,
                    int64_t exact_up_to, StopToken stop) {
  if (size_bytes < 0) return -1;
  if (size_bytes > exact_up_to * kBytesPerToken) return std::max(exact_up_to + 1, size_bytes / 4);
  // Standard input cannot be read twice, even where it is a file: a token for each byte is the most there can
  // be.
  if (std::find(paths.begin(), paths.end(), "-") != paths.end()) return size_bytes;
  StreamEncoder encoder(tokenizer);
  std::vector<TokenId> ids;
  int64_t count = 0;
  std::vector<char> buffer(kReadBytes);
  for (const std::string& path : paths) {
    ByteSource source(path, stop);
    while (const size_t size = source.Read(buffer)) {
      encoder.Feed({buffer.data(), size}, &ids);
      count += static_cast<int64_t>(ids.size());
      ids.clear();
      if (count > exact_up_to) return count;
    }
  }
  encoder.Finish(&ids);
  return count + static_cast<int64_t>(ids.size());
}

}  // namespace mneme::cli
