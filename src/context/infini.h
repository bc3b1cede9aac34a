// Infini-attention (Munkhdalai et al. 2024, arXiv 2404.07143) as a context: local attention inside segments,
// a compressive memory of everything before them, one learned gate per head that mixes the two. The state
// does not grow at all.
//
// A token is in exactly one place: seen by local attention, or in the memory. Local attention sees the
// token's own segment up to itself, and `previous` whole segments before it (0 as in the paper; more gives a
// sliding window with delayed commit). When a new segment begins, the oldest one leaves the window and is
// written into the memory, before that segment's first read. Segments count from the start of the stream,
// whatever the chunks are.
//
// While the memory is empty the gate is bypassed (out = local), so that short inputs give what the model
// gives without a memory; models trained otherwise say so (MemoryRules::literal_first).
//
// Rewind: keys and values (float32, before rotation) of the segments that a rewind can reach are kept, and
// the memory as it was at each of their borders.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "context/context.h"
#include "context/span_context.h"
#include "kernels/memory/memory.h"
#include "kv/block_pool.h"
#include "kv/block_table.h"

namespace mneme {

// "linear", "delta", "gated-delta".
std::string_view MemoryUpdateName(MemoryUpdate update);
// Throws Error(kInput) for another name.
MemoryUpdate ParseMemoryUpdate(std::string_view name);

class InfiniContext : public Context {
 public:
  // The policy has a memory, and every layer of the shape a memory_gate. Throws Error(kBudget) before
  // anything is allocated.
  InfiniContext(const ContextShape& shape, const ContextSettings& settings,
                std::shared_ptr<const Policy> policy, const Budget& budget, size_t num_threads);
  static ContextBytes PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                const Policy& policy, size_t num_threads);

  std::string Describe() const override { return local_->Describe(); }
  void Begin(std::span<const TokenId> tokens) override;
  void SetWriteGate(size_t layer, const float* write_gate) override;
  AttendCall Plan(size_t layer, const float* q, const float* k, const float* v, float* out) override;
  void Finish(size_t layer, Device& device) override;
  void Commit() override;
  void Abort() override;
  int64_t MaxRewind() const override;
  void Rewind(int64_t count) override;
  void Save(StateWriter& writer) const override;
  void Restore(StateReader& reader) override;
  std::unique_ptr<Context> Fork() const override;
  std::vector<LedgerRange> Ledger() const override;

  // Segments in the memory that a token at `index` reads.
  int64_t NumCommitted(int64_t index) const {
    return std::max<int64_t>(0, index / options_.segment - options_.previous);
  }
  // The memory that the next token reads: [num_kv_heads][key_dim][value_dim] of M, then z. For tests and
  // pictures.
  const float* memory(size_t layer) const;

 private:
  struct Layer {
    MemoryShape shape;
    BlockTable kept;  // float32 keys and values, not rotated, of the tokens that are not in the memory yet
    AlignedArray<float> write_gates;  // [kept tokens, num_kv_heads], by index modulo; gated-delta only
    AlignedArray<float>
        memories;  // [num_snapshots][shape.num_floats()]: after c segments, at place c modulo num_snapshots
  };
  struct KeptPool {
    std::shared_ptr<BlockPool> blocks;
    BlockPool::Quota quota;
  };
  // Fork.
  InfiniContext(const InfiniContext& origin);
  void Reserve();
  KeptPool& KeptPoolOf(const KvLayout& layout);
  // Everything but the kept tokens.
  Layer MakeLayer(const LayerAttention& spec, BlockTable kept) const;
  void MakeScratch();
  void CutKept(int64_t num_tokens);
  // The oldest token that the row, or a later one, may need to write a segment.
  int64_t NeedKept(int64_t row) const { return FirstKept(std::max<int64_t>(0, NumCommitted(row) - 1)); }
  float* MemoryAt(Layer& layer, int64_t num_committed) const;
  // The oldest token whose key or value is needed to write the segment.
  int64_t FirstKept(int64_t segment) const;
  // The part of the call that writes a segment; its keys and values are gathered here.
  void SetSegment(Layer& layer, int64_t segment, MemoryCall* call);
  // The chunk's keys as local attention sees them under MemoryRules::key_shift.
  const float* ShiftedKeys(const Layer& layer, const float* k);
  void StoreKept(size_t layer, const float* k, const float* v);

  const ContextShape& shape_;
  const ContextSettings settings_;
  const InfiniOptions options_;
  const int64_t kept_tokens_;
  const int64_t num_snapshots_;
  const Budget& budget_;
  const size_t num_threads_;
  std::unique_ptr<SpanContext> local_;
  Lease memory_lease_;
  Lease scratch_lease_;
  // One per layout. Tables go before the quotas that pay for them.
  std::vector<KeptPool> pools_;
  std::vector<Layer> layers_;
  AlignedArray<float> segment_k_, segment_v_, segment_gate_;  // one segment, gathered
  AlignedArray<float> write_scratch_;
  AlignedArray<float> memory_out_;  // [max_chunk, num_heads, value_dim]
  AlignedArray<float> shifted_k_;   // [max_chunk, num_kv_heads, key_dim]; key_shift only
  const float* write_gate_ = nullptr;
  size_t write_gate_layer_ = 0;
  int64_t chunk_tokens_ = 0;
  const float* q_ = nullptr;  // of Plan, for Finish
  float* out_ = nullptr;
  int64_t oldest_snapshot_ = 0;  // memories after this many segments and later ones are intact
};

}  // namespace mneme
