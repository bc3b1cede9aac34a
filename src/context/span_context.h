// The context that executes a Policy: stores the chunk's keys and values, hands the kernel the spans that
// each row sees, and merges the top-k middle where the policy wants it.
//
// Keys in the window lie rotated to their absolute position, once; the far copy of the first tokens lies
// rotated to its index in the stream, or unrotated where the policy puts all of them at one distance.
// Rotating the query of a span then gives any distance rule that is a number per span. Nothing stored is ever
// rotated again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "context/context.h"
#include "context/kv_ring.h"
#include "context/middle.h"
#include "context/policy.h"
#include "kernels/attend/attend.h"

namespace mneme {

class SpanContext : public Context {
 public:
  // shape and budget must outlive the context. Throws Error(kBudget) before anything is allocated.
  SpanContext(const ContextShape& shape, const ContextSettings& settings,
              std::shared_ptr<const Policy> policy, Budget& budget, size_t num_threads);

  // num_tokens: length of the stream, or -1 for no end (kv_bytes is SIZE_MAX then if the policy is
  // unbounded).
  static ContextBytes PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                const Policy& policy, int64_t num_tokens, size_t num_threads);

  std::string Describe() const override { return policy_->Describe(); }
  void Begin(int64_t num_tokens) override;
  void Attend(size_t layer, const float* q, const float* k, const float* v, float* out,
              ThreadPool& pool) override;
  void Commit() override;
  void Abort() override { chunk_tokens_ = 0; }
  int64_t MaxRewind() const override;
  void Rewind(int64_t count) override;
  void Save(StateWriter& writer) const override;
  void Restore(StateReader& reader) override;
  std::vector<LedgerRange> Ledger() const override;

 private:
  struct Layer {
    size_t rope = 0;  // index into ropes_
    KvRing window;
    std::unique_ptr<KvRing> far;     // tokens 0 .. far_tokens - 1
    std::unique_ptr<KvRing> middle;  // unrotated, for top-k
  };

  void Grow(int64_t num_tokens);
  void FillTables();
  // Rotates one row's keys and stores keys and values, of KV heads [first, last). k and v of the chunk;
  // rotated: room for the keys of a row.
  void StoreHeads(size_t layer, size_t row, size_t first, size_t last, const float* k, const float* v,
                  float* rotated);
  // Rotates one row's queries, of heads [first, last).
  void RotateHeads(size_t layer, size_t row, size_t first, size_t last, const float* q);
  // All rows and heads.
  void StoreChunk(size_t layer, const float* q, const float* k, const float* v, ThreadPool& pool);
  void StoreFar(size_t layer, const float* k, const float* v);
  // True if some row of the chunk sees far tokens in this layer.
  bool SetSpans(size_t layer);
  void MergeMiddle(size_t layer, const AttendShape& attend_shape, const float* q, float* out,
                   ThreadPool& pool);
  int64_t WindowBegin(size_t layer, int64_t index) const;
  const float* TrueTable(size_t rope, int64_t row) const;
  const float* FarTable(size_t rope, int64_t row) const;

  const ContextShape& shape_;
  const ContextSettings settings_;
  const std::shared_ptr<const Policy> policy_;
  Lease kv_lease_;
  Lease scratch_lease_;
  std::vector<Layer> layers_;
  std::vector<const Rope*> ropes_;  // the distinct ones that rotate

  int64_t chunk_tokens_ = 0;  // 0: no chunk begun
  size_t num_threads_;
  // Per chunk row.
  std::vector<RowView> views_;
  std::vector<int32_t> window_begin_, window_end_, far_begin_, far_end_;
  std::vector<int64_t> window_distance_, far_distance_;
  // Tables per distinct rope: [ropes][rows][rotary_dim].
  std::vector<std::vector<float>> true_tables_, far_tables_;
  std::vector<float> middle_tables_;  // [ropes][rotary_dim at most max], one distance
  size_t middle_table_stride_ = 0;
  bool chunk_has_far_ = false;
  KvSpan window_span_, far_span_;

  AlignedArray<float> q_true_, q_far_;  // [rows, num_heads, key_dim]
  AlignedArray<float> k_rotated_;       // [threads, num_kv_heads, key_dim]
  AlignedArray<uint8_t> attend_scratch_;
  size_t attend_scratch_bytes_ = 0;
  AlignedArray<float> log_sum_exp_;  // [rows, num_heads], only with a middle
  std::unique_ptr<MiddleReader> middle_reader_;
};

}  // namespace mneme
