#include "eval/report/suite.h"

#include "base/text/units.h"
#include "eval/report/html.h"

namespace mneme {

std::string SuiteHtml(const std::string& title, std::span<const SuitePart> parts) {
  HtmlPage page(title);
  std::vector<std::vector<std::string>> rows = {{"run", "time", "status"}};
  for (const SuitePart& part : parts)
    rows.push_back({part.name, part.seconds > 0 ? FormatSeconds(part.seconds) : "-", part.status});
  page.Table(rows);
  for (const SuitePart& part : parts) {
    if (!part.html.empty()) {
      page.AddPage(part.html);
      continue;
    }
    page.Heading(part.name);
    page.Code(part.command);
    if (!part.text.empty()) page.Code(part.text);
  }
  return page.Finish();
}

}  // namespace mneme
