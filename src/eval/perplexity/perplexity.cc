#include "eval/perplexity/perplexity.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "base/error.h"

namespace mneme {
namespace {

constexpr size_t kBinsPerOctave = 4;

// First index of logarithmic bin `bin`: index 0 alone, then ceil(2^(bin/4)).
int64_t LogBinBegin(size_t bin) {
  if (bin == 0) return 0;
  const size_t step = bin - 1;
  const double begin = std::exp2(static_cast<double>(step) / kBinsPerOctave);
  return step % kBinsPerOctave == 0 ? int64_t{1} << (step / kBinsPerOctave)
                                    : static_cast<int64_t>(std::ceil(begin));
}

// Of keys, values and memories: what a bounded context reserves when it is made; an endless one has nothing
// yet.
size_t BoundedBytes(const Session& session) {
  size_t bytes = 0;
  for (const MemoryReport::Row& row : session.memory().rows) {
    if (row.tag == "kv" || row.tag == "memory") bytes += row.used_bytes;
  }
  return bytes;
}

}  // namespace

double PositionBin::standard_error() const {
  if (count < 2) return 0;
  const double n = static_cast<double>(count);
  const double variance = std::max(0.0, (sum_squares - sum * sum / n) / (n - 1));
  return std::sqrt(variance / n);
}

PositionBins::PositionBins(size_t num_even_bins) : num_even_bins_(num_even_bins) {}

size_t PositionBins::BinOf(int64_t index) const {
  if (num_even_bins_ > 0) return static_cast<size_t>(index / width_);
  if (index == 0) return 0;
  const size_t octave = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(index))) - 1;
  size_t bin = 1 + octave * kBinsPerOctave;
  while (LogBinBegin(bin + 1) <= index) ++bin;
  return bin;
}

void PositionBins::Add(int64_t index, double nll) {
  MNEME_CHECK(index >= 0);
  while (num_even_bins_ > 0 && static_cast<size_t>(index / width_) >= 2 * num_even_bins_) {
    width_ *= 2;
    std::vector<PositionBin> halved((bins_.size() + 1) / 2);
    for (size_t i = 0; i < bins_.size(); ++i) {
      PositionBin& target = halved[i / 2];
      target.count += bins_[i].count;
      target.sum += bins_[i].sum;
      target.sum_squares += bins_[i].sum_squares;
    }
    bins_ = std::move(halved);
  }
  const size_t bin = BinOf(index);
  if (bin >= bins_.size()) bins_.resize(bin + 1);
  for (PositionBin* target : {&bins_[bin], &total_}) {
    ++target->count;
    target->sum += nll;
    target->sum_squares += nll * nll;
  }
  total_.end = index + 1;
}

std::vector<PositionBin> PositionBins::bins() const {
  std::vector<PositionBin> filled;
  for (size_t i = 0; i < bins_.size(); ++i) {
    if (bins_[i].count == 0) continue;
    PositionBin bin = bins_[i];
    bin.begin = num_even_bins_ > 0 ? static_cast<int64_t>(i) * width_ : LogBinBegin(i);
    bin.end = num_even_bins_ > 0 ? bin.begin + width_ : LogBinBegin(i + 1);
    filled.push_back(bin);
  }
  return filled;
}

PositionBin PositionBins::total() const { return total_; }

struct PerplexityRun::Stream {
  std::optional<Session> session;              // or
  std::unique_ptr<RecomputeWindow> recompute;  // with
  RecomputeSpec spec;
  int64_t num_windows = 0;  // recomputed
  PositionBins bins;
  std::vector<PositionBin> by_length;
  std::string stopped;
  int64_t stopped_at = 0;
  double seconds = 0;
  size_t kv_bytes = 0;
};

PerplexityRun::PerplexityRun(const Model& model, const PerplexityOptions& options)
    : model_(model), lengths_(options.lengths), stop_(options.stop) {
  if (options.contexts.empty()) Fail(ErrorKind::kInput, "perplexity: no context was given");
  for (const std::string& context : options.contexts) {
    auto stream = std::make_unique<Stream>();
    if (const std::optional<RecomputeSpec> spec = ParseRecompute(context)) {
      stream->spec = *spec;
      stream->recompute = std::make_unique<RecomputeWindow>(model_, spec->window, options.session);
    } else {
      SessionOptions session = options.session;
      session.context = context;
      stream->session.emplace(model_, session);
    }
    const Session& session = stream->recompute ? stream->recompute->session() : *stream->session;
    chunk_ = static_cast<size_t>(session.max_rows());
    stream->kv_bytes = BoundedBytes(session);
    stream->bins = PositionBins(options.num_even_bins);
    for (const int64_t length : lengths_) stream->by_length.push_back({length / 2, length});
    streams_.push_back(std::move(stream));
  }
}

PerplexityRun::~PerplexityRun() = default;

void PerplexityRun::Score(Stream& stream, int64_t index, std::span<const float> logits, TokenId target) {
  const double nll = -LogProbability(logits, target);
  if (!std::isfinite(nll)) {
    Fail(ErrorKind::kInput, "the model's logits after token {} are not finite; is the file damaged?", index);
  }
  stream.bins.Add(index + 1, nll);
  for (PositionBin& bin : stream.by_length) {
    if (index + 1 < bin.begin || index + 1 >= bin.end) continue;
    ++bin.count;
    bin.sum += nll;
    bin.sum_squares += nll * nll;
  }
}

bool PerplexityRun::FeedStream(Stream& stream, std::span<const TokenId> tokens) {
  const auto start = std::chrono::steady_clock::now();
  const size_t num_fed = tokens.size() - 1;  // the last waits: its successor is not known yet
  size_t taken = num_fed;
  try {
    if (stream.recompute) {
      for (taken = 0; taken < num_fed && !stop_.stop_requested(); ++taken) {
        const int64_t index = stream.recompute->num_tokens();
        stream.recompute->Push(tokens[taken]);
        if ((index + 1) % stream.spec.every != 0) continue;
        const std::span<const float> logits = stream.recompute->Logits(stop_);
        if (logits.empty()) break;
        ++stream.num_windows;
        Score(stream, index, logits, tokens[taken + 1]);
      }
    } else {
      const int64_t first = stream.session->num_tokens();
      const auto score = [&](int64_t index, std::span<const float> logits) {
        Score(stream, index, logits, tokens[static_cast<size_t>(index - first) + 1]);
      };
      taken = static_cast<size_t>(stream.session->Feed(tokens.first(num_fed), stop_, score));
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget && error.kind() != ErrorKind::kUnsupported) throw;
    stream.stopped = error.what();
    stream.stopped_at = stream.recompute ? stream.recompute->num_tokens() : stream.session->num_tokens();
  }
  stream.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return taken == num_fed;
}

bool PerplexityRun::RunPending(size_t count) {
  const std::span<const TokenId> tokens(pending_.data(), count);
  bool is_whole = true;
  for (const auto& stream : streams_) {
    if (stream->stopped.empty()) is_whole = FeedStream(*stream, tokens) && is_whole;
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(count) - 1);
  return is_whole;
}

bool PerplexityRun::Feed(std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) {
    if (token < 0 || token >= model_.info().vocab_size) {
      Fail(ErrorKind::kInput, "token id {} is outside the vocabulary of {}", token, model_.info().vocab_size);
    }
  }
  num_tokens_ += static_cast<int64_t>(tokens.size());
  while (!tokens.empty()) {
    const size_t take = std::min(tokens.size(), chunk_ + 1 - pending_.size());
    pending_.insert(pending_.end(), tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(take));
    tokens = tokens.subspan(take);
    if (pending_.size() == chunk_ + 1 && !RunPending(pending_.size())) return false;
  }
  return true;
}

bool PerplexityRun::Finish() { return pending_.size() < 2 || RunPending(pending_.size()); }

bool PerplexityRun::all_stopped() const {
  return std::all_of(streams_.begin(), streams_.end(),
                     [](const auto& stream) { return !stream->stopped.empty(); });
}

std::vector<PerplexityResult> PerplexityRun::Results() const {
  std::vector<PerplexityResult> results;
  for (const auto& stream : streams_) {
    PerplexityResult result;
    result.bins = stream->bins.bins();
    result.total = stream->bins.total();
    result.by_length = stream->by_length;
    result.stopped = stream->stopped;
    result.stopped_at = stream->stopped_at;
    result.seconds = stream->seconds;
    result.kv_bytes = stream->kv_bytes;
    int64_t num_computed = 0;
    if (stream->recompute) {
      result.context = stream->spec.ToString();
      result.num_tokens = stream->recompute->num_tokens();
      num_computed = stream->num_windows;
    } else {
      result.context = stream->session->options().context;
      result.num_tokens = num_computed = stream->session->num_tokens();
      result.flatness = stream->session->stats().prefill.flatness();
    }
    result.tokens_per_second = stream->seconds > 0 ? static_cast<double>(num_computed) / stream->seconds : 0;
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace mneme
