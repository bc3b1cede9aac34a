#include "eval/report/html.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace mneme {
namespace {

constexpr size_t kNumColours = 8;
constexpr std::array<const char*, 6> kDashes = {"", "7 4", "2 3", "9 3 2 3", "12 4", "4 2 1 2"};

// Series colours: Okabe and Ito's, which most colour-blind readers can tell apart; darkened or lightened for
// contrast.
constexpr const char* kStyle = R"(
:root{--paper:#fff;--ink:#1b1f24;--soft:#57606a;--grid:#d8dee4;--s0:#0062a3;--s1:#c24a00;--s2:#007a5a;--s3:#a83279;
--s4:#8a6a00;--s5:#2f86c4;--s6:#5b4bb3;--s7:#444}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e6e8eb;--soft:#9aa4ae;--grid:#343a40;--s0:#62b0ee;
--s1:#ff9a55;--s2:#3fc9a0;--s3:#ee8fc6;--s4:#e6c64c;--s5:#a0d4fa;--s6:#b3a6ff;--s7:#bbb}}
@media print{:root{--paper:#fff;--ink:#000;--soft:#333;--grid:#bbb;--s0:#0062a3;--s1:#c24a00;--s2:#007a5a;--s3:#a83279;
--s4:#8a6a00;--s5:#2f86c4;--s6:#5b4bb3;--s7:#444}figure,tr{break-inside:avoid}}
*{box-sizing:border-box}
body{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;
padding:1rem}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2rem}
figure{margin:1.5rem 0}figcaption{color:var(--soft);font-size:.9rem}
pre{overflow-x:auto;padding:.6rem;border:1px solid var(--grid);border-radius:4px;font-size:.85rem}
svg{display:block;width:100%;height:auto}svg text{fill:var(--ink);font-family:inherit}
svg .soft{fill:var(--soft)}svg .grid{stroke:var(--grid);stroke-width:1}svg .axis{stroke:var(--soft);stroke-width:1}
svg .marker{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}
.narrow{display:none}
@media (max-width:36rem){.wide{display:none}.narrow{display:block}}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
)";

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

std::string SeriesStroke(size_t index) {
  const char* dash = kDashes[index % kDashes.size()];
  return fmt::format("fill=\"none\" stroke=\"var(--s{})\" stroke-width=\"2\" stroke-linejoin=\"round\"{}",
                     index % kNumColours, *dash == '\0' ? "" : fmt::format(" stroke-dasharray=\"{}\"", dash));
}

std::string Band(const PlotSeries& series, size_t index, const Axis& x, const Axis& y) {
  std::string upper, lower;
  if (series.low.size() != series.x.size() || series.high.size() != series.x.size()) return "";
  for (size_t i = 0; i < series.x.size(); ++i) {
    if (!x.Takes(series.x[i]) || !y.Takes(series.low[i]) || !y.Takes(series.high[i])) continue;
    upper += fmt::format("{:.1f},{:.1f} ", x.Place(series.x[i]), y.Place(series.high[i]));
    lower = fmt::format("{:.1f},{:.1f} ", x.Place(series.x[i]), y.Place(series.low[i])) + lower;
  }
  if (upper.empty()) return "";
  return fmt::format("<polygon points=\"{}{}\" fill=\"var(--s{})\" opacity=\"0.18\"/>\n", upper, lower,
                     index % kNumColours);
}

std::string Line(const PlotSeries& series, size_t index, const Axis& x, const Axis& y) {
  std::string path;
  bool pen_down = false;
  size_t num_points = 0;
  std::string last_point;
  for (size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
    if (!x.Takes(series.x[i]) || !y.Takes(series.y[i])) {
      pen_down = false;
      continue;
    }
    const double px = x.Place(series.x[i]), py = y.Place(series.y[i]);
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", px, py);
    last_point = fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"var(--s{})\"/>\n", px, py,
                             index % kNumColours);
    pen_down = true;
    ++num_points;
  }
  if (num_points == 0) return "";
  return fmt::format("<path d=\"{}\" {}/>\n{}", path, SeriesStroke(index), num_points == 1 ? last_point : "");
}

// Grid, tick labels and axis names.
std::string Frame(const Plot& plot, const Axis& x, const Axis& y, double width, double height) {
  std::string svg;
  for (const double tick : y.ticks) {
    const double py = y.Place(tick);
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"soft\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        x.start, py, x.end, py, x.start - 6, py + 4, TickLabel(tick));
  }
  for (const double tick : x.ticks) {
    const double px = x.Place(tick);
    svg += fmt::format(
        "<line class=\"axis\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"soft\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
        px, y.start, px, y.start + 5, px, y.start + 19, TickLabel(tick));
  }
  svg += fmt::format("<line class=\"axis\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                     x.start, y.start, x.end, y.start);
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                     (x.start + x.end) / 2, height - 6, EscapeHtml(plot.x_label));
  svg += fmt::format("<text x=\"{:.1f}\" y=\"14\">{}</text>\n", width > 500 ? 8.0 : 4.0,
                     EscapeHtml(plot.y_label));
  return svg;
}

std::string Markers(const Plot& plot, const Axis& x, const Axis& y) {
  std::string svg;
  for (const PlotMarker& marker : plot.markers) {
    if (!x.Takes(marker.x) || x.Unit(marker.x) < x.low || x.Unit(marker.x) > x.high) continue;
    const double px = x.Place(marker.x);
    const bool to_left = px > (x.start + x.end) / 2;
    svg += fmt::format(
        "<line class=\"marker\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"soft\" x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"{5}\">{6}</text>\n",
        px, y.start, y.end, px + (to_left ? -5 : 5), y.end + 12, to_left ? "end" : "start",
        EscapeHtml(marker.name));
  }
  return svg;
}

std::string Legend(const Plot& plot, double left, double top, double row_height) {
  std::string svg;
  for (size_t i = 0; i < plot.series.size(); ++i) {
    const double py = top + row_height * static_cast<double>(i);
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}h30\" {}/><text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", left,
                       py - 4, SeriesStroke(i), left + 38, py, EscapeHtml(plot.series[i].name));
  }
  return svg;
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::vector<double> AxisTicks(double low, double high, bool log, size_t max_ticks) {
  std::vector<double> ticks;
  if (log) {
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
    ticks = AxisTicks(low, high, false, max_ticks);
    std::erase_if(ticks, [](double tick) { return !(tick > 0); });
    return ticks.size() >= 2 ? ticks : std::vector<double>{low, high};
  }
  const double raw = (high - low) / static_cast<double>(std::max<size_t>(max_ticks, 2));
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = power * 10;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * 0.999) {
      step = factor * power;
      break;
    }
  }
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    ticks.push_back(i * step + 0.0);  // no negative zero
  return ticks.size() >= 2 ? ticks : std::vector<double>{low, high};
}

std::string RenderSvg(const Plot& plot, double width, double height) {
  constexpr double kRowHeight = 18;
  const double legend_height = kRowHeight * static_cast<double>(plot.series.size()) + 8;
  const double total_height = height + legend_height;
  std::vector<double> xs, ys;
  for (const PlotSeries& series : plot.series) {
    for (size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
      if (plot.log_x && !(series.x[i] > 0)) continue;
      xs.push_back(series.x[i]);
      ys.push_back(series.y[i]);
    }
  }
  std::string svg = fmt::format(
      "<svg viewBox=\"0 0 {:.0f} {:.0f}\" font-size=\"13\" role=\"img\" "
      "aria-label=\"{}\">\n<title>{}</title>\n",
      width, total_height, EscapeHtml(plot.title), EscapeHtml(plot.title));
  if (xs.empty()) {
    return svg + fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">no data</text></svg>\n",
                             width / 2, height / 2);
  }
  ys.insert(ys.end(), plot.y_shows.begin(), plot.y_shows.end());
  const bool is_wide = width > 500;
  const Axis x = MakeAxis(plot.log_x, xs, 52, width - 16, is_wide ? 8 : 4);
  const Axis y = MakeAxis(plot.log_y, ys, height - 44, 26, is_wide ? 7 : 5);
  svg += Frame(plot, x, y, width, height);
  svg += Markers(plot, x, y);
  for (size_t i = 0; i < plot.series.size(); ++i) svg += Band(plot.series[i], i, x, y);
  for (size_t i = 0; i < plot.series.size(); ++i) svg += Line(plot.series[i], i, x, y);
  svg += Legend(plot, 52, height + kRowHeight, kRowHeight);
  return svg + "</svg>\n";
}

std::string StandaloneSvg(const Plot& plot, double width, double height) {
  constexpr std::string_view kOpen = "<svg ";
  const std::string svg = RenderSvg(plot, width, height);
  const size_t content = svg.find('>') + 1;
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" {}<style>{}svg "
      "text{{font-family:system-ui,sans-serif}}</style>\n"
      "<rect width=\"100%\" height=\"100%\" style=\"fill:var(--paper)\"/>{}",
      svg.substr(kOpen.size(), content - kOpen.size()), kStyle, svg.substr(content));
}

HtmlPage::HtmlPage(std::string title) : title_(std::move(title)) {}

void HtmlPage::Heading(std::string_view text) { body_ += fmt::format("<h2>{}</h2>\n", EscapeHtml(text)); }
void HtmlPage::Paragraph(std::string_view text) { body_ += fmt::format("<p>{}</p>\n", EscapeHtml(text)); }
void HtmlPage::Code(std::string_view text) {
  body_ += fmt::format("<pre><code>{}</code></pre>\n", EscapeHtml(text));
}

void HtmlPage::AddPlot(const Plot& plot) {
  AddFigure(RenderSvg(plot, 860, 400), RenderSvg(plot, 360, 300), plot.title);
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

std::string HtmlPage::Finish() const {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light "
      "dark\">\n<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n"
      "<h1>{0}</h1>\n{2}</body>\n</html>\n",
      EscapeHtml(title_), kStyle, body_);
}

}  // namespace mneme
