#include "cli/console.h"

#include <fmt/core.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"

namespace mneme::cli {
namespace {

// Columns on a terminal: bytes that continue a UTF-8 character take none.
size_t Width(std::string_view text) {
  size_t width = 0;
  for (const char byte : text) width += (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
  return width;
}

}  // namespace

void WriteOut(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    Fail(ErrorKind::kFile, "standard output could not be written: {}", std::strerror(errno));
  }
}

void WriteOutNow(std::string_view text) {
  WriteOut(text);
  if (std::fflush(stdout) != 0) {
    Fail(ErrorKind::kFile, "standard output could not be written: {}", std::strerror(errno));
  }
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

void WriteReport(const std::string& path, std::string_view text) {
  if (path == "-") return WriteOut(text);
  AtomicFileWriter writer(path);
  writer.Write(text);
  writer.Commit();
}

}  // namespace mneme::cli
