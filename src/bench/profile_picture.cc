#include "bench/profile_picture.h"

#include <fmt/core.h>

#include <algorithm>

#include "eval/report/svg.h"

namespace mneme {
namespace {

constexpr double kWidth = 640;
constexpr double kBarLeft = 124, kBarRight = 430;
constexpr double kRowHeight = 22, kBarHeight = 14;
constexpr double kPanelHead = 34, kPictureHead = 26, kLegend = 40;
constexpr size_t kMeasured = 1, kNeeded = 0;  // series whose colours bars have

double PanelHeight(const ProfilePanel& panel) {
  return kPanelHead + kRowHeight * static_cast<double>(panel.rows.size() - 1);
}

// What the operation takes where nothing but the machine's limits holds it up.
double NeededSeconds(const ProfileRow& row, const MachineFloor* floor) {
  if (floor == nullptr) return row.seconds;
  double seconds = 0;
  if (floor->bytes_per_second > 0) seconds = row.bytes / floor->bytes_per_second;
  const double rate = row.op == "attention" ? floor->float_flops_per_second : floor->flops_per_second;
  if (rate > 0) seconds = std::max(seconds, row.flops / rate);
  return std::min(seconds, row.seconds);
}

// Bytes or operations per second, whichever the operation spends its time on.
std::string Rate(const ProfileRow& row, const MachineFloor* floor) {
  const double bytes_seconds =
      floor != nullptr && floor->bytes_per_second > 0 ? row.bytes / floor->bytes_per_second : 0;
  if (floor != nullptr && NeededSeconds(row, floor) > bytes_seconds) {
    return fmt::format(", {:.0f} GFLOP/s", row.flops / row.seconds / 1e9);
  }
  return fmt::format(", {:.1f} GB/s", row.bytes / row.seconds / 1e9);
}

std::string Colour(size_t series) { return fmt::format("var(--s{})", series); }

void AddPanel(const ProfilePanel& panel, const MachineFloor* floor, double top, SvgWriter* svg) {
  const ProfileRow& whole = panel.rows.back();
  double longest = 0, needed = 0;
  for (const ProfileRow& row : panel.rows) {
    if (&row == &whole) continue;
    longest = std::max(longest, row.seconds);
    needed += NeededSeconds(row, floor);
  }
  std::string head = fmt::format("{}: {:.2f} ms", panel.name, whole.seconds * 1e3);
  if (floor != nullptr && whole.seconds > 0) {
    head += fmt::format(", of which {:.0f}% are its bytes and products at the machine's limits",
                        100 * needed / whole.seconds);
  }
  svg->Text(4, top + 18, head);
  double y = top + kPanelHead;
  for (const ProfileRow& row : panel.rows) {
    if (&row == &whole) continue;
    const double scale = longest > 0 ? (kBarRight - kBarLeft) / longest : 0;
    svg->Text(kBarLeft - 8, y + 11, row.op, Anchor::kEnd);
    svg->Box(kBarLeft, y, std::max(0.5, row.seconds * scale), kBarHeight, Colour(kMeasured));
    const double needed_width = NeededSeconds(row, floor) * scale;
    if (needed_width > 0) svg->Box(kBarLeft, y, needed_width, kBarHeight, Colour(kNeeded));
    std::string text = fmt::format("{:.3f} ms, {:.1f}%", row.seconds * 1e3,
                                   whole.seconds > 0 ? 100 * row.seconds / whole.seconds : 0);
    if (row.bytes > 0 && row.seconds > 0) text += Rate(row, floor);
    svg->Text(kBarLeft + row.seconds * scale + 6, y + 11, text, Anchor::kStart, /*is_soft=*/true);
    y += kRowHeight;
  }
}

}  // namespace

std::string ProfilePicture(const std::string& title, std::span<const ProfilePanel> panels,
                           const MachineFloor* floor) {
  double height = kPictureHead + (floor != nullptr ? kLegend : 8);
  for (const ProfilePanel& panel : panels) height += PanelHeight(panel);
  SvgWriter svg(kWidth, height, 12, title);
  svg.Text(4, 16, title);
  double top = kPictureHead;
  for (const ProfilePanel& panel : panels) {
    AddPanel(panel, floor, top, &svg);
    top += PanelHeight(panel);
  }
  if (floor != nullptr) {
    svg.Box(4, top + 14, 12, 12, Colour(kNeeded));
    svg.Text(22, top + 24, "reading its bytes and multiplying, at the machine's limits");
    svg.Box(400, top + 14, 12, 12, Colour(kMeasured));
    svg.Text(418, top + 24, "the rest of its time");
  }
  return svg.FinishAlone();
}

}  // namespace mneme
