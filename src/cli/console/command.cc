#include "cli/console/command.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>

#include "base/message.h"
#include "cli/console/console.h"
#include "cli/verbs.h"

namespace mneme::cli {
namespace {

// Edits (insert, delete, replace, swap of neighbours) that turn a into b.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      cost[i][j] =
          std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

// The known word nearest to what was typed, or empty if none is near enough to be meant.
std::string Nearest(std::string_view typed, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, typed.size() / 3) + 1;
  for (const std::string& word : known) {
    const bool is_prefix = typed.size() >= 3 && word.starts_with(typed);
    const size_t distance = is_prefix ? 1 : EditDistance(typed, word);
    if (distance < best_distance) {
      best_distance = distance;
      best = word;
    }
  }
  return best;
}

std::string MeantText(std::string_view typed, const std::vector<std::string>& known) {
  const std::string nearest = Nearest(typed, known);
  return nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest);
}

std::vector<std::string> SplitNames(const std::string& names) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    words.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

// An empty name of a file is a variable of a script that was not set.
void RefuseEmptyName(const Option& option, const std::string& value) {
  const bool is_name = !option.names.starts_with('-') || option.type.starts_with("FILE") ||
                       option.type == "PATH" || option.type == "FOLDER" || option.type == "MODEL";
  if (is_name && value.empty()) FailUsage(option.Name() + ": the name of a file is empty");
}

// CLI11's view of a command, and what it found.
class Parser {
 public:
  Parser(const Command& program, const std::string& version) : app_(program.help(), program.name()) {
    app_.set_version_flag("--version", version);
    app_.get_formatter()->column_width(34);
    Describe(program, &app_);
  }

  CLI::App& app() { return app_; }

  // The innermost verb that was typed.
  const CLI::App& Typed() const {
    const CLI::App* typed = &app_;
    while (!typed->get_subcommands().empty()) typed = typed->get_subcommands().front();
    return *typed;
  }
  const Command& TypedCommand() const { return *commands_.at(&Typed()); }

  // Hands out the values, in the order of the table.
  void Take() const {
    for (const Given& given : given_) {
      if (given.app != &Typed() || given.option->count() == 0) continue;
      if (given.ours->is_flag) {
        given.ours->take("true");
      } else {
        for (const std::string& value : *given.values) {
          RefuseEmptyName(*given.ours, value);
          given.ours->take(value);
        }
      }
    }
  }

 private:
  struct Given {
    const CLI::App* app;
    const CLI::Option* option;
    const Option* ours;
    std::shared_ptr<std::vector<std::string>> values;
  };

  void Describe(const Command& command, CLI::App* app) {
    commands_[app] = &command;
    app->footer(command.footer());
    // Without a verb the program shows its help; `mneme eval` says that one is missing.
    if (!command.verbs().empty()) app->require_subcommand(app == &app_ ? 0 : 1, 1);
    for (const Option& option : command.options()) DescribeOption(option, app);
    for (const Command& verb : command.verbs()) Describe(verb, app->add_subcommand(verb.name(), verb.help()));
  }

  void DescribeOption(const Option& option, CLI::App* app) {
    auto values = std::make_shared<std::vector<std::string>>();
    CLI::Option* made = nullptr;
    if (option.is_flag) {
      made = app->add_flag(option.names, option.help);
    } else {
      made = app->add_option(option.names, *values, option.help)->type_name(option.type);
      if (option.max_values > 1) {
        made->expected(1, static_cast<int>(option.max_values));
      } else {
        made->expected(1)->multi_option_policy(option.is_list ? CLI::MultiOptionPolicy::TakeAll
                                                              : CLI::MultiOptionPolicy::Throw);
      }
    }
    made->allow_extra_args(option.max_values > 1);  // else "[a, b]" is a text, not a list
    if (!option.group.empty()) made->group(option.group);
    made->required(option.is_required);
    given_.push_back({app, made, &option, std::move(values)});
  }

  CLI::App app_;
  std::map<const CLI::App*, const Command*> commands_;
  std::vector<Given> given_;
};

std::string FullName(const CLI::App& app) {
  return app.get_parent() == nullptr ? "mneme" : FullName(*app.get_parent()) + " " + app.get_name();
}

std::vector<std::string> KnownWords(const Command& command) {
  std::vector<std::string> known = {"--help"};
  for (const Option& option : command.options()) {
    for (const std::string& name : SplitNames(option.names)) {
      if (name.starts_with('-')) known.push_back(name);
    }
  }
  for (const Command& verb : command.verbs()) known.push_back(verb.name());
  return known;
}

int ReportUsage(std::string message, const std::string& verb) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  PrintMessage("mneme: {}\nSee `{} --help`.\n", message, verb);
  return kExitUsage;
}

int ReportParseError(const CLI::ParseError& error, const Parser& parser, int argc, char** argv,
                     const std::function<std::string_view(std::string_view)>& hint) {
  const CLI::App& verb = parser.Typed();
  const std::vector<std::string> known = KnownWords(parser.TypedCommand());
  // An option of another program may have been read as one of ours with a value: -ngl as -n gl.
  for (int i = 1; i < argc; ++i) {
    const std::string word(argv[i]);
    const std::string option = word.substr(0, word.find('='));
    if (!hint(option).empty() && std::find(known.begin(), known.end(), option) == known.end()) {
      return ReportUsage(fmt::format("unknown option '{}': {}", option, hint(option)), FullName(verb));
    }
  }
  const std::vector<std::string> extras = verb.remaining();
  if (extras.empty() || dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    return ReportUsage(error.what(), FullName(verb));
  }
  const std::string typed = extras.front().substr(0, extras.front().find('='));
  return ReportUsage(
      fmt::format("{} '{}'{}", typed.starts_with('-') ? "unknown option" : "unexpected argument", typed,
                  MeantText(typed, known)),
      FullName(verb));
}

}  // namespace

std::string Option::Name() const {
  const std::vector<std::string> words = SplitNames(names);
  for (const std::string& word : words) {
    if (word.starts_with("--")) return word;
  }
  return words.front();
}

const Option* Command::Find(std::string_view name) const {
  for (const Option& option : options_) {
    const std::vector<std::string> words = SplitNames(option.names);
    if (std::find(words.begin(), words.end(), name) != words.end()) return &option;
  }
  return nullptr;
}

Option& Command::Add(Option option) {
  option.group = group_;
  return options_.emplace_back(std::move(option));
}

Option& Command::Flag(std::string names, bool* value, std::string help) {
  return Add({.names = std::move(names),
              .help = std::move(help),
              .is_flag = true,
              .take = [value](const std::string&) { *value = true; }});
}

Option& Command::Text(std::string names, std::string* value, std::string type, std::string help) {
  return Add({.names = std::move(names),
              .type = std::move(type),
              .help = std::move(help),
              .take = [value](const std::string& text) { *value = text; }});
}

Option& Command::List(std::string names, std::vector<std::string>* values, std::string type,
                      std::string help) {
  return Add({.names = std::move(names),
              .type = std::move(type),
              .help = std::move(help),
              .is_list = true,
              .take = [values](const std::string& text) { values->push_back(text); }});
}

ParsedCommand ParseCommandLine(const Command& program, const std::string& version, int argc, char** argv,
                               const std::function<std::string_view(std::string_view option)>& hint) {
  if (argc > 1 && argv[1][0] != '-') {
    std::vector<std::string> verbs;
    for (const Command& verb : program.verbs()) verbs.push_back(verb.name());
    if (std::find(verbs.begin(), verbs.end(), argv[1]) == verbs.end()) {
      return {nullptr, ReportUsage(fmt::format("unknown command '{}'{}", argv[1], MeantText(argv[1], verbs)),
                                   "mneme")};
    }
  }
  Parser parser(program, version);
  try {
    parser.app().parse(argc, argv);
  } catch (const CLI::CallForVersion&) {
    WriteOutNow(version + "\n");
    return {};
  } catch (const CLI::Success&) {
    WriteOutNow(parser.app().help());
    return {};
  } catch (const CLI::ParseError& error) {
    return {nullptr, ReportParseError(error, parser, argc, argv, hint)};
  }
  try {
    parser.Take();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInput) throw;
    FailUsage(error.what());
  }
  const Command& typed = parser.TypedCommand();
  if (typed.action() != nullptr) return {typed.action(), 0};
  WriteMessage(parser.app().help());
  return {nullptr, kExitUsage};
}

}  // namespace mneme::cli
