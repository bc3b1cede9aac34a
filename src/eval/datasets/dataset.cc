#include "eval/datasets/dataset.h"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/text/json.h"
#include "base/text/units.h"
#include "eval/scores/text.h"
#include "eval/tasks/babi.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

// A value as text: strings as they are, other scalars as JSON writes them. Lists and objects are refused: no
// benchmark has them there, and writing one takes stack for every level.
std::string TextOf(const Json& value, const char* key) {
  if (value.is_structured()) Fail(ErrorKind::kInput, "\"{}\" holds a list or an object, not a text", key);
  return value.is_string() ? value.get<std::string>() : value.is_null() ? std::string() : value.dump();
}

const Json& Need(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) Fail(ErrorKind::kInput, "there is no \"{}\"", key);
  return *found;
}

std::string NeedText(const Json& object, const char* key) {
  const Json& value = Need(object, key);
  if (!value.is_string()) Fail(ErrorKind::kInput, "\"{}\" is not a text", key);
  return value.get<std::string>();
}

// A text or number, or a list of them (InfiniteBench also has a list in a list).
std::vector<std::string> NeedList(const Json& object, const char* key) {
  const Json* value = &Need(object, key);
  if (value->is_array() && value->size() == 1 && (*value)[0].is_array()) value = &(*value)[0];
  std::vector<std::string> list;
  if (!value->is_array()) return {TextOf(*value, key)};
  for (const Json& item : *value) list.push_back(TextOf(item, key));
  return list;
}

void FillLongBench(const Json& json, DatasetExample* example) {
  example->fields["context"] = NeedText(json, "context");
  example->fields["input"] = NeedText(json, "input");
  example->answers = NeedList(json, "answers");
  if (json.contains("all_classes") && json["all_classes"].is_array())
    example->classes = NeedList(json, "all_classes");
  if (json.contains("length") && json["length"].is_number_integer())
    example->length = json["length"].get<int64_t>();
  if (json.contains("_id")) example->id = TextOf(json["_id"], "_id");
}

// The right option's letter stands after its text.
std::vector<std::string> WithLetter(const std::vector<std::string>& answers,
                                    const std::vector<std::string>& options) {
  if (answers.size() >= 2 || answers.empty()) return answers;
  const auto at = std::find(options.begin(), options.end(), answers[0]);
  if (at == options.end())
    Fail(ErrorKind::kInput, "the answer '{}' is not one of the {} options", answers[0], options.size());
  return {answers[0], std::string(1, static_cast<char>('A' + (at - options.begin())))};
}

// The first func_1(2) or func_1(-2) of a text, empty if there is none. By hand: the text is the file's, and
// std::regex takes stack for every character.
std::string_view FirstCall(std::string_view text) {
  const auto skip_digits = [&](size_t at) {
    return std::min(text.find_first_not_of("0123456789", at), text.size());
  };
  const auto is = [&](size_t at, char c) { return at < text.size() && text[at] == c; };
  constexpr std::string_view kName = "func_";
  size_t begin = text.find(kName);
  while (begin != std::string_view::npos) {
    const size_t number = begin + kName.size();
    const size_t open = skip_digits(number);
    const size_t argument = open + (is(open + 1, '-') ? 2 : 1);
    const size_t close = skip_digits(argument);
    if (open > number && is(open, '(') && close > argument && is(close, ')'))
      return text.substr(begin, close + 1 - begin);
    begin = text.find(kName, number);
  }
  return {};
}

void FillInfiniteBench(const Json& json, const std::string& task, DatasetExample* example) {
  auto& fields = example->fields;
  fields["context"] = NeedText(json, "context");
  fields["input"] = fields["question"] = json.contains("input") ? TextOf(json["input"], "input") : "";
  example->answers = NeedList(json, "answer");
  if (json.contains("id")) example->id = TextOf(json["id"], "id");
  if (task == "longbook_choice_eng" || task == "code_debug") {
    const std::vector<std::string> options = NeedList(json, "options");
    if (options.size() != 4)
      Fail(ErrorKind::kInput, "\"options\" has {} entries; it takes 4", options.size());
    for (size_t i = 0; i < 4; ++i) fields[fmt::format("OPTION_{}", static_cast<char>('A' + i))] = options[i];
    example->answers = WithLetter(example->answers, options);
  }
  const std::string& input = fields["input"];
  if (task == "code_run") {
    const std::string_view call = FirstCall(input);
    if (call.empty()) Fail(ErrorKind::kInput, "\"input\" names no call like func_1(2)");
    fields["func_call"] = call;
    fields["func"] = call.substr(0, call.find('('));
  }
  if (task == "kv_retrieval") {
    const size_t open = input.find('"');
    const size_t close = open == std::string::npos ? open : input.find('"', open + 1);
    if (close != std::string::npos) fields["key"] = input.substr(open + 1, close - open - 1);
  }
  if (task == "math_find") {
    const size_t end = input.rfind(" of");
    const std::string what = end == std::string::npos || !input.starts_with("The ")
                                 ? "the number that is asked for"
                                 : "t" + input.substr(1, end - 1);
    fields["prefix"] = fmt::format("What is {} in the following list?", what);
  }
}

void FillBabi(const std::string& task, DatasetExample* example) {
  std::string labels;
  for (const std::string_view label : BabiLabels(task)) {
    example->classes.emplace_back(label);
    labels += (labels.empty() ? "" : ", ") + std::string(label);
  }
  example->fields["labels"] = labels;
}

class DatasetReader {
 public:
  DatasetReader(Benchmark benchmark, const DatasetFile& file,
                const std::function<bool(DatasetExample&&)>& on_example,
                const std::function<void(const std::string&)>& on_bad, size_t max_record_bytes)
      : benchmark_(benchmark),
        file_(file),
        on_example_(on_example),
        on_bad_(on_bad),
        max_record_bytes_(max_record_bytes) {}

  void Read() {
    const std::string ending = fs::path(file_.path).extension().string();
    if (benchmark_ == Benchmark::kBabi && ending == ".txt") return ReadStories();
    if (benchmark_ == Benchmark::kBabi && StartsWithBracket()) return ReadArray();
    ReadLines([&](std::string* line, size_t, DatasetExample* example) {
      Json json = Parse(*line);
      std::string().swap(*line);  // not in memory while the question is asked
      return Fill(json, example);
    });
  }

 private:
  // Fills an example from a piece of the file (`fill` says whether there is one) and hands it out; false ends
  // the reading. Only what `fill` refuses is the file's fault.
  template <typename Fn>
  bool One(size_t number, const Fn& fill) {
    DatasetExample example = NewExample(number);
    try {
      if (!fill(&example)) return true;
    } catch (const Error& error) {
      const std::string message = fmt::format("{}: {}", example.where, error.what());
      if (!on_bad_) throw Error(ErrorKind::kInput, message);
      on_bad_(message);
      return true;
    }
    return on_example_(std::move(example));
  }

  static Json Parse(const std::string& text) {
    try {
      return Json::parse(text);
    } catch (const Json::exception& error) {
      Fail(ErrorKind::kInput, "this is not JSON: {}", error.what());
    }
  }

  bool StartsWithBracket() const {
    std::ifstream in(file_.path);
    char first = ' ';
    while (in.get(first) && scores::IsSpace(first)) {
    }
    return first == '[';
  }

  // A record as it is read: beyond the limit it is only counted.
  class Record {
   public:
    explicit Record(size_t max_bytes) : max_bytes_(max_bytes) {}
    void Add(char c) {
      if (++num_bytes_ <= max_bytes_) text_ += c;
    }
    std::string* text() { return &text_; }
    size_t num_bytes() const { return num_bytes_; }
    void Check() const {
      if (num_bytes_ <= max_bytes_) return;
      Fail(ErrorKind::kInput,
           "has {} bytes in one question, and at most {} can be read under this memory cap: give --memory at "
           "least {}",
           num_bytes_, max_bytes_, FormatBytesUp((num_bytes_ + 1) * 2 * kRecordCopies));
    }
    void Clear() {
      text_.clear();
      num_bytes_ = 0;
    }

   private:
    size_t max_bytes_;
    std::string text_;
    size_t num_bytes_ = 0;
  };

  template <typename Fn>
  bool OneRecord(size_t number, Record* record, const Fn& fill) {
    return One(number, [&](DatasetExample* example) {
      record->Check();
      example->record_bytes = record->num_bytes();
      return fill(record->text(), number, example);
    });
  }

  template <typename Fn>
  void ReadLines(const Fn& on_line) {
    std::ifstream in(file_.path, std::ios::binary);
    if (!in) Fail(ErrorKind::kFile, "{}: cannot be opened", file_.path);
    Record line(max_record_bytes_);
    size_t number = 0;
    for (char c = 0; in.peek() != std::char_traits<char>::eof();) {
      line.Clear();
      while (in.get(c) && c != '\n') line.Add(c);
      ++number;
      if (number == 1 && line.text()->starts_with("\xEF\xBB\xBF")) line.text()->erase(0, 3);
      if (scores::Trim(*line.text()).empty()) continue;
      if (!OneRecord(number, &line, on_line)) return;
    }
    if (in.bad()) Fail(ErrorKind::kFile, "{}: reading failed after line {}", file_.path, number);
  }

  // One JSON array, an element at a time: brackets and strings are all that has to be known to cut it.
  void ReadArray() {
    std::ifstream in(file_.path, std::ios::binary);
    Record element(max_record_bytes_);
    size_t number = 0;
    int64_t depth = 0;
    bool in_string = false, is_escaped = false;
    const auto fill = [&](std::string* text, size_t, DatasetExample* example) {
      Json json = Parse(*text);
      std::string().swap(*text);
      return Fill(json, example);
    };
    for (char c = 0; in.get(c);) {
      bool is_end = false;
      if (in_string) {
        in_string = is_escaped || c != '"';
        is_escaped = !is_escaped && c == '\\';
      } else if (c == '"') {
        in_string = true;
      } else if (c == '[' || c == '{') {
        if (++depth == 1) continue;
      } else if (c == ']' || c == '}') {
        is_end = --depth == 0;
      }
      if (depth == 0 && !is_end) continue;  // before the array
      if (!is_end && !(depth == 1 && c == ',' && !in_string)) {
        element.Add(c);
        continue;
      }
      const bool is_empty_array = is_end && number == 0 && scores::Trim(*element.text()).empty();
      if (!is_empty_array && !OneRecord(++number, &element, fill)) return;
      element.Clear();
      if (is_end) return CheckOnlySpaceFollows(in);
    }
    Fail(ErrorKind::kInput, "{}: this is not JSON: the array does not end", file_.path);
  }

  void CheckOnlySpaceFollows(std::ifstream& in) const {
    for (char c = 0; in.get(c);) {
      if (!scores::IsSpace(c)) Fail(ErrorKind::kInput, "{}: this is not JSON behind the array", file_.path);
    }
  }

  void ReadStories() {
    BabiParser parser;
    ReadLines([&](const std::string* line, size_t number, DatasetExample* example) {
      BabiQuestion question;
      if (!parser.Line(scores::Trim(*line), number, &question)) return false;
      std::string& input = example->fields["input"];
      for (const std::string& fact : question.facts) input += (input.empty() ? "" : "\n") + fact;
      example->fields["question"] = question.question;
      example->answers = {question.answer};
      FillBabi(file_.task, example);
      return true;
    });
  }

  DatasetExample NewExample(size_t number) const {
    DatasetExample example;
    example.where = fmt::format("{}:{}", file_.path, number);
    example.id = fmt::format("{}:{}", fs::path(file_.path).filename().string(), number);
    return example;
  }

  bool Fill(const Json& json, DatasetExample* example) const {
    if (!json.is_object()) Fail(ErrorKind::kInput, "this is not a JSON object");
    switch (benchmark_) {
      case Benchmark::kLongBench:
        FillLongBench(json, example);
        break;
      case Benchmark::kInfiniteBench:
        FillInfiniteBench(json, file_.task, example);
        break;
      case Benchmark::kBabi:
        example->fields["input"] = NeedText(json, "input");
        example->fields["question"] = NeedText(json, "question");
        example->answers = {NeedText(json, "target")};
        FillBabi(file_.task, example);
        break;
    }
    return true;
  }

  Benchmark benchmark_;
  const DatasetFile& file_;
  const std::function<bool(DatasetExample&&)>& on_example_;
  const std::function<void(const std::string&)>& on_bad_;
  const size_t max_record_bytes_;
};

// The task that a file or its folder is named after; empty if none.
std::string TaskOfFile(Benchmark benchmark, const fs::path& path) {
  for (const fs::path& part : {path.filename(), path.parent_path().filename()}) {
    std::string stem = part.stem().string();
    const DatasetTask* best = nullptr;
    for (const DatasetTask& task : DatasetTasks(benchmark)) {
      if (!stem.starts_with(task.name)) continue;
      const std::string rest = stem.substr(task.name.size());
      const bool whole = rest.empty() || rest[0] == '_' || rest[0] == '-' || rest[0] == '.';
      if (whole && (best == nullptr || task.name.size() > best->name.size())) best = &task;
    }
    if (best != nullptr) return best->name;
    if (benchmark != Benchmark::kBabi) break;
  }
  return "";
}

bool HasEnding(Benchmark benchmark, const fs::path& path) {
  const std::string ending = path.extension().string();
  return ending == ".jsonl" || ending == ".json" || (benchmark == Benchmark::kBabi && ending == ".txt");
}

}  // namespace

std::vector<DatasetFile> FindDatasetFiles(Benchmark benchmark, const std::string& path,
                                          std::span<const std::string> tasks) {
  for (const std::string& task : tasks) FindDatasetTask(benchmark, task);
  std::vector<fs::path> paths;
  if (IsDirectory(path)) {
    std::error_code error;
    for (fs::recursive_directory_iterator it(path, error), end; it != end && !error; it.increment(error)) {
      if (it.depth() > 2) it.disable_recursion_pending();
      std::error_code unknown;  // a link to itself, say: not a file to read
      if (it->is_regular_file(unknown) && HasEnding(benchmark, it->path())) paths.push_back(it->path());
    }
    if (error) Fail(ErrorKind::kFile, "{}: cannot be read: {}", path, error.message());
  } else if (FileExists(path)) {
    // It is read more than once: for its hash, for a first look at every line, and to ask.
    std::error_code unknown;
    if (!fs::is_regular_file(path, unknown)) {
      Fail(ErrorKind::kFile, "{}: is not a regular file; questions are read from files and folders", path);
    }
    paths.emplace_back(path);
  } else {
    Fail(ErrorKind::kFile, "{}: there is no such file or folder", path);
  }
  std::sort(paths.begin(), paths.end());
  std::vector<DatasetFile> files;
  for (const fs::path& file : paths) {
    const std::string task = TaskOfFile(benchmark, file);
    if (task.empty() || (!tasks.empty() && std::find(tasks.begin(), tasks.end(), task) == tasks.end()))
      continue;
    // data/qa1/16k.json: the length is the file's name.
    const std::string stem = file.stem().string();
    const bool in_folder = benchmark == Benchmark::kBabi && !stem.starts_with(task);
    files.push_back({file.string(), task, in_folder ? stem : ""});
  }
  if (files.empty()) {
    Fail(ErrorKind::kInput, "{}: no file is named after a task of {} (such as {}.jsonl)", path,
         BenchmarkName(benchmark), DatasetTasks(benchmark).front().name);
  }
  for (const std::string& task : tasks) {
    if (std::none_of(files.begin(), files.end(), [&](const DatasetFile& file) { return file.task == task; }))
      Fail(ErrorKind::kInput, "{}: there is no file of task {}", path, task);
  }
  std::stable_sort(files.begin(), files.end(),
                   [](const DatasetFile& a, const DatasetFile& b) { return a.task < b.task; });
  return files;
}

void ReadDataset(Benchmark benchmark, const DatasetFile& file,
                 const std::function<bool(DatasetExample&& example)>& on_example,
                 const std::function<void(const std::string& message)>& on_bad, size_t max_record_bytes) {
  DatasetReader(benchmark, file, on_example, on_bad, max_record_bytes).Read();
}

std::string RenderPrompt(std::string_view prompt, const DatasetExample& example) {
  std::string text;
  size_t most = prompt.size();
  for (const auto& [name, value] : example.fields) most += value.size();
  text.reserve(most);
  for (size_t at = 0; at < prompt.size();) {
    const size_t open = prompt.find('{', at);
    if (open == std::string_view::npos) return text += prompt.substr(at);
    text += prompt.substr(at, open - at);
    size_t close = open + 1;
    while (close < prompt.size() &&
           (std::isalnum(static_cast<unsigned char>(prompt[close])) || prompt[close] == '_'))
      ++close;
    if (close == open + 1 || close == prompt.size() || prompt[close] != '}') {
      text += '{';
      at = open + 1;
      continue;
    }
    const std::string name(prompt.substr(open + 1, close - open - 1));
    const auto found = example.fields.find(name);
    if (found == example.fields.end())
      Fail(ErrorKind::kInput, "{}: the prompt asks for {{{}}}, which this example does not have",
           example.where, name);
    text += found->second;
    at = close + 1;
  }
  return text;
}

std::map<std::string, std::string> ReadPromptFile(const std::string& path) {
  const std::string text = ReadWholeFile(path, size_t{1} << 26);
  std::map<std::string, std::string> prompts;
  try {
    const Json json = Json::parse(text);
    if (!json.is_object())
      Fail(ErrorKind::kInput, "{}: prompts are a JSON object: {{\"task\": \"text\"}}", path);
    for (const auto& [name, value] : json.items()) {
      if (!value.is_string()) Fail(ErrorKind::kInput, "{}: the prompt of '{}' is not a text", path, name);
      prompts[name] = value.get<std::string>();
    }
  } catch (const Json::exception& error) {
    Fail(ErrorKind::kInput, "{}: this is not JSON: {}", path, error.what());
  }
  return prompts;
}

}  // namespace mneme
