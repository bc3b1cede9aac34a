// An engine: the processor's threads and the memory cap that models and their sessions share.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "mneme/export.h"
#include "mneme/memory.h"
#include "mneme/options.h"

namespace mneme {

// A handle: copies are the same engine, and models and sessions keep it alive. Thread rule: one thread at a
// time for an engine with all its models and sessions, apart from memory() and Reserve(), which any thread
// may call. Two engines know nothing of each other.
class MNEME_API Engine {
 public:
  // Throws Error(kInput) for options out of range. Where the system gives fewer threads than asked for, the
  // engine has those: results are the same.
  explicit Engine(const EngineOptions& options = {});

  const EngineOptions& options() const;  // memory_bytes is the cap in force, num_threads what was asked for
  size_t num_threads() const;            // that it has, the caller's among them
  MemoryReport memory() const;
  // The application's own buffers under the same cap; `what` is a noun phrase for the message. Throws
  // Error(kBudget) with the cap that would do.
  Lease Reserve(size_t bytes, std::string_view what) const;

  struct Impl;  // for the library's own files
  Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace mneme
