#include "eval/report/svg.h"

#include <fmt/core.h>

#include <array>

#include "base/text/utf8.h"

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

std::string_view AnchorName(Anchor anchor) {
  return anchor == Anchor::kMiddle ? "middle" : anchor == Anchor::kEnd ? "end" : "start";
}

}  // namespace

std::string_view ReportStyle() { return kStyle; }

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : PrintableLines(text)) {
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

SvgWriter::SvgWriter(double width, double height, int font_size, std::string_view title)
    : open_(fmt::format("viewBox=\"0 0 {:.0f} {:.0f}\" font-size=\"{}\" role=\"img\" aria-label=\"{}\">\n",
                        width, height, font_size, EscapeHtml(title))),
      body_(fmt::format("<title>{}</title>\n", EscapeHtml(title))) {}

void SvgWriter::Line(std::string_view kind, double x1, double y1, double x2, double y2) {
  body_ += fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kind,
                       x1, y1, x2, y2);
}

void SvgWriter::Text(double x, double y, std::string_view text, Anchor anchor, bool is_soft,
                     std::string_view fill) {
  // The fill as `style` and not as an attribute, since the page gives all text of pictures its ink.
  body_ +=
      fmt::format("<text{} x=\"{:.1f}\" y=\"{:.1f}\"{}{}>{}</text>\n", is_soft ? " class=\"soft\"" : "", x, y,
                  anchor == Anchor::kStart ? "" : fmt::format(" text-anchor=\"{}\"", AnchorName(anchor)),
                  fill.empty() ? "" : fmt::format(" style=\"fill:{}\"", fill), EscapeHtml(text));
}

void SvgWriter::Path(std::string_view data, size_t series) {
  const std::string_view dash = kDashes[series % kDashes.size()];
  body_ += fmt::format(
      "<path d=\"{}\" fill=\"none\" stroke=\"var(--s{})\" stroke-width=\"2\" stroke-linejoin=\"round\"{}/>\n",
      data, series % kNumColours, dash.empty() ? "" : fmt::format(" stroke-dasharray=\"{}\"", dash));
}

void SvgWriter::Dot(double x, double y, size_t series) {
  body_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"var(--s{})\"/>\n", x, y,
                       series % kNumColours);
}

void SvgWriter::Band(std::string_view points, size_t series) {
  body_ += fmt::format("<polygon points=\"{}\" fill=\"var(--s{})\" opacity=\"0.18\"/>\n", points,
                       series % kNumColours);
}

void SvgWriter::Box(double x, double y, double width, double height, std::string_view fill) {
  body_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" {}/>\n", x, y,
                       width, height,
                       fill.empty() ? "fill=\"none\" stroke=\"var(--grid)\" stroke-dasharray=\"3 3\""
                                    : fmt::format("fill=\"{}\"", fill));
}

std::string SvgWriter::Finish() const { return fmt::format("<svg {}{}</svg>\n", open_, body_); }

std::string SvgWriter::FinishAlone() const {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" {}<style>{}svg "
      "text{{font-family:system-ui,sans-serif}}</style>\n"
      "<rect width=\"100%\" height=\"100%\" style=\"fill:var(--paper)\"/>\n{}</svg>\n",
      open_, kStyle, body_);
}

}  // namespace mneme
