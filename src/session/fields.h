// What mneme/options.h does not say of options: their ranges, and what a saved state says of them. The tables
// themselves are in fields.cc, one row per field.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/options.h"

namespace mneme {

// What a state's header holds: fields with an InState other than kNo.
std::vector<Setting> StateValuesOf(const SessionOptions& options);

// The options to go on with from a state that was saved with `saved`: those, with `changes` (what the user
// typed) in place of what a state leaves free. `name`: of the state, for messages. Throws Error(kMismatch)
// that names the first setting that the state is bound to and that differs, Error(kInput) as Apply. A context
// that leaves keys open
// ("sinks", "auto") agrees with a saved one that has them.
SessionOptions ChangedOptions(const SessionOptions& saved, std::span<const Setting> changes,
                              const std::string& name);
// Throws Error(kInput) that names the first field whose value is outside its range.
template <typename Options>
void CheckOptions(const Options& options);
// Throws Error(kMismatch) that names the first setting that a state is bound to and in which `here` differs.
void CompareOptions(const SessionOptions& saved, const SessionOptions& here, const std::string& name);

}  // namespace mneme
