// write_random_model PATH: a model of a megabyte or so, for tests that need some model.
#include <cstdio>
#include <exception>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "model/random_model.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    mneme::ThreadPool pool(1);
    mneme::NoProgress progress;
    mneme::WriteRandomModel(mneme::ParseRandomShape("tiny"), mneme::Encoding::kQ8_0, 1, argv[1], pool,
                            progress);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "write_random_model: %s\n", error.what());
    return 1;
  }
  return 0;
}
