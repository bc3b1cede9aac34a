// mneme eval suite FILE.toml: several tasks, models and contexts, one after the other, each as a process of
// its own, so that its memory is its own and a failure ends only itself.
#include <fcntl.h>
#include <fmt/core.h>
#include <spawn.h>
#include <sys/wait.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/message.h"
#include "base/text/units.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/eval/eval_verbs.h"
#include "cli/options.h"
#include "eval/report/suite.h"

extern char** environ;

namespace mneme::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Options whose values are paths, taken from the suite file's folder.
const std::set<std::string>& PathKeys() {
  static const std::set<std::string> keys = {"model",     "file",    "data", "book",     "haystack",
                                             "reference", "prompts", "out",  "tokenizer"};
  return keys;
}

// File name of a run: what a shell need not quote.
std::string FileName(const std::string& name) {
  std::string file;
  for (const char c : name) {
    const bool is_plain = std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
    file += is_plain ? c : '_';
  }
  return file;
}

struct SuiteRun {
  std::string name;
  std::vector<std::string> words;  // behind "mneme"
  std::string model;               // path, or empty
};

struct Suite {
  std::string title;
  std::string out;
  std::vector<SuiteRun> runs;
};

// Reads the file. Every message names the file and the line.
class SuiteReader {
 public:
  SuiteReader(const Command& eval, const std::string& path) : eval_(eval), path_(path) {
    folder_ = fs::absolute(path).parent_path();
  }

  Suite Read() {
    const std::string text = ReadWholeFile(path_, size_t{1} << 24);
    toml::table root;
    try {
      root = toml::parse(text, path_);
    } catch (const toml::parse_error& error) {
      Fail(ErrorKind::kInput, "{}:{}: {}", path_, error.source().begin.line, error.description());
    }
    Suite suite;
    suite.title = "Evaluation: " + fs::path(path_).stem().string();
    suite.out = (folder_ / (fs::path(path_).stem().string() + ".out")).string();
    const toml::table* defaults = nullptr;
    const toml::array* runs = nullptr;
    for (const auto& [key, node] : root) {
      const std::string name(key.str());
      if (name == "title") {
        suite.title = Text(node, name);
      } else if (name == "out") {
        suite.out = Path(Text(node, name));
      } else if (name == "model" || name == "models") {
        models_ = Texts(node, name);
      } else if (name == "defaults" && node.is_table()) {
        defaults = node.as_table();
      } else if (name == "run" && node.is_array_of_tables()) {
        runs = node.as_array();
      } else {
        FailAt(node,
               fmt::format("unknown key '{}'; a suite has title, out, models, [defaults] and [[run]]", name));
      }
    }
    if (runs == nullptr || runs->empty()) Fail(ErrorKind::kInput, "{}: there is no [[run]] in it", path_);
    for (const toml::node& node : *runs) AddRuns(*node.as_table(), defaults, &suite);
    return suite;
  }

 private:
  [[noreturn]] void FailAt(const toml::node& node, const std::string& message) const {
    Fail(ErrorKind::kInput, "{}:{}: {}", path_, node.source().begin.line, message);
  }

  std::string Path(const std::string& value) const {
    if (value.empty() || value == "-" || fs::path(value).is_absolute()) return value;
    return (folder_ / value).lexically_normal().string();
  }

  // A value as the command line takes it.
  std::string Text(const toml::node& node, const std::string& key) const {
    if (const auto* text = node.as_string()) return text->get();
    if (const auto* number = node.as_integer()) return std::to_string(number->get());
    if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
    FailAt(node, fmt::format("'{}' takes a text or a number", key));
  }

  std::vector<std::string> Texts(const toml::node& node, const std::string& key) const {
    std::vector<std::string> texts;
    if (const toml::array* list = node.as_array()) {
      for (const toml::node& item : *list) texts.push_back(Text(item, key));
    } else {
      texts.push_back(Text(node, key));
    }
    return texts;
  }

  void AddOption(const Command& verb, const std::string& key, const toml::node& node,
                 std::vector<std::string>* words) const {
    const std::string option = "--" + key;
    const Option* known = verb.Find(option);
    if (known == nullptr || key == "json" || key == "html")
      FailAt(node, fmt::format("`mneme eval {}` has no option '{}'", verb.name(), option));
    if (const auto* flag = node.as_boolean()) {
      if (!known->is_flag) FailAt(node, fmt::format("'{}' takes a value, not true or false", key));
      if (flag->get()) words->push_back(option);
      return;
    }
    const bool is_one_list = node.is_array() && !known->is_list;
    std::string joined;
    for (const std::string& text : Texts(node, key)) {
      const std::string value = PathKeys().count(key) > 0 ? Path(text) : text;
      if (is_one_list) {
        joined += (joined.empty() ? "" : ",") + value;
      } else {
        words->insert(words->end(), {option, value});
      }
    }
    if (is_one_list) words->insert(words->end(), {option, joined});
  }

  void AddRuns(const toml::table& table, const toml::table* defaults, Suite* suite) {
    const toml::node* task = table.get("task");
    if (task == nullptr) FailAt(table, "a [[run]] needs 'task'");
    const std::string task_name = Text(*task, "task");
    const Command* verb = nullptr;
    std::string known;
    for (const Command& sub : eval_.verbs()) {
      if (sub.Find("--json") == nullptr || sub.Find("--html") == nullptr) continue;
      if (sub.name() == task_name) verb = &sub;
      known += (known.empty() ? "" : ", ") + sub.name();
    }
    if (verb == nullptr) FailAt(*task, fmt::format("unknown task '{}'; they are {}", task_name, known));
    std::vector<std::string> models = models_;
    std::string name = task_name;
    std::vector<std::string> words;
    for (const auto& [key, node] : table) {
      const std::string word(key.str());
      if (word == "task") continue;
      if (word == "name") {
        name = Text(node, word);
      } else if (word == "model" || word == "models") {
        models = Texts(node, word);
      } else {
        AddOption(*verb, word, node, &words);
      }
    }
    if (defaults != nullptr) {
      for (const auto& [key, node] : *defaults) {
        const std::string word(key.str());
        // A default that this task has no option for is not meant for it.
        if (table.contains(word) || verb->Find("--" + word) == nullptr) {
          if (!IsAnywhere("--" + word)) FailAt(node, fmt::format("no task has an option '--{}'", word));
          continue;
        }
        AddOption(*verb, word, node, &words);
      }
    }
    if (models.empty()) models.emplace_back();
    for (const std::string& model : models) AddRun(*verb, name, Path(model), models.size() > 1, words, suite);
  }

  bool IsAnywhere(const std::string& option) const {
    return std::any_of(eval_.verbs().begin(), eval_.verbs().end(),
                       [&](const Command& verb) { return verb.Find(option) != nullptr; });
  }

  void AddRun(const Command& verb, const std::string& name, const std::string& model, bool names_model,
              const std::vector<std::string>& words, Suite* suite) {
    SuiteRun run;
    run.model = model;
    run.name = names_model ? name + " " + fs::path(model).stem().string() : name;
    for (int number = 2; !names_.insert(FileName(run.name)).second; ++number) {
      run.name = fmt::format("{} {}", run.name.substr(0, run.name.rfind(" #")), "#" + std::to_string(number));
    }
    run.words = {"eval", verb.name()};
    if (!model.empty()) run.words.push_back(model);
    run.words.insert(run.words.end(), words.begin(), words.end());
    suite->runs.push_back(std::move(run));
  }

  const Command& eval_;
  std::string path_;
  fs::path folder_;
  std::vector<std::string> models_;
  std::set<std::string> names_ = {"report"};  // of files; the suite's own is taken
};

std::string Quoted(const std::vector<std::string>& words) {
  std::string line = "mneme";
  for (const std::string& word : words) {
    if (word.find_first_of(" \t\n'\"\\$&|;<>()*?#{}[]`!~") == std::string::npos && !word.empty()) {
      line += " " + word;
      continue;
    }
    line += " '";
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += "'";
  }
  return line;
}

class SuiteVerb {
 public:
  explicit SuiteVerb(Suite suite) : suite_(std::move(suite)) {}

  int Run() {
    std::error_code error;
    fs::create_directories(suite_.out, error);
    if (error) Fail(ErrorKind::kFile, "{}: cannot be made: {}", suite_.out, error.message());
    for (const SuiteRun& run : suite_.runs)
      parts_.push_back({run.name, Quoted(run.words), "not run", 0, "", ""});
    bool has_failed = false;
    for (size_t i = 0; i < suite_.runs.size() && !StopRequested(); ++i) {
      RunOne(i);
      if (!StopRequested()) has_failed = parts_[i].status != "done" || has_failed;
      WriteReports();
    }
    std::vector<std::vector<std::string>> table = {{"run", "time", "status"}};
    for (const SuitePart& part : parts_)
      table.push_back({part.name, part.seconds > 0 ? FormatSeconds(part.seconds) : "-", part.status});
    WriteOut(FormatTable(table) + fmt::format("\n{}\n", (fs::path(suite_.out) / "report.html").string()));
    if (StopRequested()) {
      PrintMessage("mneme: interrupted; the same command goes on\n");
      return kExitInterrupted;
    }
    return has_failed ? kExitError : 0;
  }

 private:
  std::string File(const SuiteRun& run, const char* ending) const {
    return (fs::path(suite_.out) / (FileName(run.name) + ending)).string();
  }

  // What decides whether a run that is there is this one.
  static std::string Key(const SuiteRun& run) {
    std::string key = Quoted(run.words) + "\n" MNEME_VERSION "\n";
    std::error_code error;
    if (!run.model.empty() && fs::is_regular_file(run.model, error)) {
      key += fmt::format("{} bytes, {}\n", fs::file_size(run.model, error),
                         fs::last_write_time(run.model, error).time_since_epoch().count());
    }
    return key;
  }

  void RunOne(size_t index) {
    const SuiteRun& run = suite_.runs[index];
    SuitePart& part = parts_[index];
    const std::string done = File(run, ".done"), started = File(run, ".started"), key = Key(run);
    if (FileExists(done)) {
      const std::string text = ReadWholeFile(done);
      if (text.starts_with(key) && FileExists(File(run, ".json"))) {
        part.seconds = std::strtod(text.c_str() + key.size(), nullptr);
        part.status = "done";
        Load(run, &part);
        PrintMessage("[{}/{}] {}: done before\n", index + 1, suite_.runs.size(), run.name);
        return;
      }
    }
    // Rows of another command must not be taken over; those of this one are.
    if (!FileExists(started) || ReadWholeFile(started) != key) {
      std::error_code error;
      for (const char* ending : {".json", ".html", ".txt", ".done"}) fs::remove(File(run, ending), error);
      if (OwnsFolder(run)) fs::remove_all(File(run, ".answers"), error);
    }
    WriteReport(started, key);
    PrintMessage("[{}/{}] {}\n", index + 1, suite_.runs.size(), part.command);
    const auto start = std::chrono::steady_clock::now();
    const int code = Spawn(run);
    part.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    Load(run, &part);
    if (code == 0) {
      part.status = "done";
      WriteReport(done, key + fmt::format("{:.3f}\n", part.seconds));
      WriteOutNow(fmt::format("{}\n\n{}\n", run.name, part.text));
    } else if (code == kExitInterrupted || StopRequested()) {
      part.status = "interrupted";
      RequestStop();
    } else {
      part.status = fmt::format("failed with code {}; see above", code);
    }
  }

  // Whether the run writes answers into a folder that the suite chose.
  bool OwnsFolder(const SuiteRun& run) const {
    const bool is_asked = std::find(run.words.begin(), run.words.end(), "--out") != run.words.end();
    return !is_asked && (run.words[1] == "longbench" || run.words[1] == "infinitebench" ||
                         run.words[1] == "babi" || run.words[1] == "summary");
  }

  // Runs the words with reports into files, standard output too. The exit code; 128 + n after signal n.
  int Spawn(const SuiteRun& run) const {
    std::vector<std::string> words = {"mneme"};
    words.insert(words.end(), run.words.begin(), run.words.end());
    words.insert(words.end(), {"--json", File(run, ".json"), "--html", File(run, ".html")});
    if (OwnsFolder(run)) words.insert(words.end(), {"--out", File(run, ".answers")});
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const std::string text = File(run, ".txt");
    posix_spawn_file_actions_addopen(&actions, 1, text.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    // A process group of its own: the terminal's Ctrl-C comes to this process alone, which passes it on once
    // (a second signal would end the child before it saved). Such a child cannot read the terminal.
    if (::isatty(0) != 0) posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
    pid_t child = 0;
    const int error =
        ::posix_spawn(&child, "/proc/self/exe", &actions, &attributes, pointers.data(), environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) Fail(ErrorKind::kFile, "mneme could not be started again: {}", std::strerror(error));
    int status = 0;
    bool is_told = false;
    // Not a wait that blocks: a signal just before it would go unseen.
    for (pid_t ended = 0; (ended = ::waitpid(child, &status, WNOHANG)) != child;) {
      if (ended < 0 && errno != EINTR) return kExitError;
      if (StopRequested() && !is_told) {
        ::kill(child, SIGINT);
        is_told = true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  void Load(const SuiteRun& run, SuitePart* part) const {
    if (FileExists(File(run, ".html"))) part->html = ReadWholeFile(File(run, ".html"));
    if (FileExists(File(run, ".txt"))) part->text = ReadWholeFile(File(run, ".txt"));
  }

  void WriteReports() const {
    Json json;
    json["format"] = "mneme eval suite";
    json["title"] = suite_.title;
    json["program"] = MNEME_VERSION;
    json["runs"] = Json::array();
    for (size_t i = 0; i < parts_.size(); ++i) {
      Json run = {{"name", parts_[i].name},
                  {"command", parts_[i].command},
                  {"status", parts_[i].status},
                  {"seconds", parts_[i].seconds},
                  {"report", nullptr}};
      const std::string path = File(suite_.runs[i], ".json");
      if (FileExists(path))
        run["report"] = Json::parse(ReadWholeFile(path), nullptr, /*allow_exceptions=*/false);
      json["runs"].push_back(std::move(run));
    }
    WriteReport((fs::path(suite_.out) / "report.json").string(),
                json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
    WriteReport((fs::path(suite_.out) / "report.html").string(), SuiteHtml(suite_.title, parts_));
  }

  Suite suite_;
  std::vector<SuitePart> parts_;
};

}  // namespace

void AddEvalSuite(Command& eval) {
  auto path = std::make_shared<std::string>();
  auto list = std::make_shared<bool>(false);
  Command& verb = eval.AddVerb("suite", "Several tasks, models and contexts from one file, one report");
  verb.Text("FILE", path.get(), "", "TOML file").is_required = true;
  verb.Flag("--list", list.get(), "Print the commands, run nothing");
  verb.SetFooter(
      "Example:\n"
      "  mneme eval suite recipes/eval-quick.toml       Ctrl-C keeps what is done; the same command goes "
      "on\n\n"
      "The file:\n"
      "  title = \"...\"               of the report\n"
      "  out = \"folder\"              for reports and answers\n"
      "  models = [\"a.gguf\"]         of runs that name none\n"
      "  [defaults]                  options of every run that has them: memory = \"64M\"\n"
      "  [[run]]                     task = \"perplexity\", and any option of `mneme eval perplexity` "
      "without\n"
      "                              its dashes; lists repeat an option. Paths are taken from the file's "
      "folder.");
  verb.SetAction([&eval, path, list] {
    Suite suite = SuiteReader(eval, *path).Read();
    if (*list) {
      for (const SuiteRun& run : suite.runs) WriteOut(Quoted(run.words) + "\n");
      return 0;
    }
    return SuiteVerb(std::move(suite)).Run();
  });
}

}  // namespace mneme::cli
