// The one place that writes SVG: elements with rounded numbers and escaped text, under the colours of the
// pages. Used by the plots (plot.h) and heat maps (heatmap.h).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mneme {

// Text for HTML and SVG: fit to be shown (base/text/utf8.h, line feeds and tabs stay), with &, <, >, " and '
// as entities.
std::string EscapeHtml(std::string_view text);

// The style sheet of pages and of pictures that stand alone: light, dark and paper; series colours are
// var(--s0) to var(--s7).
std::string_view ReportStyle();

enum class Anchor { kStart, kMiddle, kEnd };

// One <svg> element, `width` x `height` in its own units, filled from back to front.
class SvgWriter {
 public:
  SvgWriter(double width, double height, int font_size, std::string_view title);

  // `kind`: a class of the style sheet: "grid", "axis", "marker".
  void Line(std::string_view kind, double x1, double y1, double x2, double y2);
  // `fill`: a colour in place of ink; is_soft: the paler ink of what explains.
  void Text(double x, double y, std::string_view text, Anchor anchor = Anchor::kStart, bool is_soft = false,
            std::string_view fill = "");
  // `data` as <path> takes it, drawn as a line of a series.
  void Path(std::string_view data, size_t series);
  void Dot(double x, double y, size_t series);
  // A band in the colour of a series: `points` as <polygon> takes them.
  void Band(std::string_view points, size_t series);
  // `fill` empty: only a dashed edge.
  void Box(double x, double y, double width, double height, std::string_view fill);

  // For a page.
  std::string Finish() const;
  // The same as a file of its own, with its colours.
  std::string FinishAlone() const;

 private:
  std::string open_;
  std::string body_;
};

}  // namespace mneme
