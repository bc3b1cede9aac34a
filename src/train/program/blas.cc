#include "train/program/blas.h"

#include <dlfcn.h>
#include <fmt/core.h>
#include <strings.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>

namespace mneme::train {
namespace {

#if defined(__x86_64__)
// How wide the kernels of an OpenBLAS core are, in bits.
int WidthOf(std::string_view core) {
  for (const char* name : {"SkylakeX", "Cooperlake", "SapphireRapids"}) {
    if (strcasecmp(std::string(core).c_str(), name) == 0) return 512;
  }
  for (const char* name : {"Haswell", "Zen", "Excavator"}) {
    if (strcasecmp(std::string(core).c_str(), name) == 0) return 256;
  }
  return 128;
}

struct Best {
  const char* core;
  int width;
};
Best BestCore() {
  __builtin_cpu_init();
  const bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_512) return {__builtin_cpu_supports("avx512bf16") ? "COOPERLAKE" : "SKYLAKEX", 512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {"HASWELL", 256};
  return {"", 128};
}
#endif

}  // namespace

std::string PrepareBlas(char** argv, int64_t num_threads) {
  using CoreName = char* (*)();
  const auto core_name = reinterpret_cast<CoreName>(dlsym(RTLD_DEFAULT, "openblas_get_corename"));
  if (core_name == nullptr) {
    return "matrix products: not OpenBLAS (Debian: libopenblas0-pthread is much faster than the reference "
           "BLAS)";
  }
  const std::string core = core_name();
#if defined(__x86_64__)
  constexpr const char* kGuard = "MNEME_BLAS_PREPARED";
  if (std::getenv(kGuard) == nullptr) {
    const Best best = BestCore();
    setenv(kGuard, core.c_str(), 1);
    if (best.width > WidthOf(core)) setenv("OPENBLAS_CORETYPE", best.core, 0);
    setenv("OPENBLAS_NUM_THREADS", std::to_string(num_threads).c_str(), 0);
    setenv("OMP_NUM_THREADS", std::to_string(num_threads).c_str(), 0);
    // By its path, so that process lists show the program's name. Returns only where this is not possible.
    std::error_code error;
    execv(std::filesystem::read_symlink("/proc/self/exe", error).c_str(), argv);
  }
  const std::string_view before = std::getenv(kGuard);
  if (!before.empty() && before != core) {
    return fmt::format("matrix products: OpenBLAS with {} kernels (it had taken this CPU for {})", core,
                       before);
  }
  if (BestCore().width > WidthOf(core)) {
    return fmt::format(
        "matrix products: OpenBLAS with {} kernels, as OPENBLAS_CORETYPE says; {} should be faster", core,
        BestCore().core);
  }
#else
  static_cast<void>(argv);
  static_cast<void>(num_threads);
#endif
  return fmt::format("matrix products: OpenBLAS with {} kernels", core);
}

}  // namespace mneme::train
