// Shares of the memory cap, and what was given out. Everything beside the weights that could be large, or
// grow with the input, is taken from the cap before it is allocated.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "mneme/export.h"

namespace mneme {

// Move-only share of a cap; gives its bytes back when destroyed. Thread rule: one thread at a time per lease;
// leases of one cap are independent.
class MNEME_API Lease {
 public:
  Lease();
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  ~Lease();

  size_t bytes() const;
  // Grows or shrinks to new_bytes; `what` is a noun phrase for the message. Throws Error(kBudget), with the
  // cap that would do, and keeps its old size if the growth does not fit. Error(kInput) on an empty lease.
  void Resize(size_t new_bytes, std::string_view what);

  struct Impl;  // for the library's own files
  explicit Lease(std::unique_ptr<Impl> impl);

 private:
  void Release();
  std::unique_ptr<Impl> impl_;
};

// What was given out, by use.
struct MemoryReport {
  struct Row {
    std::string_view
        tag;  // "kv", "memory", "store", "scratch", "tokenizer", "session", "input", "weights", "packed"
    size_t used_bytes;
    size_t peak_bytes;
    bool is_under_cap;  // not weights and their repacked copies, which nothing that a run does changes
  };
  // Of the rows under the cap. SIZE_MAX: no cap.
  size_t cap_bytes = 0;
  size_t used_bytes = 0;
  size_t peak_bytes = 0;
  // One per tag that was ever used, in a fixed order.
  std::vector<Row> rows;
};

}  // namespace mneme
