// What a call stores before anything is read.
#include "kernels/attend/job.h"

namespace mneme {

void StoreHead(const AttendCall& call, size_t row, size_t kv_head, float* rotated) {
  const KvLayout& layout = call.shape.layout;
  const size_t at = row * layout.num_kv_heads + kv_head;
  const float* const k = call.k + at * layout.key_dim;
  const float* const v = call.v + at * layout.value_dim;
  for (const KvWrite& write : call.writes) {
    if (row >= write.num_rows) continue;
    const float* key = k;
    if (write.rope != nullptr) {
      Rotate(*call.shape.rope, write.rope[row], k, 1, layout.key_dim, rotated);
      key = rotated;
    }
    const size_t token = static_cast<size_t>(write.first_token) + row;
    KvStoreHead(layout, write.blocks[token / kBlockTokens], token % kBlockTokens, kv_head, key, v);
  }
}

}  // namespace mneme
