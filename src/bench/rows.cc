#include "bench/rows.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <utility>

#include "base/budget.h"
#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "context/registry.h"
#include "session/scheduler.h"
#include "bench/timing.h"
#include "kernels/linear/linear.h"
#include "model/weights.h"
#include "session/plan.h"
#include "session/session.h"

namespace mneme::cli {
namespace {

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
    options_.context = ResolveDeepest();
    is_bounded_ =
        PeakContextBytes(model_->context_shape(), options_.context, -1, pool.num_threads()).is_bounded;
  }

  std::vector<BenchRow> Rows() {
    if (settings_.num_prefill > 0) Guarded("prefill", 0, [&] { Prefill(); });
    for (const int64_t depth : settings_.depths) {
      if (settings_.stop.stop_requested()) break;
      if (settings_.num_decode > 0) Guarded("decode", depth, [&] { Decode(depth); });
      if (settings_.batch > 1 && !settings_.stop.stop_requested()) Guarded("batch", depth, [&] { Batch(depth); });
      if (!settings_.state_folder.empty() && !settings_.stop.stop_requested())
        Guarded("state", depth, [&] { State(depth); });
    }
    return std::move(rows_);
  }

 private:
  // For the deepest depth that the cap allows; rows beyond it say why there are none.
  ContextSettings ResolveDeepest() {
    SessionOptions options;
    options.context = settings_.context;
    std::vector<int64_t> depths = settings_.depths;
    if (depths.empty()) depths.push_back(0);
    std::sort(depths.begin(), depths.end());
    for (;; depths.pop_back()) {
      try {
        const int64_t num_tokens = depths.back() + settings_.num_prefill + settings_.num_decode;
        return ResolveSessionContext(*model_, options, settings_.cap_bytes, num_tokens, pool_.num_threads())
            .settings;
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kBudget || depths.size() == 1) throw;
        too_deep_ = depths.back();
        why_too_deep_ = error.what();
      }
    }
  }

  void Guarded(const char* what, int64_t depth, const std::function<void()>& measure) {
    try {
      if (depth >= too_deep_) Fail(ErrorKind::kBudget, "{}", why_too_deep_);
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

  // Tokens per second of reading: what was measured, or else one chunk, which is too kind to a context that
  // grows.
  double PrefillRate(int64_t depth) {
    if (prefill_rate_ > 0 || depth == 0) return std::max(prefill_rate_, 1.0);
    Session session(model_, options_, budget_, pool_);
    const std::vector<TokenId> ids = ids_.Take(std::min(depth, options_.context.max_chunk));
    const Clock::time_point start = Clock::now();
    const size_t count = session.Feed(ids);
    prefill_rate_ = std::max(1.0, static_cast<double>(count) / SecondsSince(start));
    return prefill_rate_;
  }

  // A session at `depth`. Reads up to it where that is quick or cannot be avoided; else starts there and
  // fills what a token can see, which for a bounded context is the same work per token.
  std::unique_ptr<Session> At(int64_t depth, std::string* reached, std::shared_ptr<Runner> runner = nullptr) {
    SessionOptions options = options_;
    const double rate = PrefillRate(depth);
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
    while (left > 0 && !settings_.stop.stop_requested()) {
      const int64_t count = std::min(left, options.context.max_chunk);
      session->Feed(ids_.Take(count));
      left -= count;
      if (!can_read && (HasForgotten(session->context()) || session->num_tokens() >= depth)) break;
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
    for (int64_t i = 0; i < settings_.num_repeats && !settings_.stop.stop_requested(); ++i) {
      // Each run starts at the same depth, and warm.
      const std::unique_ptr<Session> session = base->Clone();
      seconds.push_back(TimeDecode(*session, ids_, settings_.num_decode));
    }
    AddDecodeRow(std::move(row), *base, std::move(seconds), settings_.num_decode, 1);
  }

  void Batch(int64_t depth) {
    BenchRow row = NewRow(fmt::format("batch {}", settings_.batch), depth);
    const std::shared_ptr<Runner> runner =
        Session::MakeRunner(model_, std::max(options_.context.max_chunk, settings_.batch), pool_, budget_);
    std::vector<std::unique_ptr<Session>> sessions;
    for (int64_t i = 0; i < settings_.batch && !settings_.stop.stop_requested(); ++i) {
      sessions.push_back(i == 0 ? At(depth, &row.reached, runner) : sessions[0]->Clone());
    }
    Scheduler scheduler(runner);
    std::vector<double> seconds;
    for (int64_t i = 0; i < settings_.num_repeats && !settings_.stop.stop_requested(); ++i) {
      const Clock::time_point start = Clock::now();
      for (int64_t step = 0; step < settings_.num_decode; ++step) {
        for (const auto& session : sessions) scheduler.Add({.session = session.get(), .tokens = ids_.Take(1)});
        scheduler.Step();
      }
      seconds.push_back(SecondsSince(start));
    }
    AddDecodeRow(std::move(row), *sessions[0], std::move(seconds), settings_.num_decode, settings_.batch);
  }

  // Saves the session of `depth` to a file and restores it into another, checksums included.
  void State(int64_t depth) {
    BenchRow save = NewRow("save", depth);
    BenchRow restore = NewRow("restore", depth);
    const std::unique_ptr<Session> session = At(depth, &save.reached);
    restore.reached = save.reached;
    const std::string path = fmt::format("{}/mneme-bench-{}.state", settings_.state_folder, ::getpid());
    struct Removal {
      const std::string& path;
      ~Removal() { ::unlink(path.c_str()); }
    } const removal{path};
    std::vector<double> save_seconds, restore_seconds;
    for (int64_t i = 0; i <= settings_.num_repeats && !settings_.stop.stop_requested(); ++i) {
      Clock::time_point start = Clock::now();
      session->Save(path);
      const double saved = SecondsSince(start);
      SessionOptions options = options_;
      options.context.start_position = session->context().start_position();
      Session other(model_, options, budget_, pool_, session->runner());
      start = Clock::now();
      other.Restore(path);
      const double restored = SecondsSince(start);
      if (i == 0) continue;  // warms pages
      save_seconds.push_back(saved);
      restore_seconds.push_back(restored);
    }
    if (save_seconds.empty()) return;
    const auto bytes = static_cast<double>(MappedFile(path).bytes().size());
    for (BenchRow* row : {&save, &restore}) {
      const Timing timing = MedianOf(row == &save ? save_seconds : restore_seconds);
      row->spread = timing.spread;
      row->bytes_per_second = bytes / timing.median_seconds;
      row->bytes_per_token =
          bytes / static_cast<double>(std::max<int64_t>(1, VisibleTokens(session->context())));
      rows_.push_back(std::move(*row));
    }
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
  int64_t too_deep_ = std::numeric_limits<int64_t>::max();  // depths from here on do not fit under the cap
  std::string why_too_deep_;
  std::vector<BenchRow> rows_;
};

// One call of MatMul in a forward pass: matrices with the same input.
struct ProductCall {
  size_t kind;  // index of its row in the profile
  std::vector<const LinearLayer*> linears;
  int64_t num_rows;
};

// Times every call in the order of a forward pass, so that weights come from where they come from then; of
// several passes the fastest. Adds to rows[kind].
void ProfileProducts(const std::vector<ProductCall>& calls, ThreadPool& pool, std::vector<ProfileRow>& rows) {
  size_t max_rows = 0, max_cols = 0, max_values = 0;
  ActivationForm most = ActivationForm::kFloat;
  for (const ProductCall& call : calls) {
    const size_t num_rows = static_cast<size_t>(call.num_rows);
    size_t num_outputs = 0;
    for (const LinearLayer* linear : call.linears) {
      const LinearWeights& weights = linear->weights;
      max_cols = std::max(max_cols, weights.num_cols());
      most = CommonForm(most, FormFor(weights));
      num_outputs += weights.num_rows();
      rows[call.kind].bytes += static_cast<double>(weights.read_bytes());
      rows[call.kind].flops += 2.0 * static_cast<double>(weights.num_rows()) *
                               static_cast<double>(weights.num_cols()) * static_cast<double>(num_rows);
    }
    max_rows = std::max(max_rows, num_rows);
    max_values = std::max(max_values, num_rows * num_outputs);
  }
  std::vector<float> x(max_rows * max_cols), out(max_values);
  Random random(1);
  for (float& value : x) value = static_cast<float>(random.Uniform() - 0.5);
  ActivationRows activations(max_rows, max_cols, most);
  std::vector<MatMulJob> jobs;
  const auto run = [&](const ProductCall& call) {
    const size_t num_rows = static_cast<size_t>(call.num_rows);
    ActivationForm form = ActivationForm::kFloat;
    jobs.clear();
    float* to = out.data();
    for (const LinearLayer* linear : call.linears) {
      const LinearWeights& weights = linear->weights;
      form = CommonForm(form, FormFor(weights));
      jobs.push_back({&weights, linear->bias_or_null(), to, weights.num_rows(), false});
      to += num_rows * weights.num_rows();
    }
    const size_t num_cols = call.linears.front()->weights.num_cols();
    const Clock::time_point start = Clock::now();
    activations.Set(x.data(), num_rows, num_cols, num_cols, form, pool);
    MatMul(activations, jobs, pool);
    return SecondsSince(start);
  };
  double least = std::numeric_limits<double>::infinity();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < 3 || (SecondsSince(start) < 0.3 && i < 1000); ++i) {
    std::vector<double> seconds(rows.size());
    double total = 0;
    for (const ProductCall& call : calls) {
      const double taken = run(call);
      seconds[call.kind] += taken;
      total += taken;
    }
    if (total >= least) continue;
    least = total;
    for (size_t kind = 0; kind < rows.size(); ++kind) rows[kind].seconds = seconds[kind];
  }
}

// A context that notes how long attention takes.
class TimedContext : public Context {
 public:
  explicit TimedContext(std::unique_ptr<Context> inner) : inner_(std::move(inner)) { Follow(); }

  std::string Describe() const override { return inner_->Describe(); }
  void Begin(std::span<const TokenId> tokens) override { inner_->Begin(tokens); }
  void Attend(size_t layer, const float* q, const float* k, const float* v, float* out,
              ThreadPool& pool) override {
    const Clock::time_point start = Clock::now();
    inner_->Attend(layer, q, k, v, out, pool);
    seconds_ += SecondsSince(start);
  }
  void SetWriteGate(size_t layer, const float* write_gate) override {
    inner_->SetWriteGate(layer, write_gate);
  }
  void Commit() override {
    inner_->Commit();
    Follow();
  }
  void Abort() override { inner_->Abort(); }
  int64_t MaxRewind() const override { return inner_->MaxRewind(); }
  void Rewind(int64_t count) override {
    inner_->Rewind(count);
    Follow();
  }
  void Save(StateWriter& writer) const override { inner_->Save(writer); }
  void Restore(StateReader& reader) override {
    inner_->Restore(reader);
    Follow();
  }
  std::unique_ptr<Context> Fork() const override {
    return std::make_unique<TimedContext>(inner_->Fork());
  }
  std::vector<LedgerRange> Ledger() const override { return inner_->Ledger(); }

  // Since the last call.
  double TakeSeconds() { return std::exchange(seconds_, 0.0); }

 private:
  void Follow() {
    num_tokens_ = inner_->num_tokens();
    start_position_ = inner_->start_position();
  }
  std::unique_ptr<Context> inner_;
  double seconds_ = 0;
};

constexpr int kMinProfileRuns = 3;

// The whole forward call and the attention inside it, of the fastest run, into two rows.
void ProfileForward(Runner& runner, TimedContext& context, const ContextShape& shape,
                    const ContextSettings& settings, std::span<const TokenId> chunk, int max_runs,
                    ProfileRow* whole, ProfileRow* attention) {
  const ForwardChunk forward{.context = &context, .tokens = chunk};
  const auto count = static_cast<int64_t>(chunk.size());
  double seen = 0;     // by a row of the last run, on average
  double visible = 0;  // the same of the fastest
  const auto run = [&] {
    const auto before = static_cast<double>(VisibleTokens(context));
    const Clock::time_point start = Clock::now();
    runner.Forward({&forward, 1}, [](size_t, size_t, std::span<const float>) {});
    const double seconds = SecondsSince(start);
    seen = (before + static_cast<double>(VisibleTokens(context)) + 1) / 2;
    if (context.MaxRewind() >= count) context.Rewind(count);
    return seconds;
  };
  run();
  context.TakeSeconds();
  whole->seconds = std::numeric_limits<double>::infinity();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < kMinProfileRuns || (SecondsSince(start) < 0.3 && i < max_runs); ++i) {
    const double seconds = run();
    const double attend_seconds = context.TakeSeconds();
    if (seconds >= whole->seconds) continue;
    whole->seconds = seconds;
    attention->seconds = attend_seconds;
    visible = seen;
  }
  const auto rows = static_cast<double>(chunk.size());
  attention->bytes = KvBytesPerToken(shape, settings) * visible;
  for (const LayerAttention& layer : shape.layers) {
    attention->flops +=
        2.0 * static_cast<double>(layer.num_heads * (layer.key_dim + layer.value_dim)) * visible * rows;
  }
}

ProductKind KindOf(const LinearWeights& weights) {
  if (NeedsQuantised(weights.encoding())) return ProductKind::kInt8;
  switch (weights.products()) {
    case FloatProducts::kInt16:
      return ProductKind::kInt16;
    case FloatProducts::kBFloat16:
      return ProductKind::kBFloat16;
    default:
      return ProductKind::kFloat32;
  }
}

}  // namespace

ModelCosts CostsOf(const Model& model) {
  ModelCosts costs;
  std::map<ProductKind, size_t> bytes;
  size_t all_bytes = 0;
  for (const LayerWeights& layer : model.weights().layers) {
    for (const LinearLayer* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      if (linear->empty()) continue;
      const LinearWeights& weights = linear->weights;
      costs.flops_per_token +=
          2.0 * static_cast<double>(weights.num_rows()) * static_cast<double>(weights.num_cols());
      all_bytes += weights.read_bytes();
      bytes[KindOf(weights)] += weights.read_bytes();
    }
  }
  for (const auto& [kind, count] : bytes) {
    if (count * 2 > all_bytes) costs.products = kind;
  }
  costs.weight_bytes_per_token = model.read_bytes_per_token();
  return costs;
}

std::vector<BenchRow> MeasureContext(std::shared_ptr<const Model> model, const BenchSettings& settings,
                                     const MachineFloor* floor, ThreadPool& pool) {
  return ContextBench(std::move(model), settings, floor, pool).Rows();
}

std::vector<ProfileRow> ProfileModel(std::shared_ptr<const Model> model, const ContextSettings& context,
                                     int64_t num_rows, int64_t depth, size_t cap_bytes, ThreadPool& pool,
                                     StopToken stop) {
  Budget budget(cap_bytes);
  SessionOptions options;
  options.context = context;
  // Every run starts at `depth`, where the context can go back that far.
  options.context.max_rewind = std::max(options.context.max_rewind, num_rows);
  // Where it cannot, it holds what the runs add: few where each adds many tokens.
  const int max_runs = num_rows == 1 ? 256 : kMinProfileRuns;
  options.context =
      ResolveSessionContext(*model, options, cap_bytes, depth + (max_runs + 1) * num_rows, pool.num_threads())
          .settings;
  num_rows = std::min(num_rows, options.context.max_chunk);
  Runner runner(*model, options.context.max_chunk, pool, budget);
  TimedContext timed(MakeContext(model->context_shape(), options.context, budget, pool.num_threads()));
  RandomIds ids(model->config().vocab_size);
  while (timed.num_tokens() < depth && !stop.stop_requested()) {
    const std::vector<TokenId> piece =
        ids.Take(std::min(depth - timed.num_tokens(), options.context.max_chunk));
    const ForwardChunk forward{.context = &timed, .tokens = piece, .no_logits = true};
    runner.Forward({&forward, 1}, [](size_t, size_t, std::span<const float>) {});
  }
  ProfileRow whole{"whole", 0, 0, 0};
  ProfileRow attention{"attention", 0, 0, 0};
  ProfileForward(runner, timed, model->context_shape(), options.context, ids.Take(num_rows), max_runs, &whole,
                 &attention);

  std::vector<ProfileRow> rows = {{"q, k, v products", 0, 0, 0},
                                  {"attention output product", 0, 0, 0},
                                  {"gate and up products", 0, 0, 0},
                                  {"down product", 0, 0, 0},
                                  {"output product (one row)", 0, 0, 0}};
  std::vector<ProductCall> calls;
  for (const LayerWeights& layer : model->weights().layers) {
    const std::vector<std::vector<const LinearLayer*>> kinds = {
        {&layer.q, &layer.k, &layer.v}, {&layer.o}, {&layer.gate, &layer.up}, {&layer.down}};
    for (size_t kind = 0; kind < kinds.size(); ++kind) {
      ProductCall call{kind, kinds[kind], num_rows};
      std::erase_if(call.linears, [](const LinearLayer* linear) { return linear->empty(); });
      if (!call.linears.empty()) calls.push_back(std::move(call));
    }
  }
  calls.push_back({rows.size() - 1, {&model->weights().output}, 1});
  ProfileProducts(calls, pool, rows);
  rows.push_back(attention);
  ProfileRow rest{"norms, activations, rest", whole.seconds, 0, 0};
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
