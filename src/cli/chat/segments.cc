#include "cli/chat/segments.h"

#include <algorithm>

namespace mneme::cli {

std::string TextOf(std::span<const Segment> segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

std::vector<Segment> From(std::vector<Segment> segments, size_t begin) {
  size_t first = 0;
  while (first < segments.size() && segments[first].text.size() <= begin)
    begin -= segments[first++].text.size();
  segments.erase(segments.begin(), segments.begin() + static_cast<ptrdiff_t>(first));
  if (!segments.empty()) segments[0].text.erase(0, begin);
  return segments;
}

std::vector<Segment> UpTo(std::vector<Segment> segments, size_t end) {
  size_t count = 0;
  while (count < segments.size() && segments[count].text.size() < end) end -= segments[count++].text.size();
  if (count < segments.size()) segments[count].text.resize(end);
  segments.resize(std::min(count + 1, segments.size()), {});
  return segments;
}

size_t CommonLength(std::string_view a, std::string_view b) {
  const size_t size = std::min(a.size(), b.size());
  return static_cast<size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(size), b.begin()).first - a.begin());
}

bool NeedsBos(const Tokenizer& tokenizer, std::span<const Segment> segments) {
  if (!tokenizer.adds_bos() || tokenizer.bos_id() < 0) return false;
  const std::vector<TokenId> ids = EncodeSegments(tokenizer, segments, /*add_bos=*/false);
  return ids.empty() || ids[0] != tokenizer.bos_id();
}

}  // namespace mneme::cli
