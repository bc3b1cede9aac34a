#include "eval/report/grid.h"

#include <fmt/core.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/files/file.h"
#include "eval/report/grid_html.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "mneme eval";
constexpr int kVersion = 1;

const std::set<std::string>& RowKeys() {
  static const std::set<std::string> keys = {"task",       "context", "length",         "depth",    "trials",
                                             "accuracy",   "metric",  "standard_error", "interval", "seconds",
                                             "peak_bytes", "note",    "labels"};
  return keys;
}

Json RowJson(const EvalRow& row) {
  Json json;
  json["task"] = row.task;
  json["context"] = row.context;
  json["length"] = row.length > 0 ? Json(row.length) : Json(nullptr);
  json["depth"] = row.depth ? Json(*row.depth) : Json(nullptr);
  for (const auto& [key, value] : row.labels) {
    MNEME_CHECK(RowKeys().count(key) == 0);
    json[key] = value;
  }
  json["trials"] = row.trials;
  json["accuracy"] = row.trials > 0 ? Json(row.accuracy) : Json(nullptr);
  json["metric"] = row.metric;
  json["standard_error"] = row.trials > 0 ? Json(row.Error()) : Json(nullptr);
  json["interval"] = row.trials > 0 ? Json({row.Interval().first, row.Interval().second}) : Json(nullptr);
  json["seconds"] = row.seconds;
  json["peak_bytes"] = row.peak_bytes;
  for (const auto& [key, value] : row.numbers) {
    MNEME_CHECK(RowKeys().count(key) == 0 && row.labels.count(key) == 0);
    json[key] = value;
  }
  if (!row.note.empty()) json["note"] = row.note;
  return json;
}

template <typename T>
T Take(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end()) Fail(ErrorKind::kFile, "{}: '{}' is missing", where, key);
  try {
    return found->get<T>();
  } catch (const nlohmann::json::exception&) {
    Fail(ErrorKind::kFile, "{}: '{}' has a value of the wrong kind", where, key);
  }
}

template <typename T>
T TakeOr(const Json& json, const char* key, T otherwise, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return otherwise;
  return Take<T>(json, key, where);
}

uint64_t TakeHex(const Json& json, const char* key, const std::string& where) {
  const std::string text = TakeOr<std::string>(json, key, "0", where);
  if (text.empty() || text.size() > 16 || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    Fail(ErrorKind::kFile, "{}: '{}' is not a fingerprint", where, key);
  return std::stoull(text, nullptr, 16);
}

EvalRow ParseRow(const Json& json, const std::string& where) {
  if (!json.is_object()) Fail(ErrorKind::kFile, "{} is not an object", where);
  EvalRow row;
  row.task = Take<std::string>(json, "task", where);
  row.context = Take<std::string>(json, "context", where);
  row.length = TakeOr<int64_t>(json, "length", 0, where);
  if (json.contains("depth") && !json["depth"].is_null()) row.depth = Take<double>(json, "depth", where);
  row.trials = Take<int64_t>(json, "trials", where);
  constexpr int64_t kMostTrials = 1'000'000'000;
  if (row.trials < 0 || row.trials > kMostTrials) {
    Fail(ErrorKind::kFile, "{}: 'trials' is {}, outside 0 .. {}", where, row.trials, kMostTrials);
  }
  row.accuracy = TakeOr<double>(json, "accuracy", 0, where);
  row.metric = TakeOr<std::string>(json, "metric", "accuracy", where);
  if (json.contains("standard_error") && !json["standard_error"].is_null())
    row.standard_error = Take<double>(json, "standard_error", where);
  // That of a share follows from it, and says so in what the interval is.
  EvalRow share = row;
  share.standard_error.reset();
  if (row.standard_error && std::abs(*row.standard_error - share.Error()) < 1e-12) row = share;
  row.seconds = TakeOr<double>(json, "seconds", 0, where);
  row.peak_bytes = TakeOr<size_t>(json, "peak_bytes", 0, where);
  row.note = TakeOr<std::string>(json, "note", "", where);
  for (const auto& [key, value] : json.items()) {
    if (RowKeys().count(key) != 0) continue;
    if (value.is_string()) row.labels[key] = value.get<std::string>();
    if (value.is_number()) row.numbers[key] = value.get<double>();
  }
  return row;
}

EvalHeader ParseHeader(const Json& json, const std::string& name) {
  EvalHeader header;
  header.task = Take<std::string>(json, "task", name);
  header.title = TakeOr<std::string>(json, "title", "", name);
  header.command = TakeOr<std::string>(json, "command", "", name);
  header.program_version = TakeOr<std::string>(json, "program", "", name);
  header.started = TakeOr<std::string>(json, "started", "", name);
  header.seed = TakeOr<uint64_t>(json, "seed", 0, name);
  const Json model = TakeOr<Json>(json, "model", Json::object(), name);
  if (!model.is_object()) Fail(ErrorKind::kFile, "{}: 'model' is not an object", name);
  header.model_name = TakeOr<std::string>(model, "name", "", name);
  header.model_family = TakeOr<std::string>(model, "family", "", name);
  header.model_file = TakeOr<std::string>(model, "file", "", name);
  header.trained_length = TakeOr<int64_t>(model, "trained_length", 0, name);
  header.model_fingerprint = TakeHex(model, "fingerprint", name);
  header.tokenizer_fingerprint = TakeHex(model, "tokenizer_fingerprint", name);
  const Json machine = TakeOr<Json>(json, "machine", Json::object(), name);
  if (!machine.is_object()) Fail(ErrorKind::kFile, "{}: 'machine' is not an object", name);
  header.machine.processor = TakeOr<std::string>(machine, "processor", "", name);
  header.machine.num_processors = TakeOr<size_t>(machine, "processors", 0, name);
  header.machine.num_threads = TakeOr<size_t>(machine, "threads", 0, name);
  header.machine.memory_bytes = TakeOr<size_t>(machine, "memory_bytes", 0, name);
  header.machine.system = TakeOr<std::string>(machine, "system", "", name);
  const Json settings = TakeOr<Json>(json, "settings", Json::object(), name);
  if (!settings.is_object()) Fail(ErrorKind::kFile, "{}: 'settings' is not an object", name);
  for (const auto& [key, value] : settings.items()) {
    if (!value.is_string()) Fail(ErrorKind::kFile, "{}: the setting '{}' is not a text", name, key);
    header.settings.emplace_back(key, value.get<std::string>());
  }
  return header;
}

std::string ProcessorName() {
  std::FILE* file = std::fopen("/proc/cpuinfo", "r");
  if (file == nullptr) return "";
  char line[512];
  std::string name;
  while (name.empty() && std::fgets(line, sizeof(line), file) != nullptr) {
    const std::string_view text(line);
    const size_t colon = text.find(':');
    if (!text.starts_with("model name") || colon == std::string_view::npos) continue;
    name = text.substr(std::min(text.size(), colon + 2));
    while (!name.empty() && name.back() == '\n') name.pop_back();
  }
  std::fclose(file);
  return name;
}

void CompareHeaders(const EvalHeader& old, const EvalHeader& now, const std::string& path) {
  const auto refuse = [&](std::string_view what, std::string_view was, std::string_view is) {
    Fail(
        ErrorKind::kMismatch,
        "{} holds results of another run: {} was '{}' and is '{}' now; name another file, or remove this one",
        path, what, was, is);
  };
  if (old.task != now.task) refuse("the task", old.task, now.task);
  if (old.model_fingerprint != now.model_fingerprint ||
      old.tokenizer_fingerprint != now.tokenizer_fingerprint)
    refuse("the model", fmt::format("{} {:x}", old.model_file, old.model_fingerprint),
           fmt::format("{} {:x}", now.model_file, now.model_fingerprint));
  if (old.seed != now.seed) refuse("the seed", std::to_string(old.seed), std::to_string(now.seed));
  const std::map<std::string, std::string> before(old.settings.begin(), old.settings.end());
  for (const auto& [key, value] : now.settings) {
    const auto found = before.find(key);
    if (found == before.end()) refuse(key, "(not set)", value);
    if (found->second != value) refuse(key, found->second, value);
  }
  if (before.size() > now.settings.size()) refuse("a setting", "there", "not");
}

}  // namespace

bool EvalRow::SameCell(const EvalRow& other) const {
  return task == other.task && context == other.context && length == other.length && depth == other.depth &&
         labels == other.labels && metric == other.metric;
}

double EvalRow::Error() const {
  if (standard_error) return *standard_error;
  if (trials < 1) return 0;
  return std::sqrt(std::max(0.0, accuracy * (1 - accuracy)) / static_cast<double>(trials));
}

std::pair<double, double> EvalRow::Interval() const {
  constexpr double z = 1.959963984540054;
  const bool is_share = !standard_error && trials > 0 && accuracy >= 0 && accuracy <= 1;
  if (!is_share) return {accuracy - z * Error(), accuracy + z * Error()};
  const auto n = static_cast<double>(trials);
  const double scale = 1 + z * z / n;
  const double middle = (accuracy + z * z / (2 * n)) / scale;
  const double half =
      z / scale * std::sqrt(std::max(0.0, accuracy * (1 - accuracy)) / n + z * z / (4 * n * n));
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

EvalMachine ThisMachine(size_t num_threads) {
  EvalMachine machine;
  machine.processor = ProcessorName();
  machine.num_processors = std::thread::hardware_concurrency();
  machine.num_threads = num_threads;
  const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGE_SIZE);
  if (pages > 0 && page_bytes > 0)
    machine.memory_bytes = static_cast<size_t>(pages) * static_cast<size_t>(page_bytes);
  utsname names;
  if (uname(&names) == 0)
    machine.system = fmt::format("{} {} {}", names.sysname, names.release, names.machine);
  return machine;
}

EvalHeader MakeEvalHeader(const Model& model) {
  EvalHeader header;
  header.machine = ThisMachine(model.engine().num_threads());
  header.model_name = model.info().name;
  header.model_family = model.info().family;
  std::string path = model.info().path;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  header.model_file = path.substr(path.rfind('/') + 1);
  header.model_fingerprint = model.fingerprint();
  if (model.has_tokenizer()) header.tokenizer_fingerprint = model.tokenizer().fingerprint();
  header.trained_length = model.info().trained_length;
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  header.started = text;
  return header;
}

std::string EvalJson(const EvalReport& report) {
  const EvalHeader& header = report.header;
  Json json;
  json["format"] = kFormat;
  json["version"] = kVersion;
  json["task"] = header.task;
  json["title"] = header.title;
  json["command"] = header.command;
  json["seed"] = header.seed;
  json["program"] = header.program_version;
  json["started"] = header.started;
  json["model"] = {{"name", header.model_name},
                   {"family", header.model_family},
                   {"file", header.model_file},
                   {"fingerprint", fmt::format("{:016x}", header.model_fingerprint)},
                   {"tokenizer_fingerprint", fmt::format("{:016x}", header.tokenizer_fingerprint)},
                   {"trained_length", header.trained_length}};
  json["machine"] = {{"processor", header.machine.processor},
                     {"processors", header.machine.num_processors},
                     {"threads", header.machine.num_threads},
                     {"memory_bytes", header.machine.memory_bytes},
                     {"system", header.machine.system}};
  json["settings"] = Json::object();
  for (const auto& [key, value] : header.settings) json["settings"][key] = value;
  json["results"] = Json::array();
  for (const EvalRow& row : report.rows) json["results"].push_back(RowJson(row));
  // Text of a model may hold bytes that are no UTF-8.
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

EvalReport ParseEvalJson(std::string_view text, const std::string& name) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object())
    Fail(ErrorKind::kFile, "{} is not a JSON object; results of `mneme eval ... --json` are expected", name);
  if (TakeOr<std::string>(json, "format", "", name) != kFormat)
    Fail(ErrorKind::kFile, "{} was not written by `mneme eval ... --json`: 'format' is not '{}'", name,
         kFormat);
  const int version = Take<int>(json, "version", name);
  if (version != kVersion)
    Fail(ErrorKind::kFile, "{} has version {}; this program reads version {}", name, version, kVersion);
  EvalReport report;
  report.header = ParseHeader(json, name);
  const Json results = Take<Json>(json, "results", name);
  if (!results.is_array()) Fail(ErrorKind::kFile, "{}: 'results' is not a list", name);
  for (size_t i = 0; i < results.size(); ++i)
    report.rows.push_back(ParseRow(results[i], fmt::format("{}: result {}", name, i)));
  return report;
}

EvalReport ReadEvalReport(const std::string& path) { return ParseEvalJson(ReadWholeFile(path), path); }

EvalLog::EvalLog(EvalHeader header, std::string json_path, std::string html_path)
    : json_path_(std::move(json_path)), html_path_(std::move(html_path)) {
  report_.header = std::move(header);
  if (json_path_.empty() || json_path_ == "-" || !FileExists(json_path_)) return;
  EvalReport old = ReadEvalReport(json_path_);
  CompareHeaders(old.header, report_.header, json_path_);
  report_.rows = std::move(old.rows);
  // What could not be measured is tried again: the cap may be another one now.
  // So is what was interrupted half-way.
  std::erase_if(report_.rows,
                [](const EvalRow& row) { return row.trials == 0 || row.numbers.count("interrupted") > 0; });
  num_resumed_ = report_.rows.size();
}

const EvalRow* EvalLog::Find(const EvalRow& cell) const {
  for (const EvalRow& row : report_.rows) {
    if (row.SameCell(cell) && row.trials > 0) return &row;
  }
  return nullptr;
}

void EvalLog::Add(EvalRow row) {
  std::erase_if(report_.rows, [&](const EvalRow& old) { return old.SameCell(row); });
  report_.rows.push_back(std::move(row));
  Write();
}

void EvalLog::Write() const {
  const auto write = [](const std::string& path, const std::string& text) {
    if (path.empty() || path == "-") return;
    AtomicFileWriter writer(path);
    writer.Write(text);
    writer.Commit();
  };
  if (!json_path_.empty()) write(json_path_, EvalJson(report_));
  if (!html_path_.empty()) write(html_path_, EvalHtml(report_));
}

}  // namespace mneme
