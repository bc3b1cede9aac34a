// The system's BLAS under libtorch. OpenBLAS picks its kernels when it is loaded, by the CPU models that it
// knew when it was released; on newer ones it may fall back to kernels several times too slow.
#pragma once

#include <cstdint>
#include <string>

namespace mneme::train {

// If OpenBLAS is loaded and uses kernels below what the CPU can do, or another number of threads, starts this
// program again with OPENBLAS_CORETYPE and OPENBLAS_NUM_THREADS set, and does not return. Variables that the
// user has set are left alone. Returns a line that says what is in use.
std::string PrepareBlas(char** argv, int64_t num_threads);

}  // namespace mneme::train
