#include "base/text/text_hash.h"

#include <algorithm>

#include "base/hash.h"

namespace mneme {
namespace {

constexpr size_t kBlockBytes = 1024;

}  // namespace

void TextHash::Add(std::string_view text) {
  while (!text.empty()) {
    const size_t count = std::min(text.size(), kBlockBytes - tail_.size());
    tail_.append(text.substr(0, count));
    text.remove_prefix(count);
    if (tail_.size() < kBlockBytes) return;
    hash_ = HashBytes(tail_, hash_);
    tail_.clear();
  }
}

uint64_t TextHash::digest() const { return HashBytes(tail_, hash_); }

void TextHash::Save(StateWriter& writer) const {
  writer.Put(hash_);
  writer.PutString(tail_);
}

void TextHash::Restore(StateReader& reader) {
  hash_ = reader.Get<uint64_t>();
  tail_ = reader.GetString();
  if (tail_.size() >= kBlockBytes)
    Fail(ErrorKind::kFile, "the hash of its text has a tail of {} bytes", tail_.size());
}

}  // namespace mneme
