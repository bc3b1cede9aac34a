// The one place that writes pages: headings, paragraphs, pictures and tables in one HTML file that needs
// nothing from the network. Pictures are inline SVG, drawn once for wide and once for narrow screens; colours
// follow the reader's light or dark setting and turn to ink on paper. No scripts. All text is escaped
// (svg.h); none of it is taken as markup.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "eval/report/heatmap.h"
#include "eval/report/plot.h"

namespace mneme {

// Collects the parts of a page in order.
class HtmlPage {
 public:
  explicit HtmlPage(std::string title);
  void Heading(std::string_view text);
  void Paragraph(std::string_view text);
  void Code(std::string_view text);
  void AddPlot(const Plot& plot);
  void AddHeatMap(const HeatMap& map, std::string_view caption);
  // The first row is the header; the first column is left-aligned. `caption` may be empty.
  void Table(const std::vector<std::vector<std::string>>& rows, std::string_view caption = "");
  // The body of a page that Finish gave, its headings one level down; a style of its own (another version's)
  // comes along. Nothing is checked: only for pages of this program.
  void AddPage(std::string_view page);
  // The whole document, UTF-8.
  std::string Finish() const;

 private:
  void AddFigure(std::string_view wide_svg, std::string_view narrow_svg, std::string_view caption);

  std::string title_;
  std::string body_;
  std::set<std::string> styles_;  // of added pages, beside ours
};

}  // namespace mneme
