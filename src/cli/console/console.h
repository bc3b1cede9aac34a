// Standard output carries results, standard error everything else.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace mneme::cli {

// Standard output cannot be written: a closed pipe, a full disk. Nobody reads on, so a verb ends.
class OutputError : public Error {
 public:
  explicit OutputError(int code);  // errno
};

// To standard output. Throws OutputError.
void WriteOut(std::string_view text);
// The same, and at once.
void WriteOutNow(std::string_view text);

// Whole lines of text in columns: the first left-aligned, others right-aligned. Rows may be ragged. Cells are
// shown as Printable (base/text/utf8.h) gives them.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// Before work begins: throws Error(kFile) for an output file that could not be written, UsageError for two
// that are one, or one that is also an input. Empty names and "-" are no files.
void CheckOutputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs = {});

// Throws UsageError where standard input is named more than once among files: it is read once, and the second
// time there would be nothing, in silence.
void CheckInputs(const std::vector<std::string>& files);

// What a message says of an exception.
std::string DescribeException(const std::exception& error);
// Whether it says no more than that the user stopped the work.
bool IsInterruption(const std::exception& error);

// Writes a report file atomically; "-" is standard output.
void WriteReport(const std::string& path, std::string_view text);
// (path, text) each; an empty path leaves one out, "-" is standard output. One that fails does not keep the
// others from being written; then throws what the first threw.
void WriteReports(const std::vector<std::pair<std::string, std::string>>& reports);

}  // namespace mneme::cli
