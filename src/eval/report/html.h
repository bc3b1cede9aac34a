// Pages that carry a measurement: headings, paragraphs, line plots and tables in one HTML file that needs
// nothing from the network. Plots are inline SVG, drawn once for wide and once for narrow screens; colours
// follow the reader's light or dark setting and turn to ink on paper; lines also differ by dash, so that they
// can be told apart without colour. No scripts.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace mneme {

// A line: points (x[i], y[i]) in ascending x. Points that are not finite, or not positive on a logarithmic
// axis, break the line.
struct PlotSeries {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;
  std::vector<double> low;  // band around the line; empty: none, else as long as x
  std::vector<double> high;
};

// A vertical line with a word: the trained length, the window.
struct PlotMarker {
  double x = 0;
  std::string name;
};

struct Plot {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;
  bool log_y = false;
  std::vector<PlotSeries> series;
  std::vector<PlotMarker> markers;
  std::vector<double> y_shows;  // values that the axis covers whatever the lines do: {0, 1} for shares
};

// One <svg> element, width and height in its own units. Text in it is escaped. An empty plot says "no data".
std::string RenderSvg(const Plot& plot, double width, double height);
// The same as a file of its own, with its colours.
std::string StandaloneSvg(const Plot& plot, double width, double height);

// Text with &, <, >, " and ' as entities.
std::string EscapeHtml(std::string_view text);

// Ticks that people read, covering [low, high]: multiples of 1, 2 or 5 times a power of ten; on a logarithmic
// axis powers of ten, with 2 and 5 between where few powers fit. At least two. low < high, finite; > 0 if
// log.
std::vector<double> AxisTicks(double low, double high, bool log, size_t max_ticks);

// Collects the parts of a page in order.
class HtmlPage {
 public:
  explicit HtmlPage(std::string title);
  void Heading(std::string_view text);
  void Paragraph(std::string_view text);
  void Code(std::string_view text);
  void AddPlot(const Plot& plot);
  // A picture drawn twice, for wide and for narrow screens: <svg> elements, taken as they are.
  void AddFigure(std::string_view wide_svg, std::string_view narrow_svg, std::string_view caption);
  // The first row is the header; the first column is left-aligned. `caption` may be empty.
  void Table(const std::vector<std::vector<std::string>>& rows, std::string_view caption = "");
  // The whole document, UTF-8.
  std::string Finish() const;

 private:
  std::string title_;
  std::string body_;
};

}  // namespace mneme
