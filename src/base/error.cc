#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace mneme {

void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: this is a bug in mneme: check failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace mneme
