// The context that executes a Policy: keeps the keys and values of its tracks in blocks, hands the kernel the
// spans that each row sees.
//
// A key is rotated once per track, to the place that the track's frame says, when it arrives. Rotating the
// query of a span to another place then gives any distance rule that is a number per span. Nothing stored is
// ever rotated again.
//
// What is kept depends on the stream alone, not on its chunks: Begin lets go of blocks that no row and no
// rewind can reach, and those of a track that evicts go through the sink first, layers and tokens together.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "context/context.h"
#include "context/policy.h"
#include "context/track_plan.h"
#include "kernels/attend/attend.h"
#include "kv/block_pool.h"
#include "kv/block_table.h"
#include "kv/eviction.h"

namespace mneme {

class SpanContext : public Context {
 public:
  // shape, budget and sink (may be null) must outlive the context. Throws Error(kBudget) before anything is
  // allocated.
  SpanContext(const ContextShape& shape, const ContextSettings& settings,
              std::shared_ptr<const Policy> policy, const Budget& budget, EvictionSink* sink = nullptr);

  // num_tokens: length of the stream, or -1 for no end (kv_bytes is SIZE_MAX then if the policy is
  // unbounded).
  static ContextBytes PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                const Policy& policy, int64_t num_tokens);

  std::string Describe() const override { return policy_->Describe(); }
  void Begin(std::span<const TokenId> tokens) override;
  AttendCall Plan(size_t layer, const float* q, const float* k, const float* v, float* out) override;
  void Commit() override;
  void Abort() override;
  int64_t MaxRewind() const override;
  void Rewind(int64_t count) override;
  void Save(StateWriter& writer) const override;
  void Restore(StateReader& reader) override;
  std::unique_ptr<Context> Fork() const override { return ForkSpans(); }
  std::vector<LedgerRange> Ledger() const override;

  // sink: of the copy; null: what it evicts is nobody's.
  std::unique_ptr<SpanContext> ForkSpans(EvictionSink* sink = nullptr) const;
  // Rows before this one need not be computed again: what they saw may be gone.
  int64_t oldest_row() const { return oldest_row_; }
  // Blocks of a track before this number were evicted; those behind are here.
  int64_t num_evicted(size_t track) const { return num_evicted_[track]; }
  const uint8_t* Block(size_t layer, size_t track, int64_t block) const {
    return layers_[layer].tracks[track]->table.Ref(block).get();
  }
  // Ids of a block that was not evicted yet.
  std::span<const TokenId> BlockIds(int64_t block) const;

 private:
  struct Pool {
    std::shared_ptr<BlockPool> blocks;
    BlockPool::Quota quota;
    int64_t num_fixed = 0;  // of the quota, for the tracks that are bounded
  };
  struct LayerTrack {
    TrackPlan plan;
    BlockTable table;
    size_t pool = 0;  // index into pools_
  };
  struct Layer {
    size_t rope = 0;                                // index into ropes_
    std::vector<std::optional<LayerTrack>> tracks;  // one per track of the policy
  };
  // What rotates the rows of a chunk, by one rope.
  struct Tables {
    Tables(const Rope& rope, size_t num_rows);
    float* At(int64_t row) { return const_cast<float*>(rows[static_cast<size_t>(row)]); }
    // Null where nothing rotates.
    const float* const* rows_or_null() const { return values.empty() ? nullptr : rows.data(); }
    std::vector<float> values;       // [num_rows, rotary_dim]
    std::vector<const float*> rows;  // [num_rows], into values
  };
  // Span s of every row, made ready for the kernel.
  struct Slot {
    size_t track = 0;
    int32_t top_k = 0;     // 0: all keys
    bool is_here = false;  // the query stands at the row's own index
    bool is_used = false;  // some row of the chunk sees keys
    std::vector<int32_t> begin, end;
    std::vector<int64_t> distance;
    std::vector<Tables> tables;  // per distinct rope, of the rows' query_at; empty if is_here
  };

  // A copy with the same blocks: Fork.
  SpanContext(const SpanContext& origin, EvictionSink* sink);

  // span_layout.cc
  static std::vector<Slot> SlotsOf(const Policy& policy);
  static size_t ScratchBytes(const ContextShape& shape, const ContextSettings& settings,
                             const Policy& policy);
  void MakeTables();
  void ReserveScratch();
  void MakeScratch();

  // span_context.cc
  void Grow(int64_t end);
  void FillViews(int64_t num_tokens);
  void LetGo(int64_t num_tokens);
  void Evict(size_t track);
  static bool Evicts(const Layer& layer, size_t track) {
    return layer.tracks[track].has_value() && layer.tracks[track]->plan.evicts;
  }
  void Extend(int64_t num_tokens);
  void CutTables(int64_t num_tokens);
  void FillTables();
  void FillSlotTables(Slot& slot, size_t slot_index);
  void SetWrites(const Layer& layer);
  // Adds the span of a slot, unless no row sees keys of it in this layer.
  void AddSpan(const Layer& layer, const LayerAttention& spec, size_t slot, const float* q);
  const SpanView& View(int64_t row, size_t slot) const {
    return views_[static_cast<size_t>(row) * slots_.size() + slot];
  }

  // span_state.cc
  bool IsIntact(int64_t row) const;
  int64_t SavedBegin(size_t track, const TrackPlan& plan, int64_t oldest_row) const;
  // Somebody wants what a track evicts.
  bool KeepsIds() const { return keeps_ids_; }
  void RestoreIds(StateReader& reader, int64_t num_tokens, int64_t oldest_row);

  const ContextShape& shape_;
  const ContextSettings settings_;
  const std::shared_ptr<const Policy> policy_;
  const Budget& budget_;
  EvictionSink* const sink_;
  std::vector<const Rope*> ropes_;  // the distinct ones
  // Tables go before the quotas that pay for them, and these before the pools.
  Lease scratch_lease_;
  std::vector<Pool> pools_;  // one per layout
  std::vector<Layer> layers_;
  std::vector<Slot> slots_;

  int64_t oldest_row_ = 0;
  const bool keeps_ids_;
  // Per track: blocks before this number were evicted. Both only if keeps_ids_.
  std::vector<int64_t> num_evicted_;
  std::vector<TokenId> ids_;  // of tokens [ids_begin_, num_tokens_ + chunk_tokens_)
  int64_t ids_begin_ = 0;

  int64_t chunk_tokens_ = 0;             // 0: no chunk begun
  std::vector<SpanView> views_;          // [rows][slots]
  std::vector<Tables> position_tables_;  // per distinct rope
  std::vector<KvWrite> writes_;          // of the layer that was planned last
  std::vector<KvSpan> spans_;
};

}  // namespace mneme
