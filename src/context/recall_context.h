// Nothing that was read is lost: what leaves the window goes to a store, slice by slice
// (recall/slice_store.h), and comes back token by token when a question needs it.
//
//   sinks | slices that came back, in stream order | window | the row
//
// is one softmax in which positions are packed: a slice stands directly behind the window, whatever its true
// distance, so that no angle is longer than the model was trained for. Keys stay as they were rotated; the
// query of a slice is rotated instead, and is the same for all rows.
//
// What comes back is one choice for all layers, made by a few heads (RecallRules): every row of the turn
// votes with the products of its queries and the keys of every stored token, neither rotated. For each row
// and head, softmax over slices (the largest product of a slice stands for it); what a slice has above the
// uniform level and two nats is its vote, and votes add up over rows and heads (recall/votes.h). With the
// best slices come the ones behind them, until the budget is spent. A slice's keys are biased by the
// logarithm of its share beside the best one's (the gate), so that rivals do not drown what was meant.
//
// Votes need all layers of the turn's rows, so a choice is made at the end of a turn, and the turn is read
// again with it (Replay): its rows then see what they asked for.
//
// Results depend on the stream and on where turns begin and end, not on chunks or threads. A slice has the
// same bytes before and after it went to the store.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "context/context.h"
#include "context/policy.h"
#include "context/span_context.h"
#include "kv/eviction.h"
#include "recall/slice_store.h"

namespace mneme {

class RecallContext : public Context, private EvictionSink {
 public:
  // The policy recalls; settings are RecallSettings. Throws Error(kBudget) before anything is allocated.
  RecallContext(const ContextShape& shape, const ContextSettings& settings,
                std::shared_ptr<const Policy> policy, const Budget& budget);
  static ContextBytes PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                const Policy& policy);
  // The settings of a context that also takes back what a turn's replay needs; those of other policies as
  // they are.
  static ContextSettings RecallSettings(const ContextSettings& settings, const Policy& policy);

  std::string Describe() const override { return local_->Describe(); }
  void Begin(std::span<const TokenId> tokens) override;
  AttendCall Plan(size_t layer, const float* q, const float* k, const float* v, float* out) override;
  void Commit() override;
  void Abort() override;
  int64_t MaxRewind() const override;
  void Rewind(int64_t count) override;
  void TakeBackLast() override;
  void BeginTurn() override { turn_begin_ = num_tokens_; }
  int64_t Replay(int64_t most_rows, Device& device) override;
  std::vector<RecalledSlice> Recalled() const override;
  void Save(StateWriter& writer) const override;
  void Restore(StateReader& reader) override;
  std::unique_ptr<Context> Fork() const override;
  std::vector<LedgerRange> Ledger() const override;

 private:
  static constexpr int64_t kScoreRows = 16;  // rows of a look-up whose scores are there at once

  // A KV head whose keys are there to choose by, and the query heads that do.
  struct KeySet {
    size_t layer = 0;  // that keeps the keys
    size_t kv_head = 0;
    size_t key_dim = 0;
    size_t offset = 0;  // in a slice's keys
  };
  struct Chooser {
    RecallHead head;
    size_t keys = 0;    // index into key_sets_
    size_t offset = 0;  // in a row of queries_, in floats
  };
  struct ChosenSlice {
    int64_t number = 0;
    float score = 0;
    float bias = 0;
    bool operator==(const ChosenSlice&) const = default;
  };
  // In force for the rows from from_row on.
  struct Choice {
    int64_t from_row = 0;
    std::vector<ChosenSlice> slices;
  };
  // What is fixed once a policy and a model are known.
  struct Layout {
    Layout(const ContextShape& shape, const ContextSettings& settings, const Policy& policy);
    std::vector<size_t> layers;         // that store and recall, ascending
    std::vector<size_t> layer_offsets;  // of their blocks in a record
    std::vector<size_t> evicting;       // layers that the sink is offered, in its order
    std::vector<KvLayout> layouts;      // of `layers`
    std::vector<KeySet> key_sets;
    std::vector<Chooser> choosers;
    std::vector<const Rope*> ropes;  // the distinct ones of `layers`
    SliceLayout slice;
    size_t row_floats = 0;    // of queries_
    int64_t num_rows = 0;     // of queries_
    int64_t num_pending = 0;  // slices that left the window and are not in the store yet
    int64_t num_held = 0;
    int64_t num_stored = 0;
    int64_t first_slice = 0;
    StoreOptions store;
    size_t key_floats = 0;  // of one token in the layer with the most

    size_t StoreBytes() const;
    size_t ScratchBytes(const ContextSettings& settings) const;
  };
  // The slices in force, ready for the kernel.
  struct Held {
    std::vector<ChosenSlice> slices;
    std::vector<const uint8_t*> pointers;    // [layers][slices]
    std::vector<std::vector<float>> tables;  // [slices + 1][ropes]: of the slices' queries, then the sinks'
    std::vector<std::vector<const float*>> rows;  // as tables: [max_chunk] times the same one
  };

  RecallContext(const RecallContext& origin);
  void MakeBuffers();
  void Evict(const EvictedSlice& slice) override;
  // What stands for a slice, from the block of each layer of `layers`.
  template <typename BlockOf>
  void Fill(int64_t number, const BlockOf& block_of, const SliceStore::Slice& to);
  void UnrotateKeys(const KeySet& set, int64_t number, const uint8_t* block, uint8_t* out);
  // A slice that left the window and is not in the store yet.
  SliceStore::Slice Pending(int64_t number);
  bool IsDamaged(int64_t number) const;
  void FillPending(int64_t end);
  // Slices before this one have left the window of row `index`.
  int64_t NumLeft(int64_t index) const;

  void KeepQueries(size_t layer, const float* q);
  struct Votes {
    int64_t first = 0;
    std::vector<float> votes;
    std::vector<float> shares;
  };
  Votes Vote(int64_t begin_row, int64_t end_row, Device& device);
  void VoteOf(const Chooser& chooser, int64_t begin_row, int64_t end_row,
              std::span<const uint8_t* const> slices, std::span<const int32_t> first_tokens, Votes* votes,
              Device& device);
  std::vector<ChosenSlice> PickBest(const Votes& votes) const;
  bool Hold(const std::vector<ChosenSlice>& slices);
  void MakeHeldTables();
  int64_t QueryAt(size_t slice) const;
  void FillEnds();
  void TakeUp();
  // The choice that the row after num_tokens has.
  const std::vector<ChosenSlice>& InForce() const;
  void AddSpans(size_t place, const LayerAttention& spec, const float* q, const KvSpan* far);
  size_t RowOf(int64_t index) const {
    return static_cast<size_t>(index % layout_.num_rows) * layout_.row_floats;
  }
  void SaveChoices(StateWriter& writer) const;
  void RestoreChoices(StateReader& reader);
  void Follow();

  const ContextShape& shape_;
  const ContextSettings settings_;
  const std::shared_ptr<const Policy> policy_;
  const RecallOptions options_;
  const Layout layout_;
  const Budget& budget_;
  Lease scratch_lease_;
  Lease held_lease_;
  SliceStore store_;
  std::unique_ptr<SpanContext> local_;

  AlignedArray<float> queries_;  // [num_rows][row_floats], of row r at r modulo num_rows
  int64_t turn_begin_ = 0;       // rows from here on have not been chosen for
  std::vector<Choice> choices_;  // ascending; those that a rewind may come back to

  AlignedArray<uint8_t> pending_;  // [num_pending] slices
  int64_t pending_begin_ = 0, pending_end_ = 0;
  AlignedArray<uint8_t> held_memory_;  // [num_held] records
  std::vector<TokenId> held_ids_;      // [num_held][kBlockTokens]
  Held held_;

  // Of a chunk.
  int64_t chunk_tokens_ = 0;
  std::vector<int32_t> begins_;     // [num_held][max_chunk]
  std::vector<int32_t> ends_;       // [num_held][max_chunk]
  std::vector<int64_t> distances_;  // [num_held + 1][max_chunk]
  std::vector<KvSpan> spans_;
  // Of a look-up and of a slice that is filled.
  std::vector<float> scores_;
  std::vector<float> lookup_;
  std::vector<float> token_keys_, slice_keys_, table_;
};

}  // namespace mneme
