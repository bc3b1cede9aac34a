#include "eval/report/html.h"

#include <fmt/core.h>

#include <utility>

#include "eval/report/svg.h"

namespace mneme {
namespace {

// What stands between the first `open` and the last `close`; empty if there is none.
std::string Between(std::string_view page, std::string_view open, std::string_view close) {
  const size_t begin = page.find(open);
  const size_t end = page.rfind(close);
  if (begin == std::string_view::npos || end == std::string_view::npos || end < begin + open.size())
    return "";
  return std::string(page.substr(begin + open.size(), end - begin - open.size()));
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

HtmlPage::HtmlPage(std::string title) : title_(std::move(title)) {}

void HtmlPage::Heading(std::string_view text) { body_ += fmt::format("<h2>{}</h2>\n", EscapeHtml(text)); }
void HtmlPage::Paragraph(std::string_view text) { body_ += fmt::format("<p>{}</p>\n", EscapeHtml(text)); }
void HtmlPage::Code(std::string_view text) {
  body_ += fmt::format("<pre><code>{}</code></pre>\n", EscapeHtml(text));
}

void HtmlPage::AddPlot(const Plot& plot) {
  AddFigure(RenderPlot(plot, 860, 400), RenderPlot(plot, 360, 300), plot.title);
}

void HtmlPage::AddHeatMap(const HeatMap& map, std::string_view caption) {
  AddFigure(RenderHeatMap(map, 860), RenderHeatMap(map, 360), caption);
}

void HtmlPage::AddFigure(std::string_view wide_svg, std::string_view narrow_svg, std::string_view caption) {
  body_ += fmt::format(
      "<figure>\n<div class=\"wide\">{}</div>\n<div "
      "class=\"narrow\">{}</div>\n<figcaption>{}</figcaption>\n</figure>\n",
      wide_svg, narrow_svg, EscapeHtml(caption));
}

void HtmlPage::Table(const std::vector<std::vector<std::string>>& rows, std::string_view caption) {
  body_ += "<div class=\"scroll\"><table>\n";
  if (!caption.empty()) body_ += fmt::format("<caption>{}</caption>\n", EscapeHtml(caption));
  for (size_t i = 0; i < rows.size(); ++i) {
    const char* cell = i == 0 ? "th scope=\"col\"" : "td";
    const char* end = i == 0 ? "th" : "td";
    body_ += "<tr>";
    for (const std::string& text : rows[i]) body_ += fmt::format("<{}>{}</{}>", cell, EscapeHtml(text), end);
    body_ += "</tr>\n";
  }
  body_ += "</table></div>\n";
}

void HtmlPage::AddPage(std::string_view page) {
  const std::string style = Between(page, "<style>", "</style>");
  if (!style.empty() && style != ReportStyle()) styles_.insert(style);
  body_ += Lower(Between(page, "<body>", "</body>"));
}

std::string HtmlPage::Finish() const {
  std::string styles = fmt::format("<style>{}</style>\n", ReportStyle());
  for (const std::string& style : styles_) styles += fmt::format("<style>{}</style>\n", style);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>{0}</title>\n{1}</head>\n<body>\n"
      "<h1>{0}</h1>\n{2}</body>\n</html>\n",
      EscapeHtml(title_), styles, body_);
}

}  // namespace mneme
