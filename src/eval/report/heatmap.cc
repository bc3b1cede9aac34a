#include "eval/report/heatmap.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "eval/report/svg.h"

namespace mneme {
namespace {

// From red over a pale middle to blue: told apart without green, and by the number in the cell on grey paper.
struct Rgb {
  double r, g, b;
};
constexpr Rgb kNone = {178, 58, 30};
constexpr Rgb kHalf = {242, 226, 190};
constexpr Rgb kAll = {18, 92, 150};

Rgb Mix(const Rgb& a, const Rgb& b, double t) {
  return {a.r + (b.r - a.r) * t, a.g + (b.g - a.g) * t, a.b + (b.b - a.b) * t};
}

Rgb ColourOf(double share) {
  const double value = std::clamp(share, 0.0, 1.0);
  return value < 0.5 ? Mix(kNone, kHalf, value * 2) : Mix(kHalf, kAll, value * 2 - 1);
}

std::string Hex(const Rgb& c) {
  return fmt::format("#{:02x}{:02x}{:02x}", static_cast<int>(std::lround(c.r)),
                     static_cast<int>(std::lround(c.g)), static_cast<int>(std::lround(c.b)));
}

// Black or white, whichever is read better on the colour.
const char* InkOn(const Rgb& c) { return 0.299 * c.r + 0.587 * c.g + 0.114 * c.b > 140 ? "#000" : "#fff"; }

void AddCell(const std::optional<double>& value, double x, double y, double width, double height,
             SvgWriter* svg) {
  constexpr double kGap = 1.5;
  const double inner_width = width - kGap, inner_height = height - kGap;
  if (!value || !std::isfinite(*value)) return svg->Box(x, y, inner_width, inner_height, "");
  const Rgb colour = ColourOf(*value);
  svg->Box(x, y, inner_width, inner_height, Hex(colour));
  if (width >= 22) {
    svg->Text(x + inner_width / 2, y + inner_height / 2 + 4, fmt::format("{:.0f}", *value * 100),
              Anchor::kMiddle,
              /*is_soft=*/false, InkOn(colour));
  }
}

void AddLegend(double x, double y, double width, SvgWriter* svg) {
  constexpr int kSteps = 20;
  for (int i = 0; i < kSteps; ++i)
    svg->Box(x + width * i / kSteps, y, width / kSteps + 0.3, 12, Hex(ColourOf((i + 0.5) / kSteps)));
  for (const int percent : {0, 50, 100}) {
    svg->Text(x + width * percent / 100, y + 28, fmt::format("{}%", percent), Anchor::kMiddle,
              /*is_soft=*/true);
  }
}

}  // namespace

std::string RenderHeatMap(const HeatMap& map, double width) {
  constexpr double kLeft = 62, kTop = 24, kRowHeight = 28, kRight = 22;
  const double grid_height = kRowHeight * static_cast<double>(map.rows.size());
  const double height = kTop + grid_height + 104;
  SvgWriter svg(width, height, 12, map.title);
  if (map.rows.empty() || map.columns.empty()) {
    svg.Text(width / 2, height / 2, "no data", Anchor::kMiddle);
    return svg.Finish();
  }
  const double cell_width =
      std::min(90.0, (width - kLeft - kRight) / static_cast<double>(map.columns.size()));
  const double grid_width = cell_width * static_cast<double>(map.columns.size());
  svg.Text(4, 14, map.y_label);
  for (size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kTop + kRowHeight * static_cast<double>(row);
    svg.Text(kLeft - 6, y + kRowHeight / 2 + 4, map.rows[row], Anchor::kEnd, /*is_soft=*/true);
    for (size_t column = 0; column < map.columns.size(); ++column) {
      std::optional<double> value;
      if (row < map.values.size() && column < map.values[row].size()) value = map.values[row][column];
      AddCell(value, kLeft + cell_width * static_cast<double>(column), y, cell_width, kRowHeight, &svg);
    }
  }
  // Labels of columns: as many as do not touch.
  const size_t stride = static_cast<size_t>(std::ceil(44 / cell_width));
  for (size_t column = 0; column < map.columns.size(); column += stride) {
    svg.Text(kLeft + cell_width * (static_cast<double>(column) + 0.5), kTop + grid_height + 16,
             map.columns[column], Anchor::kMiddle, /*is_soft=*/true);
  }
  svg.Text(kLeft + grid_width / 2, kTop + grid_height + 36, map.x_label, Anchor::kMiddle);
  AddLegend(kLeft, kTop + grid_height + 54, std::min(220.0, width - kLeft - kRight), &svg);
  return svg.Finish();
}

}  // namespace mneme
