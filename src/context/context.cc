#include "context/context.h"

#include <array>

namespace mneme {

std::string_view TokenFateName(TokenFate fate) {
  static constexpr std::array<std::string_view, 8> kNames = {"sink",   "window",   "middle", "compressed",
                                                             "stored", "recalled", "state",  "dropped"};
  return kNames[static_cast<size_t>(fate)];
}

}  // namespace mneme
