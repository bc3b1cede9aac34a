#include "session/calibrate/calibrate.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/aligned.h"
#include "base/error.h"
#include "context/policy.h"
#include "context/registry.h"
#include "kernels/choose/choose.h"
#include "mneme/calibrate.h"
#include "model/model_impl.h"
#include "recall/votes.h"

namespace mneme {
namespace {

constexpr int64_t kSlice = static_cast<int64_t>(kBlockTokens);
constexpr int64_t kTextTokens = 4096;
constexpr int64_t kFewestSlices = 4;
constexpr int64_t kMostRows = 128;  // of a question
constexpr size_t kMostHeads = 4;

struct Fact {
  std::string_view thing;
  int number;
};
constexpr Fact kFacts[] = {
    {"the copper kettle", 5182}, {"a bag of walnuts", 7349}, {"the blue ladder", 2916},
    {"an old violin", 8463},     {"the garden bench", 3721}, {"a wool blanket", 6058},
    {"the silver spoon", 9274},  {"a clay pipe", 4537},      {"the brass lantern", 1689},
    {"a crate of lemons", 7950}, {"the oak wardrobe", 5364}, {"a paper kite", 2847}};

std::string Statement(const Fact& fact) {
  return fmt::format("\nThe price of {} is {}.\n", fact.thing, fact.number);
}
std::string Question(const Fact& fact) {
  return fmt::format("\nQuestion: What is the price of {0}?\nAnswer: The price of {0} is", fact.thing);
}

// Prose with facts hidden in it, and where they are.
struct Text {
  std::vector<TokenId> tokens;
  struct Place {
    Fact fact;
    int64_t begin, end;
  };
  std::vector<Place> places;
};

Text MakeText(const Tokenizer& tokenizer, int64_t num_tokens) {
  EncodeOptions options;
  options.add_bos = tokenizer.adds_bos();
  const std::vector<TokenId> prose = tokenizer.Encode(CalibrationProse(), options);
  std::vector<std::vector<TokenId>> statements;
  int64_t stated = 0;
  for (const Fact& fact : kFacts) {
    statements.push_back(tokenizer.Encode(Statement(fact)));
    // In a short text only as many as leave it a text.
    if (stated + std::ssize(statements.back()) > num_tokens / 4) {
      statements.pop_back();
      break;
    }
    stated += std::ssize(statements.back());
  }
  const int64_t num_prose = std::min(num_tokens - stated, std::ssize(prose));
  const auto count = std::ssize(statements);
  Text text;
  int64_t taken = 0;
  for (int64_t i = 0; i <= count; ++i) {
    // Not behind the last slice's begin, nor in the first slice, where the sinks are.
    const int64_t until = i == count ? num_prose : (2 * i + 1) * num_prose / (2 * count);
    text.tokens.insert(text.tokens.end(), prose.begin() + taken, prose.begin() + until);
    taken = until;
    if (i == count) break;
    const auto& statement = statements[static_cast<size_t>(i)];
    const auto begin = std::ssize(text.tokens);
    text.tokens.insert(text.tokens.end(), statement.begin(), statement.end());
    text.places.push_back({kFacts[i], begin, std::ssize(text.tokens)});
  }
  text.tokens.resize(text.tokens.size() / kBlockTokens * kBlockTokens);
  std::erase_if(text.places, [&](const Text::Place& place) { return place.end > std::ssize(text.tokens); });
  return text;
}

// A context that another one does the work of, and that takes down keys, in slices, and queries.
class Recorder : public Context {
 public:
  Recorder(const ContextShape& shape, std::unique_ptr<Context> inner, std::vector<size_t> layers,
           int64_t num_slices)
      : shape_(shape), inner_(std::move(inner)), layers_(std::move(layers)) {
    for (const size_t layer : layers_) {
      const LayerAttention& spec = shape_.layers[layer];
      offsets_.push_back(slice_bytes_);
      slice_bytes_ += spec.num_kv_heads * RoundUp(ChoiceKeyBytes(spec.key_dim));
      query_offsets_.push_back(query_floats_);
      query_floats_ += spec.num_heads * spec.key_dim;
      rows_.emplace_back(kBlockTokens * spec.num_kv_heads * spec.key_dim);
    }
    keys_ = MakeAligned<uint8_t>(slice_bytes_ * static_cast<size_t>(num_slices));
    queries_.resize(query_floats_ * kMostRows);
    num_slices_ = num_slices;
  }
  static size_t Bytes(const ContextShape& shape, std::span<const size_t> layers, int64_t num_slices) {
    size_t bytes = 0;
    for (const size_t layer : layers) {
      const LayerAttention& spec = shape.layers[layer];
      bytes += static_cast<size_t>(num_slices) * spec.num_kv_heads * RoundUp(ChoiceKeyBytes(spec.key_dim));
      bytes += (kBlockTokens * spec.num_kv_heads + kMostRows * spec.num_heads) * spec.key_dim * sizeof(float);
    }
    return bytes;
  }

  RecurrentState* recurrent() override { return inner_->recurrent(); }
  std::string Describe() const override { return inner_->Describe(); }
  void Begin(std::span<const TokenId> tokens) override {
    inner_->Begin(tokens);
    chunk_ = std::ssize(tokens);
  }
  AttendCall Plan(size_t layer, const float* q, const float* k, const float* v, float* out) override {
    const auto found = std::lower_bound(layers_.begin(), layers_.end(), layer);
    if (found != layers_.end() && *found == layer) {
      Record(static_cast<size_t>(found - layers_.begin()), q, k);
    }
    return inner_->Plan(layer, q, k, v, out);
  }
  void Finish(size_t layer, Device& device) override { inner_->Finish(layer, device); }
  void Commit() override {
    inner_->Commit();
    num_tokens_ = inner_->num_tokens();
  }
  void Abort() override { inner_->Abort(); }
  int64_t MaxRewind() const override { return inner_->MaxRewind(); }
  void Rewind(int64_t count) override {
    inner_->Rewind(count);
    num_tokens_ = inner_->num_tokens();
  }
  void Save(StateWriter& writer) const override { inner_->Save(writer); }
  void Restore(StateReader& reader) override { inner_->Restore(reader); }
  std::unique_ptr<Context> Fork() const override { return inner_->Fork(); }
  std::vector<LedgerRange> Ledger() const override { return inner_->Ledger(); }

  const uint8_t* slice(int64_t number) const {
    return keys_.get() + static_cast<size_t>(number) * slice_bytes_;
  }
  size_t KeyOffset(size_t place, size_t kv_head) const {
    return offsets_[place] + kv_head * RoundUp(ChoiceKeyBytes(shape_.layers[layers_[place]].key_dim));
  }
  // What is read from here on is a question, of kMostRows tokens at most.
  void BeginQuestion() { question_begin_ = num_tokens_; }
  // [num_heads, key_dim] of a row of the question.
  const float* Queries(size_t place, int64_t row) const {
    return queries_.data() + static_cast<size_t>(row) * query_floats_ + query_offsets_[place];
  }

 private:
  static size_t RoundUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

  void Record(size_t place, const float* q, const float* k) {
    const LayerAttention& spec = shape_.layers[layers_[place]];
    const size_t k_row = spec.num_kv_heads * spec.key_dim, q_row = spec.num_heads * spec.key_dim;
    for (int64_t row = 0; row < chunk_; ++row) {
      const int64_t index = num_tokens_ + row;
      if (const int64_t at = index - question_begin_; at < kMostRows) {
        std::copy_n(q + static_cast<size_t>(row) * q_row, q_row,
                    queries_.data() + static_cast<size_t>(at) * query_floats_ + query_offsets_[place]);
      }
      if (index >= num_slices_ * kSlice || spec.kv_source >= 0) continue;
      std::vector<float>& rows = rows_[place];
      std::copy_n(k + static_cast<size_t>(row) * k_row, k_row,
                  rows.data() + static_cast<size_t>(index % kSlice) * k_row);
      if (index % kSlice + 1 < kSlice) continue;
      for (size_t kv_head = 0; kv_head < spec.num_kv_heads; ++kv_head) {
        PackChoiceKeys(
            rows.data() + kv_head * spec.key_dim, k_row, spec.key_dim,
            keys_.get() + static_cast<size_t>(index / kSlice) * slice_bytes_ + KeyOffset(place, kv_head));
      }
    }
  }

  const ContextShape& shape_;
  int64_t question_begin_ = 0;
  std::unique_ptr<Context> inner_;
  std::vector<size_t> layers_;
  std::vector<size_t> offsets_, query_offsets_;
  size_t slice_bytes_ = 0, query_floats_ = 0;
  std::vector<std::vector<float>> rows_;  // of the slice under way
  AlignedArray<uint8_t> keys_;
  std::vector<float> queries_;
  int64_t num_slices_ = 0;
  int64_t chunk_ = 0;
};

// Layers whose heads may choose: those that recall and keep keys of their own.
std::vector<size_t> LayersThatChoose(const ContextShape& shape, const RecallOptions& options) {
  std::vector<size_t> layers;
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const LayerAttention& spec = shape.layers[i];
    if (static_cast<int64_t>(i) < options.from_layer || spec.kv_source >= 0) continue;
    if (options.has_global_layers && spec.layer_window > 0) continue;
    layers.push_back(i);
  }
  return layers;
}

// votes[question][slice] of one head.
using HeadVotes = std::vector<std::vector<float>>;

struct Trial {
  RecallHead head;
  HeadVotes votes;
};

// What the rows of a question, the last chunk of the recorder, vote for.
std::vector<float> VotesOf(const Recorder& recorder, const LayerAttention& spec, size_t place, size_t head,
                           int64_t num_rows, std::span<const uint8_t* const> slices, Device& device) {
  const std::vector<int32_t> first_tokens = [&] {
    std::vector<int32_t> first(slices.size(), 0);
    first[0] = 4;  // sinks
    return first;
  }();
  std::vector<float> q, scores(static_cast<size_t>(num_rows) * slices.size()), votes(slices.size()),
      largest(slices.size());
  const float factor = spec.scale;
  for (int64_t row = 0; row < num_rows; ++row) {
    const float* const from = recorder.Queries(place, row) + head * spec.key_dim;
    for (size_t i = 0; i < spec.key_dim; ++i) {
      const float magnitude = i < spec.rope.rotary_dim ? spec.rope.magnitude * spec.rope.magnitude : 1.0f;
      const float after = spec.query_factors.empty() ? 1.0f : spec.query_factors[i];
      q.push_back(from[i] * factor * magnitude * after);
    }
  }
  device.Score({.slices = slices,
                .first_tokens = first_tokens,
                .offset = recorder.KeyOffset(place, head / (spec.num_heads / spec.num_kv_heads)),
                .key_dim = spec.key_dim,
                .q = q.data(),
                .num_queries = static_cast<size_t>(num_rows),
                .out = scores.data()});
  device.Wait();
  for (int64_t row = 0; row < num_rows; ++row) {
    float* const scored = scores.data() + static_cast<size_t>(row) * slices.size();
    AddVotes(spec.soft_cap, {scored, slices.size()}, votes, largest);
  }
  return votes;
}

bool IsAt(const Text::Place& place, size_t slice) {
  const auto begin = static_cast<int64_t>(slice) * kSlice;
  return place.begin < begin + kSlice && place.end > begin;
}

// How clearly votes point at the right slice: 1 without rivals, 1/2 beside one as good, 0 where it has none.
double Clarity(const Text::Place& place, std::span<const float> votes) {
  float right = 0, wrong = 0;
  for (size_t i = 0; i < votes.size(); ++i)
    (IsAt(place, i) ? right : wrong) = std::max(IsAt(place, i) ? right : wrong, votes[i]);
  return right > 0 ? static_cast<double>(right) / static_cast<double>(right + wrong) : 0.0;
}

size_t RankOf(const Text::Place& place, std::span<const float> votes) {
  float right = 0;
  for (size_t i = 0; i < votes.size(); ++i) {
    if (IsAt(place, i)) right = std::max(right, votes[i]);
  }
  size_t rank = 1;
  for (size_t i = 0; i < votes.size(); ++i) rank += !IsAt(place, i) && votes[i] >= right;
  return rank;
}

// How well a head finds alone: how clearly, times the mean of one over the rank.
double ScoreOf(const Text& text, const HeadVotes& votes) {
  double clarity = 0, ranks = 0;
  for (size_t i = 0; i < text.places.size(); ++i) {
    clarity += Clarity(text.places[i], votes[i]);
    ranks += 1.0 / static_cast<double>(RankOf(text.places[i], votes[i]));
  }
  const auto count = static_cast<double>(text.places.size());
  return clarity / count * ranks / count;
}

void Add(const HeadVotes& votes, HeadVotes* sum) {
  for (size_t i = 0; i < votes.size(); ++i) {
    for (size_t j = 0; j < votes[i].size(); ++j) (*sum)[i][j] += votes[i][j];
  }
}

// The heads that are best alone. Choosing them for what they add to each other would fit this text too
// closely.
Calibration PickHeads(const Text& text, const std::vector<Trial>& trials, int64_t num_slices) {
  Calibration calibration{.heads = {}, .num_slices = num_slices, .num_questions = std::ssize(text.places)};
  std::vector<std::pair<double, size_t>> order;  // best first, of equal ones the lower layer
  for (size_t i = 0; i < trials.size(); ++i) order.emplace_back(-ScoreOf(text, trials[i].votes), i);
  std::sort(order.begin(), order.end());
  HeadVotes votes(text.places.size(), std::vector<float>(static_cast<size_t>(num_slices)));
  for (const auto& [minus_score, i] : order) {
    // A head that is half as good only adds noise.
    if (calibration.heads.size() == kMostHeads || -minus_score < -order[0].first / 2 || minus_score == 0)
      break;
    Add(trials[i].votes, &votes);
    calibration.heads.push_back({.layer = static_cast<int64_t>(trials[i].head.layer),
                                 .head = static_cast<int64_t>(trials[i].head.head),
                                 .score = -minus_score});
  }
  for (size_t i = 0; i < text.places.size(); ++i) {
    const size_t rank = RankOf(text.places[i], votes[i]);
    calibration.found_first += rank == 1 ? 1.0 : 0.0;
    calibration.found_four += rank <= 4 ? 1.0 : 0.0;
  }
  calibration.found_first /= static_cast<double>(text.places.size());
  calibration.found_four /= static_cast<double>(text.places.size());
  return calibration;
}

struct Bench {
  const LoadedModel& model;
  Device& device;
  Runner& runner;
  Recorder& recorder;

  void Feed(std::span<const TokenId> tokens) const {
    const ForwardChunk chunk{.context = &recorder, .tokens = tokens, .no_logits = true};
    runner.Forward({&chunk, 1}, [](size_t, size_t, std::span<const float>) {});
  }
  void FeedAll(std::span<const TokenId> tokens) const {
    const auto most = static_cast<size_t>(runner.max_rows());
    for (size_t at = 0; at < tokens.size(); at += most)
      Feed(tokens.subspan(at, std::min(most, tokens.size() - at)));
  }
};

std::vector<Trial> TryHeads(const Bench& bench, const Text& text, std::span<const size_t> layers,
                            Progress& progress, StopToken stop) {
  const ContextShape& shape = bench.model.context_shape();
  const int64_t num_slices = std::ssize(text.tokens) / kSlice;
  const int64_t total = std::ssize(text.tokens);
  const auto check = [&] {
    if (stop.stop_requested()) Fail(ErrorKind::kInterrupted, "interrupted");
  };
  for (int64_t at = 0; at < total;) {
    check();
    const int64_t count = std::min(bench.runner.max_rows(), total - at);
    bench.Feed(std::span(text.tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(count)));
    at += count;
    progress.Update(at, total, "reading");
  }
  std::vector<const uint8_t*> slices;
  for (int64_t i = 0; i < num_slices; ++i) slices.push_back(bench.recorder.slice(i));
  std::vector<Trial> trials;
  for (const size_t layer : layers) {
    for (size_t head = 0; head < shape.layers[layer].num_heads; ++head) trials.push_back({{layer, head}, {}});
  }
  for (const Text::Place& place : text.places) {
    check();
    std::vector<TokenId> question = bench.model.tokenizer().Encode(Question(place.fact));
    question.resize(std::min(question.size(), static_cast<size_t>(kMostRows)));
    bench.recorder.BeginQuestion();
    bench.FeedAll(question);
    size_t at = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      const LayerAttention& spec = shape.layers[layers[i]];
      for (size_t head = 0; head < spec.num_heads; ++head) {
        trials[at++].votes.push_back(
            VotesOf(bench.recorder, spec, i, head, std::ssize(question), slices, bench.device));
      }
    }
    bench.recorder.Rewind(std::ssize(question));
  }
  return trials;
}

}  // namespace

Calibration Calibrate(const Model& model, Progress& progress, StopToken stop) {
  const LoadedModel& loaded = *model.impl()->loaded;
  const ContextShape& shape = loaded.context_shape();
  Engine::Impl& engine = model.engine().impl();
  ContextSettings settings;
  settings.spec = "recall:keep=64";
  const std::shared_ptr<const Policy> policy = PolicyOf(shape, settings);
  const std::vector<size_t> layers = LayersThatChoose(shape, *policy->recall());
  if (layers.empty()) {
    Fail(ErrorKind::kUnsupported, "{}: no layer of this model could recall", model.info().path);
  }
  const int64_t length = std::min(TrainedLength(shape) - kMostRows, kTextTokens);
  const Text text = MakeText(loaded.tokenizer(), std::max(length, kFewestSlices * kSlice));
  const int64_t num_slices = std::ssize(text.tokens) / kSlice;
  if (num_slices < kFewestSlices || text.places.empty()) {
    Fail(ErrorKind::kUnsupported, "{}: what it was trained to read at once is too short to try its heads",
         model.info().path);
  }
  const Lease lease = engine.budget.Reserve(MemoryTag::kScratch, Recorder::Bytes(shape, layers, num_slices),
                                            "the keys of the calibration's text");
  std::shared_ptr<Runner> runner = model.impl()->runner;
  if (runner == nullptr) {
    runner = std::make_shared<Runner>(loaded, std::min<int64_t>(engine.options.max_rows, 128), engine.device,
                                      engine.budget);
  }
  const int64_t window = std::min<int64_t>(1024, TrainedLength(shape) - 8);
  settings.spec = fmt::format("sinks:sinks=4,window={}", window);
  settings.max_chunk = runner->max_rows();
  settings.max_rewind = kMostRows + 1;
  Recorder recorder(shape, MakeContext(shape, settings, engine.budget, engine.device.num_threads()), layers,
                    num_slices);
  const Bench bench{loaded, engine.device, *runner, recorder};
  Calibration calibration = PickHeads(text, TryHeads(bench, text, layers, progress, stop), num_slices);
  if (calibration.heads.empty()) {
    Fail(ErrorKind::kUnsupported, "{}: none of its heads finds what is asked for", model.info().path);
  }
  progress.Finish(fmt::format("{} heads of {}", calibration.heads.size(), model.info().name));
  return calibration;
}

}  // namespace mneme
