// Text pieces that the scores share. Not for use outside the scores.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mneme::scores {

inline bool IsDigit(char c) { return c >= '0' && c <= '9'; }
inline bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsAsciiPunctuation(char c);
std::string LowerAscii(std::string_view text);
std::string_view Trim(std::string_view text);
std::vector<std::string> SplitWhiteSpace(std::string_view text);
// Between single separators, empty pieces too.
std::vector<std::string_view> Split(std::string_view text, char separator);
// Every one of `characters` becomes a space.
std::string Blank(std::string_view text, std::string_view characters);
// UTF-8 characters; a byte that is not part of one is a piece by itself.
std::vector<std::string> Characters(std::string_view text);
// Runs of digits, in order.
std::vector<std::string> DigitRuns(std::string_view text);
bool Contains(std::string_view text, std::string_view part);

// Multiset overlap of two lists.
size_t CommonCount(std::span<const std::string> a, std::span<const std::string> b);
// Length of the longest common subsequence.
size_t LcsLength(std::span<const std::string> a, std::span<const std::string> b);
// Of which text the walk back from the end drops a word where both ways are as long. Published tools differ,
// and a union of subsequences shows it.
enum class Equals : uint8_t { kLeaveA, kLeaveB };
// Which words of `a` are in one longest common subsequence with `b`: indices, ascending. Throws Error(kInput)
// above 2^28 cells.
std::vector<size_t> LcsIndices(std::span<const std::string> a, std::span<const std::string> b, Equals equals);

}  // namespace mneme::scores
