// A chat template in the language Jinja2, as transformers sets it up: parsed once, rendered for any number of
// conversations. Immutable; any number of threads at once.
#pragma once

#include <ctime>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/jinja/limits.h"
#include "chat/jinja/syntax/ast.h"
#include "mneme/chat.h"

namespace mneme::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

class Template {
 public:
  // name: what messages call it. Throws Error(kFile), with the line, for what is no template or has a tag
  // that is not known here.
  Template(std::string_view source, std::string name);

  // What it writes, run by run. Throws Error(kInput) for what the template refuses or cannot do (its own
  // words of raise_exception among them), Error(kUnsupported) for a filter or test that is not known,
  // Error(kBudget) past a limit; all name the line.
  std::vector<Segment> Render(const Variables& variables, const std::tm& now,
                              const Limits& limits = {}) const;

 private:
  std::string name_;
  Body body_;
};

// Values whose strings were written by `kind`.
Value FromJson(const nlohmann::ordered_json& json, TextKind kind);

// The variables of a conversation. What stands in it was written by people or models, and its text stays
// letters: all but the tokens that the model's files name (bos_token, eos_token and their kin), and roles
// that are one of the four words which templates build control tokens of ('<|' + message.role + '|>').
Variables ConversationVariables(const nlohmann::ordered_json& conversation);

}  // namespace mneme::jinja
