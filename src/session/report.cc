#include "mneme/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text/units.h"
#include "base/text/utf8.h"
#include "mneme/ledger.h"
#include "mneme/system.h"
#include "session/fields.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

Json SpeedJson(const SpeedLog& log) {
  Json json = {{"tokens", log.num_tokens()},
               {"seconds", log.busy_seconds()},
               {"tokens_per_second", log.tokens_per_second()}};
  const Flatness flatness = log.flatness();
  if (flatness.last_tokens_per_second > 0) {
    json["first_tenth_tokens_per_second"] = flatness.first_tokens_per_second;
    json["last_tenth_tokens_per_second"] = flatness.last_tokens_per_second;
  }
  return json;
}

// The log that saw more tokens tells how memory developed.
const SpeedLog& LongerLog(const SessionStats& stats) {
  return stats.prefill.num_tokens() >= stats.decode.num_tokens() ? stats.prefill : stats.decode;
}

Json ResidentJson(const SessionStats& stats) {
  const SpeedLog& log = LongerLog(stats);
  const Flatness flatness = log.flatness();
  Json json = {{"now_bytes", ResidentBytes()}, {"peak_bytes", PeakResidentBytes()}};
  if (flatness.last_resident_bytes > 0) {
    json["first_tenth_bytes"] = flatness.first_resident_bytes;
    json["last_tenth_bytes"] = flatness.last_resident_bytes;
  }
  Json samples = Json::array();
  for (const SpeedSample& sample : log.samples()) {
    samples.push_back({{"tokens", sample.num_tokens},
                       {"seconds", sample.busy_seconds},
                       {"resident_bytes", sample.resident_bytes}});
  }
  json["samples"] = std::move(samples);
  return json;
}

// Empty for a model without a tokenizer.
std::string TextOf(const Session& session, const RecalledRange& range) {
  if (!session.model().has_tokenizer()) return "";
  return session.model().tokenizer().Decode(range.tokens, {.at_text_start = false});
}

Json MemoryJson(const Model& model) {
  const MemoryReport report = model.engine().memory();
  Json tags = Json::object();
  for (const MemoryReport::Row& row : report.rows) {
    tags[std::string(row.tag)] = {
        {"used_bytes", row.used_bytes}, {"peak_bytes", row.peak_bytes}, {"under_cap", row.is_under_cap}};
  }
  const bool has_cap = report.cap_bytes != SIZE_MAX;
  return {{"cap_bytes", has_cap ? Json(report.cap_bytes) : Json(nullptr)},
          {"used_bytes", report.used_bytes},
          {"peak_bytes", report.peak_bytes},
          {"by_tag", std::move(tags)},
          {"weight_bytes", model.info().weight_bytes},
          {"packed_bytes", model.info().packed_bytes}};
}

// As numbers, true or false where a value reads as one.
Json SettingsJson(const std::vector<Setting>& settings) {
  Json json = Json::object();
  for (const Setting& setting : settings) {
    const Json value = Json::parse(setting.value, nullptr, /*allow_exceptions=*/false);
    json[setting.name] = value.is_primitive() && !value.is_discarded() ? value : Json(setting.value);
  }
  return json;
}

Json OptionsJson(const Session& session) {
  Json json = SettingsJson(ValuesOf(session.options()));
  json.update(SettingsJson(ValuesOf(session.model().engine().options())));
  return json;
}

}  // namespace

std::string ReportJson(const Session& session, const RunFacts& facts) {
  const Model& model = session.model();
  const SessionStats& stats = session.stats();
  const std::vector<LedgerRange> ledger = session.Ledger();
  Json totals = Json::object();
  for (const LedgerTotal& total : LedgerTotals(ledger)) {
    totals[std::string(TokenFateName(total.fate))] = total.num_tokens;
  }
  Json json;
  json["version"] = facts.program_version;
  json["model"] = {{"path", model.info().path},
                   {"name", model.info().name},
                   {"family", model.info().family},
                   {"fingerprint", fmt::format("{:016x}", model.fingerprint())}};
  json["context"] = {{"asked", facts.context_asked},
                     {"resolved", session.options().context},
                     {"reason", facts.context_reason}};
  json["options"] = OptionsJson(session);
  json["memory"] = MemoryJson(model);
  json["stream"] = {{"start_position", session.options().start_position},
                    {"tokens", session.num_tokens()},
                    {"generated", stats.num_generated},
                    {"backspaces", stats.num_backspaces},
                    {"text_bytes", session.text_bytes()}};
  json["ledger"] = {{"totals", std::move(totals)}, {"ranges", Json::parse(LedgerJson(ledger))}};
  if (const std::vector<RecalledRange> recalled = session.Recalled(); !recalled.empty()) {
    Json& list = json["recalled"] = Json::array();
    for (const RecalledRange& range : recalled) {
      list.push_back({{"begin", range.begin},
                      {"end", range.begin + static_cast<Position>(range.tokens.size())},
                      {"votes", range.score},
                      {"bias", range.bias},
                      {"text", TextOf(session, range)}});
    }
  }
  json["speed"] = {{"threads", session.model().engine().num_threads()},
                   {"wall_seconds", facts.wall_seconds},
                   {"prefill", SpeedJson(stats.prefill)},
                   {"decode", SpeedJson(stats.decode)},
                   {"first_token_seconds", stats.first_token_seconds}};
  json["resident"] = ResidentJson(stats);
  // Paths and names come from outside and need not be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

namespace {

// Whole numbers from 1000 on: "93,010"; four digits below: "44.81".
std::string FormatRate(double rate) {
  return rate >= 1000 ? FormatCount(static_cast<int64_t>(rate + 0.5)) : fmt::format("{:.4g}", rate);
}

// "kv 1.72 MiB, scratch 3 KiB (peak 2.52 MiB)" of the rows under the cap, or of the others.
std::string RowsText(const MemoryReport& report, bool under_cap) {
  std::string text;
  for (const MemoryReport::Row& row : report.rows) {
    if (row.is_under_cap != under_cap) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", row.tag, FormatBytes(row.used_bytes));
    if (row.peak_bytes > row.used_bytes) text += fmt::format(" (peak {})", FormatBytes(row.peak_bytes));
  }
  return text;
}

std::string MemoryText(const MemoryReport& report) {
  std::string text = fmt::format("memory beside the weights: {}, peak {}", FormatBytes(report.used_bytes),
                                 FormatBytes(report.peak_bytes));
  if (report.cap_bytes != SIZE_MAX) {
    text += fmt::format(" of the cap of {}", FormatBytes(report.cap_bytes));
  }
  const std::string rows = RowsText(report, true);
  if (!rows.empty()) text += ": " + rows;
  const std::string beside = RowsText(report, false);
  if (!beside.empty()) text += "\nmemory beside the cap: " + beside;
  return text + "\n";
}

}  // namespace

std::string RecalledText(const Session& session, size_t max_lines) {
  std::vector<RecalledRange> recalled = session.Recalled();
  std::stable_sort(recalled.begin(), recalled.end(),
                   [](const RecalledRange& a, const RecalledRange& b) { return a.score > b.score; });
  std::string text;
  for (size_t i = 0; i < recalled.size(); ++i) {
    if (i == max_lines) {
      text += fmt::format("  and {} more\n", recalled.size() - i);
      break;
    }
    const RecalledRange& range = recalled[i];
    std::string words;
    for (const char c : TextOf(session, range)) {
      const bool is_space = c == ' ' || c == '\n' || c == '\t' || c == '\r';
      if (!is_space) {
        words += c;
      } else if (!words.empty() && words.back() != ' ') {
        words += ' ';
      }
    }
    text += fmt::format("  {}-{}  votes {:.1f}  {}\n", FormatCount(range.begin),
                        FormatCount(range.begin + static_cast<Position>(range.tokens.size()) - 1),
                        range.score, Printable(words));
  }
  return text;
}

std::string ReportText(const Session& session) {
  const SessionStats& stats = session.stats();
  std::string text;
  const auto add_speed = [&text](const char* name, const SpeedLog& log) {
    if (log.num_tokens() == 0) return;
    text += fmt::format("{}: {} tokens in {}, {} tokens/s", name, FormatCount(log.num_tokens()),
                        FormatSeconds(log.busy_seconds()), FormatRate(log.tokens_per_second()));
    const Flatness flatness = log.flatness();
    if (flatness.last_tokens_per_second > 0) {
      text += fmt::format(" (first tenth {}, last tenth {})", FormatRate(flatness.first_tokens_per_second),
                          FormatRate(flatness.last_tokens_per_second));
    }
    text += "\n";
  };
  add_speed("prefill", stats.prefill);
  add_speed("decode", stats.decode);
  const Flatness flatness = LongerLog(stats).flatness();
  if (flatness.last_resident_bytes > 0) {
    text +=
        fmt::format("resident memory: first tenth {}, last tenth {}\n",
                    FormatBytes(flatness.first_resident_bytes), FormatBytes(flatness.last_resident_bytes));
  }
  text += MemoryText(session.model().engine().memory());
  text += fmt::format("{}: {}\n", session.options().context, LedgerText(session.Ledger()));
  const std::string recalled = RecalledText(session, 3);
  if (!recalled.empty()) text += "came back for the last turn:\n" + recalled;
  return text;
}

}  // namespace mneme
