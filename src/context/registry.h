// The table of contexts, and how one is made from --context NAME[:key=value,...].
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "context/context.h"

namespace mneme {

// A setting of a policy.
struct ContextKey {
  std::string_view name;
  std::string_view default_value;  // "auto" where it depends on the model
  std::string_view help;
};

// A row of the table.
struct ContextRow {
  std::string_view name;
  std::string_view help;   // one line
  std::string_view paper;  // where it comes from
  std::span<const ContextKey> keys;
};

// All rows, in the order of the help text.
std::span<const ContextRow> ContextTable();

// "sinks:sinks=4,window=1020" taken apart.
struct ContextSpec {
  std::string name;
  std::map<std::string, std::string> options;
  std::string ToString() const;
};
// Throws Error(kInput): unknown name (the known ones are listed) or key, a key twice, a missing value.
ContextSpec ParseContextSpec(std::string_view text);

// What `auto` decided, and why, in a sentence for the user. A settings.spec other than auto comes back as it
// is, with defaults filled in and an empty reason. cap_bytes is what KV and attention scratch may take;
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
                                     Budget& budget, size_t num_threads);

}  // namespace mneme
