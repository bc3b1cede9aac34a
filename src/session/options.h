// Options as plain data, and options by name. Those of sessions, samplers and answers are beside what they
// are for (session.h, sampler.h); each field of all of them has a row in fields.cc.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/fields.h"
#include "model/model.h"

namespace mneme {

struct EngineOptions {
  size_t num_threads = 0;   // 0: all cores
  size_t memory_bytes = 0;  // the cap for everything beside the weights; 0: half of what is free
};

struct ModelOptions {
  PackMode pack = PackMode::kAuto;
  std::string tokenizer = {};  // path, where the model carries none or another is wanted
};

// One option as a user, a request or a file gives it: {"context", "sinks:window=1020"}, {"temperature",
// "0.8"}.
struct Setting {
  std::string name;
  std::string value;
  bool operator==(const Setting&) const = default;
};

// A row of the table.
struct SettingInfo {
  std::string_view names;  // "temperature,temp": the first is the option's own, others are understood too
  std::string_view type;   // what stands for a value in a help text: "N"; empty for true or false
  std::string default_value;
  std::string_view help;
  InState in_state = InState::kNo;
  bool is_list = false;  // each setting adds one more

  std::string_view name() const { return FirstName(names); }
};

}  // namespace mneme
