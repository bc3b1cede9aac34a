#include "cli/bench_rows.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>

#include "base/budget.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "base/random.h"
#include "base/units.h"
#include "context/registry.h"
#include "kernels/linear.h"
#include "model/weights.h"
#include "session/plan.h"
#include "session/session.h"

namespace mneme::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Steps of decode before the clock starts: they fault pages in and wake the threads.
constexpr int64_t kWarmSteps = 4;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Ids without meaning: speed does not depend on them.
class RandomIds {
 public:
  explicit RandomIds(size_t vocab_size) : vocab_size_(vocab_size) {}
  std::vector<TokenId> Take(int64_t count) {
    std::vector<TokenId> ids(static_cast<size_t>(count));
    for (TokenId& id : ids) id = static_cast<TokenId>(random_.Below(vocab_size_));
    return ids;
  }

 private:
  size_t vocab_size_;
  Random random_{1};
};

struct Timing {
  double median_seconds = 0;
  double spread = 0;
};

Timing MedianOf(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  return {median, median > 0 ? (seconds.back() - seconds.front()) / median : 0};
}

// Bytes of one cached token in all layers.
double KvBytesPerToken(const ContextShape& shape, const ContextSettings& settings) {
  const auto row = [](Encoding encoding, size_t values) {
    const size_t block = EncodingBlockValues(encoding);
    return static_cast<double>(EncodedBytes(encoding, (values + block - 1) / block * block));
  };
  double bytes = 0;
  for (const LayerAttention& layer : shape.layers) {
    bytes += static_cast<double>(layer.num_kv_heads) *
             (row(settings.key_encoding, layer.key_dim) + row(settings.value_encoding, layer.value_dim));
  }
  return bytes;
}

bool HasDropped(const Context& context) {
  for (const LedgerRange& range : context.Ledger()) {
    if (range.fate == TokenFate::kDropped) return true;
  }
  return false;
}

int64_t VisibleTokens(const Context& context) {
  int64_t count = 0;
  for (const LedgerRange& range : context.Ledger()) {
    if (range.fate == TokenFate::kSink || range.fate == TokenFate::kWindow) count += range.end - range.begin;
  }
  return count;
}

// One context of one model: sessions at depths, and what is timed there.
class ContextBench {
 public:
  ContextBench(std::shared_ptr<const Model> model, const BenchSettings& settings, const MachineFloor* floor,
               ThreadPool& pool)
      : model_(std::move(model)),
        settings_(settings),
        floor_(floor),
        pool_(pool),
        budget_(settings.cap_bytes),
        costs_(CostsOf(*model_)),
        ids_(model_->config().vocab_size) {
    SessionOptions options;
    options.context = settings.context;
    const int64_t deepest =
        settings.depths.empty() ? 0 : *std::max_element(settings.depths.begin(), settings.depths.end());
    const ResolvedContext resolved =
        ResolveSessionContext(*model_, options, settings.cap_bytes,
                              deepest + settings.num_prefill + settings.num_decode, pool.num_threads());
    options_.context = resolved.settings;
    is_bounded_ =
        PeakContextBytes(model_->context_shape(), options_.context, -1, pool.num_threads()).is_bounded;
  }

  std::vector<BenchRow> Rows() {
    if (settings_.num_prefill > 0) Guarded("prefill", 0, [&] { Prefill(); });
    for (const int64_t depth : settings_.depths) {
      if (InterruptRequested()) break;
      if (settings_.num_decode > 0) Guarded("decode", depth, [&] { Decode(depth); });
      if (settings_.batch > 1 && !InterruptRequested()) Guarded("batch", depth, [&] { Batch(depth); });
    }
    return std::move(rows_);
  }

 private:
  void Guarded(const char* what, int64_t depth, const std::function<void()>& measure) {
    try {
      measure();
    } catch (const Error& error) {
      BenchRow row = NewRow(what, depth);
      row.note = error.what();
      rows_.push_back(std::move(row));
    }
  }

  BenchRow NewRow(std::string what, int64_t depth) const {
    BenchRow row;
    row.what = std::move(what);
    row.context = options_.context.spec;
    row.depth = depth;
    row.num_threads = pool_.num_threads();
    return row;
  }

  void Prefill() {
    BenchRow row = NewRow(fmt::format("prefill {}", settings_.num_prefill), 0);
    std::vector<double> seconds;
    for (int64_t i = 0; i <= settings_.num_repeats; ++i) {
      Session session(model_, options_, budget_, pool_);
      const std::vector<TokenId> ids = ids_.Take(settings_.num_prefill);
      const Clock::time_point start = Clock::now();
      if (session.Feed(ids) < ids.size()) return;
      if (i > 0) seconds.push_back(SecondsSince(start));  // the first run warms caches and pages
    }
    const Timing timing = MedianOf(std::move(seconds));
    row.reached = "read";
    row.tokens_per_second = static_cast<double>(settings_.num_prefill) / timing.median_seconds;
    prefill_rate_ = row.tokens_per_second;
    row.spread = timing.spread;
    row.bytes_per_token =
        static_cast<double>(model_->read_bytes_per_token()) / static_cast<double>(options_.context.max_chunk);
    if (floor_ != nullptr && floor_->flops_per_second > 0) {
      row.share = row.tokens_per_second * costs_.flops_per_token / floor_->flops_per_second;
      row.share_of = floor_->flops_name + " peak";
    }
    rows_.push_back(std::move(row));
  }

  // A session at `depth`. Reads up to it where that is quick or cannot be avoided; else starts there and
  // fills what a token can see, which for a bounded context is the same work per token.
  std::unique_ptr<Session> At(int64_t depth, std::string* reached, std::shared_ptr<Runner> runner = nullptr) {
    SessionOptions options = options_;
    const double rate = prefill_rate_ > 0 ? prefill_rate_ : 100;
    const bool can_read = static_cast<double>(depth) / rate <= settings_.max_seconds;
    if (!can_read && !is_bounded_) {
      Fail(ErrorKind::kInput, "reading {} tokens takes about {}; --max-seconds allows {}", FormatCount(depth),
           FormatSeconds(static_cast<double>(depth) / rate), FormatSeconds(settings_.max_seconds));
    }
    *reached = can_read ? "read" : "filled";
    if (!can_read) options.context.start_position = depth;
    auto session = runner ? std::make_unique<Session>(model_, options, budget_, pool_, std::move(runner))
                          : std::make_unique<Session>(model_, options, budget_, pool_);
    int64_t left = can_read ? std::max<int64_t>(depth, 1) : std::numeric_limits<int64_t>::max();
    while (left > 0 && !InterruptRequested()) {
      const int64_t count = std::min(left, options.context.max_chunk);
      session->Feed(ids_.Take(count));
      left -= count;
      if (!can_read && (HasDropped(session->context()) || session->num_tokens() >= depth)) break;
    }
    return session;
  }

  void AddDecodeRow(BenchRow row, const Session& session, std::vector<double> seconds, int64_t num_steps,
                    int64_t num_sessions) {
    if (seconds.empty()) return;
    const Timing timing = MedianOf(std::move(seconds));
    const double step_seconds = timing.median_seconds / static_cast<double>(num_steps);
    const double kv_bytes = KvBytesPerToken(model_->context_shape(), options_.context) *
                            static_cast<double>(VisibleTokens(session.context()));
    const double step_bytes =
        static_cast<double>(costs_.weight_bytes_per_token) + kv_bytes * static_cast<double>(num_sessions);
    row.tokens_per_second = static_cast<double>(num_sessions) / step_seconds;
    row.spread = timing.spread;
    row.bytes_per_token = step_bytes / static_cast<double>(num_sessions);
    if (floor_ != nullptr && floor_->bytes_per_second > 0) {
      row.share = step_bytes / step_seconds / floor_->bytes_per_second;
      row.share_of = "read bandwidth";
    }
    rows_.push_back(std::move(row));
  }

  void Decode(int64_t depth) {
    BenchRow row = NewRow(fmt::format("decode {}", settings_.num_decode), depth);
    const std::unique_ptr<Session> base = At(depth, &row.reached);
    std::vector<double> seconds;
    for (int64_t i = 0; i < settings_.num_repeats && !InterruptRequested(); ++i) {
      // Each run starts at the same depth, and warm.
      const std::unique_ptr<Session> session = base->Clone();
      const std::vector<TokenId> ids = ids_.Take(kWarmSteps + settings_.num_decode);
      Clock::time_point start;
      for (size_t step = 0; step < ids.size(); ++step) {
        if (step == kWarmSteps) start = Clock::now();
        session->Feed(std::span(&ids[step], 1));
        session->logits();
      }
      seconds.push_back(SecondsSince(start));
    }
    AddDecodeRow(std::move(row), *base, std::move(seconds), settings_.num_decode, 1);
  }

  void Batch(int64_t depth) {
    BenchRow row = NewRow(fmt::format("batch {}", settings_.batch), depth);
    const std::shared_ptr<Runner> runner =
        Session::MakeRunner(model_, std::max(options_.context.max_chunk, settings_.batch), pool_, budget_);
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<Session*> pointers;
    for (int64_t i = 0; i < settings_.batch && !InterruptRequested(); ++i) {
      sessions.push_back(i == 0 ? At(depth, &row.reached, runner) : sessions[0]->Clone());
      pointers.push_back(sessions.back().get());
    }
    std::vector<double> seconds;
    for (int64_t i = 0; i < settings_.num_repeats && !InterruptRequested(); ++i) {
      const Clock::time_point start = Clock::now();
      for (int64_t step = 0; step < settings_.num_decode; ++step) {
        Session::DecodeTogether(pointers, ids_.Take(settings_.batch));
      }
      seconds.push_back(SecondsSince(start));
    }
    AddDecodeRow(std::move(row), *sessions[0], std::move(seconds), settings_.num_decode, settings_.batch);
  }

  std::shared_ptr<const Model> model_;
  const BenchSettings& settings_;
  const MachineFloor* floor_;
  ThreadPool& pool_;
  Budget budget_;
  ModelCosts costs_;
  RandomIds ids_;
  SessionOptions options_;
  bool is_bounded_ = false;
  double prefill_rate_ = 0;
  std::vector<BenchRow> rows_;
};

// Times `work` until a tenth of a second has gone by; the least of the runs.
double LeastSeconds(const std::function<void()>& work) {
  work();
  double least = std::numeric_limits<double>::infinity();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < 3 || (SecondsSince(start) < 0.1 && i < 1000); ++i) {
    const Clock::time_point before = Clock::now();
    work();
    least = std::min(least, SecondsSince(before));
  }
  return least;
}

// Products of one kind in all layers, one after the other as in a forward pass, so that weights come from
// where they come from then.
ProfileRow ProfileProducts(const char* name, const std::vector<const LinearLayer*>& linears, int64_t num_rows,
                           ThreadPool& pool) {
  ProfileRow row;
  row.op = name;
  if (linears.empty()) return row;
  const size_t rows = static_cast<size_t>(num_rows);
  size_t max_cols = 0, max_outputs = 0;
  for (const LinearLayer* linear : linears) {
    max_cols = std::max(max_cols, linear->weights.num_cols());
    max_outputs = std::max(max_outputs, linear->weights.num_rows());
    row.bytes += static_cast<double>(linear->weights.read_bytes());
    row.flops += 2.0 * static_cast<double>(linear->weights.num_rows()) *
                 static_cast<double>(linear->weights.num_cols()) * static_cast<double>(num_rows);
  }
  std::vector<float> x(rows * max_cols), out(rows * max_outputs);
  Random random(1);
  for (float& value : x) value = static_cast<float>(random.Uniform() - 0.5);
  ActivationRows activations(rows, max_cols);
  row.seconds = LeastSeconds([&] {
    for (const LinearLayer* linear : linears) {
      const LinearWeights& weights = linear->weights;
      activations.Set(x.data(), rows, weights.num_cols(), weights.num_cols(), FormFor(weights.encoding()),
                      pool);
      const MatMulJob job{&weights, linear->bias_or_null(), out.data(), weights.num_rows(), false};
      MatMul(activations, std::span(&job, 1), pool);
    }
  });
  return row;
}

}  // namespace

ModelCosts CostsOf(const Model& model) {
  ModelCosts costs;
  size_t quantised_bytes = 0, all_bytes = 0;
  for (const LayerWeights& layer : model.weights().layers) {
    for (const LinearLayer* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      if (linear->empty()) continue;
      const LinearWeights& weights = linear->weights;
      costs.flops_per_token +=
          2.0 * static_cast<double>(weights.num_rows()) * static_cast<double>(weights.num_cols());
      all_bytes += weights.read_bytes();
      if (NeedsQuantised(weights.encoding())) quantised_bytes += weights.read_bytes();
    }
  }
  costs.is_quantised = quantised_bytes * 2 > all_bytes;
  costs.weight_bytes_per_token = model.read_bytes_per_token();
  return costs;
}

std::vector<BenchRow> MeasureContext(std::shared_ptr<const Model> model, const BenchSettings& settings,
                                     const MachineFloor* floor, ThreadPool& pool) {
  return ContextBench(std::move(model), settings, floor, pool).Rows();
}

std::vector<ProfileRow> ProfileModel(std::shared_ptr<const Model> model, const ContextSettings& context,
                                     int64_t num_rows, size_t cap_bytes, ThreadPool& pool) {
  Budget budget(cap_bytes);
  SessionOptions options;
  options.context = context;
  options.context =
      ResolveSessionContext(*model, options, cap_bytes, 4 * num_rows + 512, pool.num_threads()).settings;
  num_rows = std::min(num_rows, options.context.max_chunk);
  Session session(model, options, budget, pool);
  RandomIds ids(model->config().vocab_size);
  session.Feed(ids.Take(std::min<int64_t>(256, options.context.max_chunk)));
  const std::vector<TokenId> chunk = ids.Take(num_rows);
  ProfileRow whole{"whole", 0, 0, 0};
  whole.seconds = LeastSeconds([&] { session.Feed(chunk); });

  using Member = LinearLayer LayerWeights::*;
  struct Group {
    const char* name;
    std::vector<Member> members;
  };
  const std::vector<Group> groups = {
      {"q, k, v products", {&LayerWeights::q, &LayerWeights::k, &LayerWeights::v}},
      {"attention output product", {&LayerWeights::o}},
      {"gate and up products", {&LayerWeights::gate, &LayerWeights::up}},
      {"down product", {&LayerWeights::down}}};
  std::vector<ProfileRow> rows;
  for (const Group& group : groups) {
    std::vector<const LinearLayer*> linears;
    for (const LayerWeights& layer : model->weights().layers) {
      for (const Member member : group.members) {
        if (!(layer.*member).empty()) linears.push_back(&(layer.*member));
      }
    }
    rows.push_back(ProfileProducts(group.name, linears, num_rows, pool));
  }
  rows.push_back(ProfileProducts("output product (one row)", {&model->weights().output}, 1, pool));
  ProfileRow rest{"attention, norms, rest", whole.seconds, 0, 0};
  for (const ProfileRow& row : rows) {
    rest.seconds -= row.seconds;
    whole.bytes += row.bytes;
    whole.flops += row.flops;
  }
  rest.seconds = std::max(0.0, rest.seconds);
  rows.push_back(rest);
  rows.push_back(whole);
  return rows;
}

}  // namespace mneme::cli
