#include "eval/report/plot.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "eval/report/svg.h"

namespace mneme {
namespace {

struct Axis {
  bool log = false;
  double low = 0;  // in axis units: log10 of the value if log
  double high = 1;
  double start = 0;  // in picture units
  double end = 1;
  std::vector<double> ticks;

  bool Takes(double value) const { return std::isfinite(value) && (!log || value > 0); }
  double Unit(double value) const { return log ? std::log10(value) : value; }
  double Place(double value) const {
    const double share = std::clamp((Unit(value) - low) / (high - low), 0.0, 1.0);
    return start + share * (end - start);
  }
};

// Values as people write them on an axis: 1.2M, 30K, 512, 0.25.
std::string TickLabel(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:g}K", value / 1e3);
  return fmt::format("{:g}", value);
}

Axis MakeAxis(bool log, const std::vector<double>& values, double start, double end, size_t max_ticks) {
  Axis axis;
  axis.log = log;
  axis.start = start;
  axis.end = end;
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const double value : values) {
    if (!axis.Takes(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  if (!(low <= high)) low = log ? 1 : 0, high = log ? 10 : 1;
  if (low == high) {
    const double room = low == 0 ? 1 : std::abs(low) * 0.1;
    low = log ? low / 1.5 : low - room;
    high = log ? high * 1.5 : high + room;
  }
  axis.ticks = AxisTicks(low, high, log, max_ticks);
  axis.low = std::min(axis.Unit(low), axis.Unit(axis.ticks.front()));
  axis.high = std::max(axis.Unit(high), axis.Unit(axis.ticks.back()));
  return axis;
}

bool IsWide(double width) { return width > 500; }

void AddBand(const PlotSeries& series, size_t index, const Axis& x, const Axis& y, SvgWriter* svg) {
  std::string upper, lower;
  if (series.low.size() != series.x.size() || series.high.size() != series.x.size()) return;
  for (size_t i = 0; i < series.x.size(); ++i) {
    if (!x.Takes(series.x[i]) || !y.Takes(series.low[i]) || !y.Takes(series.high[i])) continue;
    upper += fmt::format("{:.1f},{:.1f} ", x.Place(series.x[i]), y.Place(series.high[i]));
    lower = fmt::format("{:.1f},{:.1f} ", x.Place(series.x[i]), y.Place(series.low[i])) + lower;
  }
  if (!upper.empty()) svg->Band(upper + lower, index);
}

void AddLine(const PlotSeries& series, size_t index, const Axis& x, const Axis& y, SvgWriter* svg) {
  std::string path;
  bool pen_down = false;
  size_t num_points = 0;
  double px = 0, py = 0;
  for (size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
    if (!x.Takes(series.x[i]) || !y.Takes(series.y[i])) {
      pen_down = false;
      continue;
    }
    px = x.Place(series.x[i]);
    py = y.Place(series.y[i]);
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", px, py);
    pen_down = true;
    ++num_points;
  }
  if (num_points > 0) svg->Path(path, index);
  if (num_points == 1) svg->Dot(px, py, index);
}

// Grid, tick labels and axis names.
void AddFrame(const Plot& plot, const Axis& x, const Axis& y, double width, double height, SvgWriter* svg) {
  for (const double tick : y.ticks) {
    const double py = y.Place(tick);
    svg->Line("grid", x.start, py, x.end, py);
    svg->Text(x.start - 6, py + 4, TickLabel(tick), Anchor::kEnd, /*is_soft=*/true);
  }
  for (const double tick : x.ticks) {
    const double px = x.Place(tick);
    svg->Line("axis", px, y.start, px, y.start + 5);
    svg->Text(px, y.start + 19, TickLabel(tick), Anchor::kMiddle, /*is_soft=*/true);
  }
  svg->Line("axis", x.start, y.start, x.end, y.start);
  svg->Text((x.start + x.end) / 2, height - 6, plot.x_label, Anchor::kMiddle);
  svg->Text(IsWide(width) ? 8.0 : 4.0, 14, plot.y_label);
}

void AddMarkers(const Plot& plot, const Axis& x, const Axis& y, SvgWriter* svg) {
  for (const PlotMarker& marker : plot.markers) {
    if (!x.Takes(marker.x) || x.Unit(marker.x) < x.low || x.Unit(marker.x) > x.high) continue;
    const double px = x.Place(marker.x);
    const bool to_left = px > (x.start + x.end) / 2;
    svg->Line("marker", px, y.start, px, y.end);
    svg->Text(px + (to_left ? -5 : 5), y.end + 12, marker.name, to_left ? Anchor::kEnd : Anchor::kStart,
              /*is_soft=*/true);
  }
}

void AddLegend(const Plot& plot, double left, double top, double row_height, SvgWriter* svg) {
  for (size_t i = 0; i < plot.series.size(); ++i) {
    const double py = top + row_height * static_cast<double>(i);
    svg->Path(fmt::format("M{:.1f} {:.1f}h30", left, py - 4), i);
    svg->Text(left + 38, py, plot.series[i].name);
  }
}

// Steps of 1, 2 or 5 times a power of ten; both ends if fewer than two lie between.
std::vector<double> EvenTicks(double low, double high, size_t max_ticks) {
  const double raw = (high - low) / static_cast<double>(std::max<size_t>(max_ticks, 2));
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = power * 10;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * 0.999) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    ticks.push_back(i * step + 0.0);  // no negative zero
  return ticks.size() >= 2 ? ticks : std::vector<double>{low, high};
}

std::vector<double> LogTicks(double low, double high, size_t max_ticks) {
  std::vector<double> ticks;
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9));
  const int last = static_cast<int>(std::ceil(std::log10(high) - 1e-9));
  const bool between = last - first <= 2;
  // Powers inside the range, so that a stride does not step over all of them.
  const int inside = between || std::pow(10.0, first) >= low * 0.999 ? first : first + 1;
  const int most = static_cast<int>(std::max<size_t>(max_ticks, 2));
  const int num_powers = static_cast<int>(std::floor(std::log10(high * 1.001))) - inside + 1;
  const int stride = between ? 1 : std::max(1, (num_powers + most - 1) / most);
  for (int power = inside; power <= last; power += stride) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10.0, power);
      if (factor != 1.0 && !between) break;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push_back(tick);
    }
  }
  if (ticks.size() >= (between ? 3 : 2)) return ticks;
  // Within one decade: even steps.
  ticks = EvenTicks(low, high, max_ticks);
  std::erase_if(ticks, [](double tick) { return !(tick > 0); });
  return ticks.size() >= 2 ? ticks : std::vector<double>{low, high};
}

SvgWriter Draw(const Plot& plot, double width, double height) {
  constexpr double kRowHeight = 18;
  const double legend_height = kRowHeight * static_cast<double>(plot.series.size()) + 8;
  std::vector<double> xs, ys;
  for (const PlotSeries& series : plot.series) {
    for (size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
      if (plot.log_x && !(series.x[i] > 0)) continue;
      xs.push_back(series.x[i]);
      ys.push_back(series.y[i]);
    }
  }
  SvgWriter svg(width, height + legend_height, 13, plot.title);
  if (xs.empty()) {
    svg.Text(width / 2, height / 2, "no data", Anchor::kMiddle);
    return svg;
  }
  ys.insert(ys.end(), plot.y_shows.begin(), plot.y_shows.end());
  const Axis x = MakeAxis(plot.log_x, xs, 52, width - 16, IsWide(width) ? 8 : 4);
  const Axis y = MakeAxis(plot.log_y, ys, height - 44, 26, IsWide(width) ? 7 : 5);
  AddFrame(plot, x, y, width, height, &svg);
  AddMarkers(plot, x, y, &svg);
  for (size_t i = 0; i < plot.series.size(); ++i) AddBand(plot.series[i], i, x, y, &svg);
  for (size_t i = 0; i < plot.series.size(); ++i) AddLine(plot.series[i], i, x, y, &svg);
  AddLegend(plot, 52, height + kRowHeight, kRowHeight, &svg);
  return svg;
}

}  // namespace

std::vector<double> AxisTicks(double low, double high, bool log, size_t max_ticks) {
  return log ? LogTicks(low, high, max_ticks) : EvenTicks(low, high, max_ticks);
}

std::string RenderPlot(const Plot& plot, double width, double height) {
  return Draw(plot, width, height).Finish();
}

std::string StandaloneSvg(const Plot& plot, double width, double height) {
  return Draw(plot, width, height).FinishAlone();
}

}  // namespace mneme
