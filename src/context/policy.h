// A policy: which keys a row sees, and at which distance. Pure arithmetic on stream indices (0 is the first
// token of the stream, whatever its position); span_context.h executes it. One file per policy, made by the
// table in registry.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace mneme {

inline constexpr int64_t kUnbounded = INT64_MAX;

// What row `index` sees. The three sets are disjoint.
struct RowView {
  // [window_begin, index] at true distances.
  int64_t window_begin = 0;
  // The first num_far tokens of the stream; token j at distance far_distance - j, or at far_distance for all
  // of them if Policy::far_is_constant(). num_far <= window_begin.
  int64_t num_far = 0;
  int64_t far_distance = 0;
  // [middle_begin, middle_end): candidates for the top-k middle tokens.
  int64_t middle_begin = 0;
  int64_t middle_end = 0;
};

// Immutable.
class Policy {
 public:
  virtual ~Policy() = default;

  virtual RowView View(int64_t index) const = 0;
  // The most keys that any row sees at true distance, itself included.
  virtual int64_t window_tokens() const = 0;
  // How many first tokens are kept for far reads.
  virtual int64_t far_tokens() const { return 0; }
  virtual bool far_is_constant() const { return false; }

  // Top-k middle tokens (LM-Infinite): how many per head, from which layer (0-based), at which distance, from
  // a cache of how many.
  virtual int64_t middle_top_k() const { return 0; }
  virtual int64_t middle_from_layer() const { return 0; }
  virtual int64_t middle_distance() const { return 0; }
  virtual int64_t middle_tokens() const { return 0; }

  // The spec with every key.
  virtual std::string Describe() const = 0;
};

// dense.cc: everything, exact.
std::unique_ptr<Policy> MakeDensePolicy();
// window.cc: the `window` most recent tokens.
std::unique_ptr<Policy> MakeWindowPolicy(int64_t window);
// sinks.cc: StreamingLLM, arXiv 2309.17453.
std::unique_ptr<Policy> MakeSinksPolicy(int64_t sinks, int64_t window);
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
std::unique_ptr<Policy> MakeLambdaPolicy(const LambdaOptions& options);
// xl.cc: Transformer-XL style, arXiv 1901.02860.
std::unique_ptr<Policy> MakeXlPolicy(int64_t segment, int64_t previous);

}  // namespace mneme
