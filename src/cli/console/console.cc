#include "cli/console/console.h"

#include <fmt/core.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>

#include "base/error.h"
#include "base/files/file.h"
#include "base/text/utf8.h"
#include "cli/options.h"

namespace mneme::cli {
namespace {

// Columns on a terminal: bytes that continue a UTF-8 character take none.
size_t Width(std::string_view text) {
  size_t width = 0;
  for (const char byte : text) width += (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
  return width;
}

}  // namespace

OutputError::OutputError(int code)
    : Error(ErrorKind::kFile, fmt::format("standard output could not be written: {}", std::strerror(code))) {}

void WriteOut(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) throw OutputError(errno);
}

void WriteOutNow(std::string_view text) {
  WriteOut(text);
  if (std::fflush(stdout) != 0) throw OutputError(errno);
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  std::vector<std::vector<std::string>> shown = rows;
  for (auto& row : shown) {
    if (row.size() > widths.size()) widths.resize(row.size());
    for (std::string& cell : row) cell = Printable(cell);
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  for (const auto& row : shown) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - Width(row[i]), ' ');
      line += i == 0 ? row[i] + padding : "  " + padding + row[i];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

namespace {

// NAME-00001-of-00003.gguf without its number: the same for all parts of one model. Empty for other names.
std::string WithoutPart(const std::string& path) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (path.size() <= kPattern.size()) return "";
  const size_t start = path.size() - kPattern.size();
  for (size_t i = 0; i < kPattern.size(); ++i) {
    const char c = path[start + i];
    if (kPattern[i] == '0' ? c < '0' || c > '9' : c != kPattern[i]) return "";
  }
  std::error_code ignored;
  return std::filesystem::absolute(path.substr(0, start) + path.substr(start + 6), ignored).string();
}

}  // namespace

void CheckInputs(const std::vector<std::string>& files) {
  if (std::count(files.begin(), files.end(), "-") > 1) {
    FailUsage("-f -: standard input is named twice, and can be read once");
  }
}

void CheckOutputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs) {
  const auto is_same = [](const std::string& a, const std::string& b) {
    std::error_code ignored;
    return a == b || std::filesystem::equivalent(a, b, ignored);
  };
  // An input may be a folder: all that lies in it is read. Or the first of several parts, read with the
  // others.
  const auto is_read = [&](const std::string& path, const std::string& input) {
    std::error_code ignored;
    if (is_same(path, input)) return true;
    const std::string parts = WithoutPart(input);
    if (!parts.empty() && WithoutPart(path) == parts) return true;
    if (!std::filesystem::is_directory(input, ignored)) return false;
    const std::filesystem::path parent = std::filesystem::absolute(path, ignored).parent_path();
    return std::filesystem::exists(path, ignored) && std::filesystem::equivalent(parent, input, ignored);
  };
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::string& path = outputs[i];
    if (path.empty() || path == "-") continue;
    CheckWritable(path);
    // /dev/null may be named as often as one likes.
    if (std::filesystem::exists(path) && !std::filesystem::is_regular_file(path)) continue;
    for (const std::string& input : inputs) {
      if (!input.empty() && is_read(path, input))
        FailUsage(fmt::format("{}: is read, and would be written over", path));
    }
    for (size_t j = 0; j < i; ++j) {
      if (is_same(path, outputs[j])) FailUsage(fmt::format("{}: is named for two results", path));
    }
  }
}

std::string DescribeException(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return "the machine has no more memory; a smaller --memory cap leaves room";
  }
  return PrintableLines(error.what());
}

bool IsInterruption(const std::exception& error) {
  const auto* ours = dynamic_cast<const Error*>(&error);
  return ours != nullptr && ours->kind() == ErrorKind::kInterrupted;
}

void WriteReport(const std::string& path, std::string_view text) {
  if (path == "-") return WriteOut(text);
  AtomicFileWriter writer(path);
  writer.Write(text);
  writer.Commit();
}

void WriteReports(const std::vector<std::pair<std::string, std::string>>& reports) {
  std::exception_ptr first;
  for (const auto& [path, text] : reports) {
    try {
      if (!path.empty()) WriteReport(path, text);
    } catch (const Error&) {
      if (first == nullptr) first = std::current_exception();
    }
  }
  if (first != nullptr) std::rethrow_exception(first);
}

}  // namespace mneme::cli
