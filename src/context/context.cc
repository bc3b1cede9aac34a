#include "context/context.h"

#include <array>

namespace mneme {

// Whoever wants another encoding for values has them stored apart.
bool LayerAttention::StoresValuesInKeys(Encoding keys, Encoding values) const {
  return values_in_keys && keys == values && CanKeepValuesInKeys(keys, key_dim, value_dim);
}

std::string_view TokenFateName(TokenFate fate) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "sink", "window", "middle", "compressed", "stored", "recalled", "state", "dropped", "damaged"};
  return kNames[static_cast<size_t>(fate)];
}

}  // namespace mneme
