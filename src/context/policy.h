// A policy: which keys a row sees, and at which distance. Pure arithmetic on stream indices (0 is the first
// token of the stream, whatever its position); span_context.h executes it. One file per policy; each has a
// row in the table (context/registry.h), which turns --context NAME[:key=value,...] into one of these.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "kernels/memory/memory.h"

namespace mneme {

struct ContextShape;

inline constexpr int64_t kUnbounded = INT64_MAX;
// The most tokens that a size of a policy may come to, also as a sum or product of what was given: rows count
// the keys that they see in 32 bits.
inline constexpr int64_t kMostTokens = int64_t{1} << 30;

// The place that a key was rotated to, once, when it arrived.
enum class KeyFrame : uint8_t {
  kPosition,  // its own position
  kNone,      // none: all keys of a span are at one distance
};

// How keys are stored, and how long: the first keep_first tokens for ever, and the last keep_last of every
// row, the row itself included (kUnbounded: all).
struct Track {
  KeyFrame frame = KeyFrame::kPosition;
  int64_t keep_first = 0;
  int64_t keep_last = 0;
  int64_t from_layer = 0;  // layers below have no such track
  bool evicts = false;     // whole blocks that leave go to the context's sink (kv/eviction.h)
  // A layer with a window of its own evicts nothing and keeps no more than that window.
  bool skips_windowed = false;
};

// Tokens [begin, end) of a track, and the place where the row's query stands among them: key t is seen at
// distance query_at - t, or at query_at where the frame is kNone.
struct SpanView {
  int32_t track = 0;
  int32_t top_k = 0;  // 0: all of them; else per head the k with the largest logits
  int64_t begin = 0;
  int64_t end = 0;
  int64_t query_at = 0;
};

inline constexpr size_t kMostSpans = 8;

class SpanList {
 public:
  void Add(const SpanView& span) {
    MNEME_CHECK(size_ < kMostSpans);
    spans_[size_++] = span;
  }
  void Clear() { size_ = 0; }
  size_t size() const { return size_; }
  const SpanView& operator[](size_t i) const { return spans_[i]; }

 private:
  std::array<SpanView, kMostSpans> spans_;
  size_t size_ = 0;
};

struct InfiniOptions {
  int64_t segment = 0;
  int64_t previous = 0;
  MemoryUpdate update = MemoryUpdate::kLinear;
  bool literal_first = false;
  bool key_shift = false;  // MemoryRules::key_shift
};

struct RecallOptions {
  int64_t sinks = 0;
  int64_t window = 0;
  int64_t budget = 0;      // tokens that come back, at most
  int64_t keep = 0;        // tokens that the store keeps; then the oldest go
  int64_t replay = 0;      // tokens at the end of a turn that are read again with what came back
  int64_t from_layer = 0;  // layers below see sinks and window alone
  int64_t gate = 0;        // in tenths of a nat: slices whose votes are so far behind the best are left out
  bool takes_next = true;  // with a slice comes the one behind it
  bool has_global_layers = false;  // layers with a window of their own do not recall
};

// Immutable: one object is shared by the plan, the session, its state and its ledger, on any thread.
class Policy {
 public:
  virtual ~Policy() = default;

  // In the order of SpanView::track. The same at every call, and valid as long as the policy.
  virtual std::span<const Track> tracks() const = 0;
  // What row `index` sees, in stream order, no token twice. Every row has the same spans, with other bounds,
  // some of them empty: span s of all rows is one run of keys for the kernel. The last one ends with the row
  // itself, which stands at its own index. The begins of a span never go back from row to row.
  virtual void View(int64_t index, SpanList* spans) const = 0;
  // How many later tokens a token is sure to be of use to, for whoever must fit something between a prompt
  // and its answer. kUnbounded where nothing is forgotten.
  virtual int64_t seen_for() const = 0;

  // The compressive memory beside the spans (context/infini.h); null: none.
  virtual const InfiniOptions* memory() const { return nullptr; }
  // What leaves the window is stored and comes back (context/recall_context.h); null: it does not.
  virtual const RecallOptions* recall() const { return nullptr; }

  // The spec with every key. The table makes the same policy from it.
  virtual std::string Describe() const = 0;
};

// ---- from text to policy

// Tokens that the model was trained on at once, or what stands for it where that is not known; at most
// kMostTokens.
int64_t TrainedLength(const ContextShape& shape);

// A setting of a policy: a number from `least` to `most`, or one of `words`.
struct PolicyKey {
  static constexpr int64_t kAuto = -1;

  std::string_view name;
  std::string_view help;
  int64_t default_value = kAuto;  // kAuto: it depends on the model
  int64_t least = 0;
  int64_t most = kMostTokens;
  bool fits_cap = false;      // auto also depends on what the memory cap holds
  bool fits_half = false;     // auto is the stream's length, or what half of that holds
  bool holds_pinned = false;  // raised to the number of pinned tokens
  std::span<const std::string_view> words = {};

  // "4", "auto".
  std::string DefaultText() const;
};

class PolicyInput;

// A row of the table.
struct PolicyRow {
  std::string_view name;
  std::string_view help;   // one line
  std::string_view paper;  // where it comes from
  std::span<const PolicyKey> keys = {};
  bool can_pin = false;   // keeps first tokens
  bool can_slide = true;  // needs positions that are relative: RoPE or ALiBi
  // Null: `auto`, which the registry resolves. Throws Error(kInput, kUnsupported).
  std::shared_ptr<const Policy> (*make)(const PolicyInput& input) = nullptr;
};

// What a policy is made of: what was given, read by its row's keys, and what stands for "auto".
class PolicyInput {
 public:
  // values[i]: what was given for row.keys[i], if anything; the index of a word, in range. num_pinned: first
  // tokens that must be kept.
  PolicyInput(const PolicyRow& row, std::vector<std::optional<int64_t>> values, const ContextShape& shape,
              int64_t num_pinned, int64_t auto_window);

  const ContextShape& shape() const { return shape_; }
  int64_t num_pinned() const { return num_pinned_; }
  int64_t trained_length() const { return TrainedLength(shape_); }
  // The most tokens that automatic windows may come to: what the cap holds.
  int64_t auto_window() const { return auto_window_; }

  // The value of a key of the row; `automatic` stands for auto. Throws Error(kInput) where `automatic` is out
  // of the key's range.
  int64_t Get(std::string_view key, int64_t automatic) const;
  // a + b and a * b (both >= 0) as a number of tokens: Error(kInput) above kMostTokens.
  int64_t Sum(int64_t a, int64_t b) const;
  int64_t Product(int64_t a, int64_t b) const;

 private:
  [[noreturn]] void FailTooLarge() const;

  const PolicyRow& row_;
  const std::vector<std::optional<int64_t>> values_;
  const ContextShape& shape_;
  const int64_t num_pinned_;
  const int64_t auto_window_;
};

// dense.cc: everything, exact.
PolicyRow DenseRow();
std::shared_ptr<const Policy> MakeDensePolicy();
// window.cc: the `window` most recent tokens.
PolicyRow WindowRow();
std::shared_ptr<const Policy> MakeWindowPolicy(int64_t window);
// sinks.cc: StreamingLLM, arXiv 2309.17453.
PolicyRow SinksRow();
std::shared_ptr<const Policy> MakeSinksPolicy(int64_t sinks, int64_t window);
// lambda.cc: LM-Infinite, arXiv 2308.16137.
struct LambdaOptions {
  int64_t starts = 10;
  int64_t window = 0;
  int64_t distance = 0;
  int64_t top_k = 0;
  int64_t from_layer = 4;
  int64_t middle_distance = 0;
  int64_t middle_tokens = 0;
};
PolicyRow LambdaRow();
std::shared_ptr<const Policy> MakeLambdaPolicy(const LambdaOptions& options);
// xl.cc: Transformer-XL style, arXiv 1901.02860.
PolicyRow XlRow();
std::shared_ptr<const Policy> MakeXlPolicy(int64_t segment, int64_t previous);
// recall.cc: sinks, and slices of what left the window.
PolicyRow RecallRow();
std::shared_ptr<const Policy> MakeRecallPolicy(const RecallOptions& options);
// infini_policy.cc: Infini-attention, arXiv 2404.07143: spans as of xl, and a memory.
PolicyRow InfiniRow();
std::shared_ptr<const Policy> MakeInfiniPolicy(const InfiniOptions& options);

}  // namespace mneme
