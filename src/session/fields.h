// Options by name: settings given as text, the table of all that there are, and what a saved state says of
// them. The tables themselves are in fields.cc, one row per field.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "session/options.h"
#include "session/session.h"

namespace mneme {

// As the command line writes it, which is how messages name options: "--max-rewind", "-t".
std::string OptionName(std::string_view name);

// Every option of the library: of the engine, the model, the session with its sampler, and an answer.
std::span<const SettingInfo> SettingTable();
// Those of one struct; their defaults are the values that `options` has.
template <typename Options>
std::vector<SettingInfo> SettingsOf(const Options& options);

// Puts settings, in their order, into the fields that they name. Throws Error(kInput) naming the setting:
// unknown (the known ones are listed), or a value that the field does not take; the options are unchanged
// then. Options: EngineOptions, ModelOptions, SamplerSettings, SessionOptions, GenerateOptions.
template <typename Options>
void Apply(std::span<const Setting> settings, Options* options);
// One setting; `what` names it in messages ("--top-k"). False, and nothing else, if there is no such name.
template <typename Options>
bool ApplyOne(const Setting& setting, std::string_view what, Options* options);

// The value of every field as text, in the order of the table: what a report shows, and what a state's header
// holds (those with an InState other than kNo).
template <typename Options>
std::vector<Setting> ValuesOf(const Options& options);
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
