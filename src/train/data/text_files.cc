#include "train/data/text_files.h"

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"

namespace mneme::train {
namespace {

// Bytes of the UTF-8 character at the front, 0 if there is none. A character cut off by the end counts.
size_t CharacterBytes(std::string_view text) {
  const auto first = static_cast<uint8_t>(text.front());
  const size_t size = first < 0x80                    ? 1
                      : first >= 0xC2 && first < 0xE0 ? 2
                      : first >= 0xE0 && first < 0xF0 ? 3
                      : first >= 0xF0 && first < 0xF5 ? 4
                                                      : 0;
  for (size_t i = 1; i < std::min(size, text.size()); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) return 0;
  }
  return size;
}

void CheckText(const std::string& path, std::string_view text) {
  constexpr size_t kProbeBytes = size_t{1} << 18;
  const std::string_view probe = text.substr(0, kProbeBytes);
  for (size_t at = 0; at < probe.size();) {
    const size_t size = probe[at] == '\0' ? 0 : CharacterBytes(probe.substr(at));
    if (size == 0) {
      Fail(ErrorKind::kInput, "{}: byte {} is not UTF-8 text; training reads plain text files", path, at);
    }
    at += size;
  }
  const auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  if (std::all_of(probe.begin(), probe.end(), is_space)) {
    Fail(ErrorKind::kInput, "{}: holds nothing but white space", path);
  }
}

// Without the bytes of a UTF-8 character that the end cuts in two.
std::string_view WholeCharacters(std::string_view text) {
  size_t lead = text.size();
  while (lead > 0 && text.size() - lead < 4 && (static_cast<uint8_t>(text[lead - 1]) & 0xC0) == 0x80) --lead;
  if (lead == 0) return text;
  const auto first = static_cast<uint8_t>(text[lead - 1]);
  const size_t length = first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  return lead - 1 + length > text.size() ? text.substr(0, lead - 1) : text;
}

}  // namespace

TextFiles::TextFiles(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    files_.emplace_back(path);
    CheckText(path, text(files_.size() - 1));
    total_bytes_ += files_.back().bytes().size();
  }
}

TextFiles::Place TextFiles::RandomLine(Random& random) const {
  uint64_t at = random.Below(total_bytes_);
  Place place;
  while (at >= files_[place.file].bytes().size()) at -= files_[place.file++].bytes().size();
  // The line after the byte; the first one for a byte in the last line.
  const size_t newline = text(place.file).find('\n', at);
  const bool is_last = newline == std::string_view::npos || newline + 1 >= text(place.file).size();
  place.offset = is_last ? 0 : newline + 1;
  return place;
}

std::string TextFiles::RandomText(size_t num_bytes, Random& random) const {
  const Place place = RandomLine(random);
  std::string_view from = text(place.file).substr(place.offset, num_bytes);
  if (const size_t space = from.find_last_of(" \n"); space != std::string_view::npos && space > 0) {
    from = from.substr(0, space);
  } else {
    from = WholeCharacters(from);
  }
  std::string result;
  for (const char c : from) {
    const char put = c == '\n' || c == '\r' || c == '\t' ? ' ' : c;
    if (put != ' ' || (!result.empty() && result.back() != ' ')) result += put;
  }
  CheckUnchanged(place.file);
  return result;
}

uint64_t TextFiles::Fingerprint() const {
  Hasher hash;
  for (const MappedFile& file : files_) {
    hash.Put<uint64_t>(file.bytes().size());
    hash.PutString(std::string_view(file.path()).substr(file.path().rfind('/') + 1));
  }
  return hash.value();
}

}  // namespace mneme::train
