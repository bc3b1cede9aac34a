// Standard output carries results, standard error everything else.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mneme::cli {

// To standard output. Throws Error(kFile) if it cannot be written (a closed pipe, a full disk).
void WriteOut(std::string_view text);
// The same, and at once.
void WriteOutNow(std::string_view text);

// Whole lines of text in columns: the first left-aligned, others right-aligned. Rows may be ragged. Cells are shown as
// Printable (base/utf8.h) gives them.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// Writes a report file atomically; "-" is standard output.
void WriteReport(const std::string& path, std::string_view text);

}  // namespace mneme::cli
