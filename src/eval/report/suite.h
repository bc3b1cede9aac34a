// One page of several: the reports of the runs of a suite, one after the other.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace mneme {

struct SuitePart {
  std::string name;
  std::string command;
  std::string status;  // "done", "failed: ...", "not run"
  double seconds = 0;
  std::string html;  // a page of HtmlPage::Finish; empty: none
  std::string text;  // what the run printed; shown where there is no page
};

// A page with a table of the runs and the body of each page below it. Styles that pages share stand once. It
// needs nothing from the network if the parts do not.
std::string SuiteHtml(const std::string& title, std::span<const SuitePart> parts);

}  // namespace mneme
