// Line plots as inline SVG. Lines differ by colour and by dash, so that they can be told apart without
// colour.
#pragma once

#include <cstddef>
#include <string>
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

// One <svg> element, width and height in its own units. An empty plot says "no data".
std::string RenderPlot(const Plot& plot, double width, double height);
// The same as a file of its own, with its colours.
std::string StandaloneSvg(const Plot& plot, double width, double height);

// Ticks that people read, covering [low, high]: multiples of 1, 2 or 5 times a power of ten; on a logarithmic
// axis powers of ten, with 2 and 5 between where few powers fit. At least two. low < high, finite; > 0 if
// log.
std::vector<double> AxisTicks(double low, double high, bool log, size_t max_ticks);

}  // namespace mneme
