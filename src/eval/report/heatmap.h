// A table of shares as a picture: one cell per column and row, coloured from nothing to all, the share
// written in it, with a legend.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace mneme {

struct HeatMap {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<std::string> columns;
  std::vector<std::string> rows;
  // [rows][columns], 0..1; nothing: not measured. Missing ones count as not measured.
  std::vector<std::vector<std::optional<double>>> values;
};

// One <svg> element, `width` units wide and as high as its rows need. The colours are those
// of the page (svg.h): light, dark and paper. An empty map says "no data".
std::string RenderHeatMap(const HeatMap& map, double width);

}  // namespace mneme
