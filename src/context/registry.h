// The table of contexts, and how one is made from --context NAME[:key=value,...].
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "context/context.h"
#include "context/policy.h"

namespace mneme {

// All rows, in the order of the help text.
std::span<const PolicyRow> PolicyTable();

// Throws Error(kInput) for a text that means nothing for any model: an unknown name (the known ones are
// listed) or key, a key twice, a missing value, a value out of its range.
void CheckContextSpec(std::string_view text);
// Whether `asked`, with so many pinned tokens, means the resolved context `spec`, apart from what it leaves
// open: "auto", "sinks", "sinks:window=1K". Throws as CheckContextSpec.
bool ContextAgrees(std::string_view asked, std::string_view spec, int64_t num_pinned);
// Whether a spec names a context that stores and recalls. Throws as CheckContextSpec.
bool Recalls(std::string_view text);
// How many tokens at the end of a turn a context reads again (Context::Replay), at most; 0 for most. Throws
// as CheckContextSpec.
int64_t ReplayOf(std::string_view text);
// Throws Error(kInput) for numbers beside the spec that no context can have.
void CheckContextNumbers(const ContextSettings& settings);

// The policy of a resolved spec: settings.policy where that is what the spec says, else made from the text.
// Throws Error(kInput, kUnsupported).
std::shared_ptr<const Policy> PolicyOf(const ContextShape& shape, const ContextSettings& settings);

// What `auto` decided, and why, in a sentence for the user. A settings.spec other than auto comes back as it
// is, with defaults filled in and an empty reason. settings.policy is set: whoever gets these settings does
// not read the text again. cap_bytes is what KV and attention scratch may take;
// num_tokens the length of the stream if it is known, else -1. Throws Error(kBudget), with the cap that would
// do, if nothing fits.
struct ResolvedContext {
  ContextSettings settings;
  std::string reason;
};
ResolvedContext ResolveContext(const ContextShape& shape, const ContextSettings& settings, size_t cap_bytes,
                               int64_t num_tokens, size_t num_threads = 1);

// Peak bytes of a resolved context after num_tokens tokens (-1: as many as come; only bounded contexts have
// an answer, others say SIZE_MAX).
ContextBytes PeakContextBytes(const ContextShape& shape, const ContextSettings& settings, int64_t num_tokens,
                              size_t num_threads);

// Makes a context. Bounded ones reserve all of PeakContextBytes here, `dense` reserves as it grows. Throws
// Error(kInput, kUnsupported, kBudget). shape and budget must outlive the context.
std::unique_ptr<Context> MakeContext(const ContextShape& shape, const ContextSettings& settings,
                                     const Budget& budget, size_t num_threads);

}  // namespace mneme
