// Perplexity by position: how well a model predicts a stream as the stream grows, for several contexts side
// by side over the same tokens, in bounded memory. A context that holds gives a flat line; one that fails
// shows where.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "eval/perplexity/recompute.h"
#include "eval/report/grid.h"
#include "mneme/model.h"
#include "mneme/session.h"
#include "mneme/stats.h"

namespace mneme {

// Negative log-likelihoods, in nats, of the tokens with index in [begin, end).
struct PositionBin {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t count = 0;
  double sum = 0;
  double sum_squares = 0;

  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0; }
  // Of the mean, as if tokens were independent; 0 for fewer than two.
  double standard_error() const;
};

// Sums by position, for streams of unknown length.
class PositionBins {
 public:
  // num_even_bins 0: logarithmic bins, four to an octave, at most 4 * 62. Else between num_even_bins and
  // twice as many bins of one width, which doubles as the stream grows.
  explicit PositionBins(size_t num_even_bins = 0);
  // index >= 0, in ascending order.
  void Add(int64_t index, double nll);
  // In order; empty ones left out.
  std::vector<PositionBin> bins() const;
  PositionBin total() const;

 private:
  size_t BinOf(int64_t index) const;
  size_t num_even_bins_;
  int64_t width_ = 1;
  std::vector<PositionBin> bins_;
  PositionBin total_;
};

struct PerplexityOptions {
  SessionOptions session;             // of every context
  std::vector<std::string> contexts;  // "recompute:window=256" is one too (eval/perplexity/recompute.h)
  size_t num_even_bins = 0;
  // The tables of the papers: what a stream of each length gives in its second half, that is tokens with
  // index in [length / 2, length).
  std::vector<int64_t> lengths = {};
  StopToken stop = {};
};

// What one context gave.
struct PerplexityResult {
  std::string context;  // resolved spec
  std::vector<PositionBin> bins;
  PositionBin total;
  std::vector<PositionBin> by_length;  // as options.lengths; count 0 where the stream was shorter
  // Why it went no further than the others; empty if it did not stop. stopped_at: tokens in the stream then.
  std::string stopped;
  int64_t stopped_at = 0;
  int64_t num_tokens = 0;
  double seconds = 0;
  double tokens_per_second = 0;
  size_t kv_bytes = 0;  // of a bounded context, reserved from the beginning; 0 if it is not bounded
  Flatness flatness;
};

// Thread rule: the engine's.
class PerplexityRun {
 public:
  // Reserves one session per context. Throws what Session throws.
  PerplexityRun(const Model& model, const PerplexityOptions& options);
  ~PerplexityRun();

  // More tokens of the stream. The first token of all is not scored: nothing predicts it. A context that
  // refuses to go on is left behind with its message; throws Error only when the tokens are not of the
  // vocabulary, and Error(kInput) where logits are not finite. Returns false after a stop: what was
  // scored stays.
  bool Feed(std::span<const TokenId> tokens);
  // The tokens that wait for a full chunk.
  bool Finish();
  // True once every context has stopped.
  bool all_stopped() const;
  int64_t num_tokens() const { return num_tokens_; }
  std::vector<PerplexityResult> Results() const;

 private:
  struct Stream;
  bool RunPending(size_t count);
  bool FeedStream(Stream& stream, std::span<const TokenId> tokens);
  void Score(Stream& stream, int64_t index, std::span<const float> logits, TokenId target);

  const Model model_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<TokenId> pending_;
  size_t chunk_ = 0;
  std::vector<int64_t> lengths_;
  StopToken stop_;
  int64_t num_tokens_ = 0;
};

}  // namespace mneme
