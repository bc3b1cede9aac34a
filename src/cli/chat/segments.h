// Pieces of rendered text.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/chat.h"

namespace mneme::cli {

std::string TextOf(std::span<const Segment> segments);
// The segments without their first `begin` bytes; their first `end` bytes.
std::vector<Segment> From(std::vector<Segment> segments, size_t begin);
std::vector<Segment> UpTo(std::vector<Segment> segments, size_t end);
// How many bytes both begin with.
size_t CommonLength(std::string_view a, std::string_view b);
// Whether EncodePrompt would put a BOS before them.
bool NeedsBos(const Tokenizer& tokenizer, std::span<const Segment> segments);

}  // namespace mneme::cli
