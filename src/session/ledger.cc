#include "mneme/ledger.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/text/units.h"

namespace mneme {

std::vector<LedgerRange> MergeLedger(std::span<const LedgerRange> ranges) {
  std::vector<LedgerRange> merged;
  for (const LedgerRange& range : ranges) {
    if (range.begin >= range.end) continue;
    if (!merged.empty() && merged.back().fate == range.fate && merged.back().end == range.begin) {
      merged.back().end = range.end;
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

std::vector<LedgerTotal> LedgerTotals(std::span<const LedgerRange> ranges) {
  constexpr size_t kNumFates = static_cast<size_t>(TokenFate::kDamaged) + 1;
  int64_t counts[kNumFates] = {};
  for (const LedgerRange& range : ranges) counts[static_cast<size_t>(range.fate)] += range.end - range.begin;
  std::vector<LedgerTotal> totals;
  for (size_t i = 0; i < kNumFates; ++i) {
    if (counts[i] > 0) totals.push_back({static_cast<TokenFate>(i), counts[i]});
  }
  return totals;
}

std::string LedgerText(std::span<const LedgerRange> ranges, size_t max_ranges) {
  const std::vector<LedgerRange> merged = MergeLedger(ranges);
  if (merged.empty()) return "no tokens";
  std::string text = "tokens ";
  for (size_t i = 0; i < merged.size(); ++i) {
    if (i > 0) text += "; ";
    if (i == max_ranges) {
      text += fmt::format("and {} more ranges with", FormatCount(static_cast<int64_t>(merged.size() - i)));
      const char* separator = " ";
      for (const LedgerTotal& total : LedgerTotals(std::span(merged).subspan(i))) {
        text += fmt::format("{}{} {}", separator, FormatCount(total.num_tokens), TokenFateName(total.fate));
        separator = ", ";
      }
      break;
    }
    const LedgerRange& range = merged[i];
    text += FormatCount(range.begin);
    if (range.end - range.begin > 1) text += "-" + FormatCount(range.end - 1);
    text += fmt::format(": {}", TokenFateName(range.fate));
  }
  return text;
}

std::string LedgerJson(std::span<const LedgerRange> ranges) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const LedgerRange& range : MergeLedger(ranges)) {
    json.push_back({{"begin", range.begin}, {"end", range.end}, {"fate", TokenFateName(range.fate)}});
  }
  return json.dump();
}

}  // namespace mneme
