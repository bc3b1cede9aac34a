// What every fuzz target does with errors: mneme::Error is the right answer to bad input; anything else that
// is thrown, and any sanitizer report, is a finding.
#pragma once

#include "base/error.h"

namespace mneme::fuzz {

// Runs fn; true if it ended without an Error.
template <typename Fn>
bool Accepts(const Fn& fn) {
  try {
    fn();
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace mneme::fuzz
