#include "eval/report/suite.h"

#include <fmt/core.h>

#include <set>
#include <string_view>

#include "base/units.h"
#include "eval/report/html.h"

namespace mneme {
namespace {

// What stands between the first `open` and the last `close`; empty if there is none.
std::string Between(const std::string& page, std::string_view open, std::string_view close) {
  const size_t begin = page.find(open);
  const size_t end = page.rfind(close);
  if (begin == std::string::npos || end == std::string::npos || end < begin + open.size()) return "";
  return page.substr(begin + open.size(), end - begin - open.size());
}

// Headings one level down: the page has a title of its own.
std::string Lower(std::string body) {
  for (int level = 3; level >= 1; --level) {
    for (const char* edge : {"<", "</"}) {
      const std::string from = fmt::format("{}h{}>", edge, level),
                        to = fmt::format("{}h{}>", edge, level + 1);
      for (size_t at = 0; (at = body.find(from, at)) != std::string::npos; at += to.size())
        body.replace(at, from.size(), to);
    }
  }
  return body;
}

}  // namespace

std::string SuiteHtml(const std::string& title, std::span<const SuitePart> parts) {
  HtmlPage page(title);
  std::vector<std::vector<std::string>> rows = {{"run", "time", "status"}};
  for (const SuitePart& part : parts)
    rows.push_back({part.name, part.seconds > 0 ? FormatSeconds(part.seconds) : "-", part.status});
  page.Table(rows);
  std::string text = page.Finish();
  std::string styles, body;
  std::set<std::string> known = {Between(text, "<style>", "</style>")};
  for (const SuitePart& part : parts) {
    if (part.html.empty()) {
      body += fmt::format("<h2>{}</h2>\n<pre><code>{}</code></pre>\n", EscapeHtml(part.name),
                          EscapeHtml(part.command));
      if (!part.text.empty()) body += fmt::format("<pre><code>{}</code></pre>\n", EscapeHtml(part.text));
      continue;
    }
    const std::string style = Between(part.html, "<style>", "</style>");
    if (!style.empty() && known.insert(style).second) styles += "<style>" + style + "</style>\n";
    body += Lower(Between(part.html, "<body>", "</body>"));
  }
  text.insert(text.rfind("</body>"), body);
  text.insert(text.find("</head>"), styles);
  return text;
}

}  // namespace mneme
