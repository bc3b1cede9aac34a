// What the library throws.
#pragma once

#include <stdexcept>
#include <string>

#include "mneme/export.h"

namespace mneme {

enum class ErrorKind {
  kInput,        // the caller's data or arguments are wrong
  kFile,         // a file cannot be opened, read, written, or is not what it claims
  kBudget,       // a reservation does not fit under the memory cap
  kUnsupported,  // understood, and not something this build or model can do
  kMismatch,     // a state or checkpoint that belongs to something else
  kInterrupted,  // the user asked to stop
};

// Thrown for everything that is not a bug of ours. The message names the thing, what is wrong with it, and
// what to do; each function says which kinds it throws, and what state remains after them. std::bad_alloc
// comes through as it is. The library never prints, exits or aborts on input.
class MNEME_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace mneme
