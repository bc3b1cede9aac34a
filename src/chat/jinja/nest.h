// How deep a rendering stands inside its template.
#pragma once

#include "chat/jinja/interpreter.h"

namespace mneme::jinja {

// One level, for as long as it lives. Throws TemplateError(kBudget) before the stack ends.
class Interpreter::Nest {
 public:
  Nest(int* depth, const Meter& meter) : depth_(depth) {
    if (*depth_ >= meter.limits().max_depth) {
      throw TemplateError{ErrorKind::kBudget, "its macros and blocks are nested too deeply"};
    }
    ++*depth_;
  }
  ~Nest() { --*depth_; }
  Nest(const Nest&) = delete;
  Nest& operator=(const Nest&) = delete;

 private:
  int* depth_;
};

}  // namespace mneme::jinja
