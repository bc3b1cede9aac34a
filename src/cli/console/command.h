// The command line as data: a verb lists its options, where their values go, and what its help says. The
// parser behind it is CLI11, which only command.cc sees: a file that includes it takes ten seconds to
// compile.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/text/fields.h"

namespace mneme::cli {

// The command line itself is wrong: exit code 2.
class UsageError : public Error {
 public:
  explicit UsageError(std::string message) : Error(ErrorKind::kInput, std::move(message)) {}
};
[[noreturn]] inline void FailUsage(std::string message) { throw UsageError(std::move(message)); }

// One option, or one positional argument (its names do not begin with a dash).
struct Option {
  std::string names = {};  // "-n,--num-tokens"
  std::string type = {};   // what stands for the value in the help: "N"; empty for a flag
  std::string help = {};
  std::string group = {};
  bool is_flag = false;
  bool is_list = false;  // may be given more than once
  bool is_required = false;
  // A positional list takes up to so many.
  size_t max_values = 1;
  // Takes one value; a flag's is "true". Throws Error(kInput), whose message names the option.
  std::function<void(const std::string& value)> take = nullptr;

  // What messages call it: its first long name.
  std::string Name() const;
};

// A verb, or the program. Lives as long as the program, so that options may point into its arguments.
class Command {
 public:
  Command(std::string name, std::string help) : name_(std::move(name)), help_(std::move(help)) {}
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  const std::string& name() const { return name_; }
  const std::string& help() const { return help_; }
  const std::string& footer() const { return footer_; }
  const std::list<Option>& options() const { return options_; }
  const std::list<Command>& verbs() const { return verbs_; }
  const std::function<int()>& action() const { return action_; }
  // Null if there is none. name as typed: "--json".
  const Option* Find(std::string_view name) const;

  Command& AddVerb(const std::string& name, const std::string& help) {
    return verbs_.emplace_back(name, help);
  }
  // Of the options that follow.
  void SetGroup(std::string group) { group_ = std::move(group); }
  void SetFooter(std::string footer) { footer_ = std::move(footer); }
  // What the verb does after parsing; returns the exit code.
  void SetAction(std::function<int()> action) { action_ = std::move(action); }

  Option& Add(Option option);
  Option& Flag(std::string names, bool* value, std::string help);
  Option& Text(std::string names, std::string* value, std::string type, std::string help);
  // One value at a time, more than once.
  Option& List(std::string names, std::vector<std::string>* values, std::string type, std::string help);
  template <typename T>
  Option& Number(std::string names, T* value, const Range& range, std::string type, std::string help) {
    Option& option = Add({.names = std::move(names), .type = std::move(type), .help = std::move(help)});
    option.take = [value, range, name = option.Name()](const std::string& text) {
      ParseField(text, name, range, value);
    };
    return option;
  }

 private:
  std::string name_;
  std::string help_;
  std::string footer_;
  std::string group_;
  std::list<Option> options_;  // a list: references stay valid
  std::list<Command> verbs_;
  std::function<int()> action_;
};

// What a command line asks for: the action of its verb, or, if there is none, nothing more than this exit
// code.
struct ParsedCommand {
  std::function<int()> action;
  int code = 0;
};
// Parses the command line and hands every value to its option. Help and version go to standard output
// (Error(kFile) if it cannot be written); a wrong command line is explained on standard error, with the name
// that was probably meant, or with what `hint` says of an option that other programs have. Throws UsageError
// for a value that an option does not take.
ParsedCommand ParseCommandLine(const Command& program, const std::string& version, int argc, char** argv,
                               const std::function<std::string_view(std::string_view option)>& hint);

}  // namespace mneme::cli
