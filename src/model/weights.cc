#include "model/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "model/auto_products.h"
#include "model/tensors/tensor_map.h"

namespace mneme {
namespace {

// Above this, repacking would cost more start-up time and memory than most people expect.
constexpr size_t kMaxAutoPackBytes = size_t{8} << 30;
constexpr size_t kMinPackRows = 16;

// What the wiring of a layer has norms for.
void VisitNorms(const ModelPlan& model, const LayerPlan& plan, WeightVisitor& visitor, LayerWeights* w) {
  if (!model.norms_have_weights) return;
  const size_t counts[] = {model.model_dim};
  if (!plan.has_mixer() || !plan.has_feed_forward()) {
    visitor.Norm("attn_norm", counts, true, &w->attn_norm);
    return;
  }
  const bool is_pre_norm = plan.wiring != Wiring::kPostNormOnly;
  if (is_pre_norm) {
    visitor.Norm("attn_norm", counts, true, &w->attn_norm);
    visitor.Norm("ffn_norm", counts, plan.wiring == Wiring::kSequential, &w->ffn_norm);
    // With two norms of a parallel block under these names, the second is attention's.
    NormWeights second;
    visitor.Norm("attn_norm_2", counts, false, &second);
    if (!second.empty()) {
      w->ffn_norm = std::move(w->attn_norm);
      w->attn_norm = std::move(second);
    }
  }
  if (plan.has_post_norms || !is_pre_norm) {
    visitor.Norm("post_attention_norm", counts, true, &w->post_attn_norm);
    visitor.Norm("post_ffw_norm", counts, true, &w->post_ffn_norm);
  }
}

class Loader : public WeightVisitor {
 public:
  Loader(const TensorSource& source, const Family& family, const ModelPlan& plan, const ModelOptions& options,
         Device& device)
      : source_(source),
        plan_(plan),
        map_(source, family, plan),
        pack_(options.pack),
        saved_products_(options.products),
        pack_cache_(options.pack_cache),
        device_(device) {
    size_t total = 0;
    for (const TensorInfo& tensor : source.tensors()) total += tensor.bytes;
    const bool has_limit = pack_ == PackMode::kAuto || pack_ == PackMode::kFloat32;
    if (has_limit && total > kMaxAutoPackBytes) pack_ = PackMode::kNever;
  }

  ModelWeights Load(bool tied_head, const std::function<void()>& beside) {
    const size_t model_dim = plan_.model_dim;
    const auto embedding = map_.Find("token_embd", -1, plan_.vocab_size, model_dim, true);
    weights_.token_embedding = map_.Contiguous(*embedding);
    if (plan_.position == PositionKind::kLearned) {
      const size_t positions = static_cast<size_t>(plan_.trained_length) + plan_.position_offset;
      weights_.position_embedding =
          map_.Contiguous(*map_.Find("position_embd", -1, positions, model_dim, true));
    }
    weights_.layers.resize(plan_.num_layers());
    for (const LayerPlan& plan : plan_.layers) {
      LayerWeights& w = weights_.layers[static_cast<size_t>(++layer_)];
      VisitLayer(plan_, plan, *this, &w);
      if (AttentionWeights* attention = w.attention()) {
        if (attention->sink_logits.empty() && plan_.softmax_off_by_one) {
          attention->sink_logits.assign(plan.attention()->num_heads, 0.0f);
        }
      }
    }
    layer_ = -1;
    if (plan_.per_layer_dim > 0) LoadPerLayer();
    const size_t counts[] = {model_dim};
    if (plan_.norms_have_weights) Norm("output_norm", counts, true, &weights_.output_norm);
    if (plan_.has_embedding_norm) Norm("token_embd_norm", counts, true, &weights_.embedding_norm);
    // A file may hold the head and say that it is the embedding all the same.
    const auto head = map_.Find("output", -1, plan_.vocab_size, model_dim, false);
    SetMatrix(head && !tied_head ? map_.Contiguous(*head) : weights_.token_embedding, &weights_.output);
    weights_.output.bias = map_.FindVector("output", "bias", -1, plan_.vocab_size, false);
    map_.CheckAllUsed();
    Pack(beside);
    for (LayerWeights& w : weights_.layers) {
      if (auto* experts = std::get_if<ExpertsWeights>(&w.feed_forward)) ListMatrices(experts);
      if (auto* mixed = std::get_if<MixedWeights>(&w.feed_forward)) ListMatrices(&mixed->experts);
    }
    weights_.owned_bytes = map_.owned_bytes();
    weights_.owned = map_.TakeOwned();
    return std::move(weights_);
  }

 private:
  void LoadPerLayer() {
    const size_t all = plan_.num_layers() * plan_.per_layer_dim;
    const size_t counts[] = {plan_.per_layer_dim};
    weights_.per_layer.embedding =
        map_.Contiguous(*map_.Find("per_layer_token_embd", -1, plan_.vocab_size, all, true));
    Matrix("per_layer_model_proj", all, plan_.model_dim, &weights_.per_layer.projection);
    Norm("per_layer_proj_norm", counts, true, &weights_.per_layer.norm);
  }

  void Norm(std::string_view name, std::span<const size_t> counts, bool is_required,
            NormWeights* norm) override {
    norm->weight = map_.FindNorm(name, "weight", layer_, is_required, counts);
    norm->bias = map_.FindNorm(name, "bias", layer_, false, counts);
    if (!norm->bias.empty() && (norm->bias.size() != norm->weight.size() || plan_.norm == NormKind::kRms)) {
      Fail(ErrorKind::kUnsupported, "{}: '{}' has a bias that the family's norm does not take",
           source_.path(), name);
    }
  }

  void Matrix(std::string_view name, size_t num_rows, size_t num_cols, LinearLayer* linear) override {
    SetMatrix(map_.Contiguous(*map_.Find(name, layer_, num_rows, num_cols, true)), linear);
    linear->bias = map_.FindVector(name, "bias", layer_, num_rows, false);
  }

  void Vector(std::string_view name, std::string_view suffix, size_t count, bool is_required,
              std::vector<float>* values) override {
    *values = map_.FindVector(name, suffix, layer_, count, is_required);
  }

  void Qkv(const AttentionPlan& plan, LinearLayer* q, LinearLayer* k, LinearLayer* v,
           LinearLayer* gate) override {
    LinearLayer* const parts[3] = {q, k, v};
    if (plan.has_output_gate) {
      SetMatrix(map_.Contiguous(*map_.FindQkv(plan, 3, layer_)), gate);
      gate->bias = map_.FindQkvBias(plan, 3, layer_);
    }
    const int num_parts = plan.kv_source >= 0 ? 1 : plan.value_is_key ? 2 : 3;
    for (int part = 0; part < num_parts; ++part) {
      SetMatrix(map_.Contiguous(*map_.FindQkv(plan, part, layer_)), parts[part]);
      parts[part]->bias = map_.FindQkvBias(plan, part, layer_);
    }
  }

  void LatentHeads(const LatentPlan& plan, LatentWeights* w) override {
    const LatentRows rows = map_.FindLatent(plan, layer_);
    for (size_t head = 0; head < plan.attention.num_heads; ++head) {
      SetMatrix(map_.Contiguous(rows.keys[head]), &w->head_keys[head]);
      SetMatrix(map_.Contiguous(rows.values[head]), &w->head_values[head]);
    }
  }

  void Delta(const DeltaPlan& plan, DeltaWeights* w) override {
    const DeltaRows rows = map_.FindDelta(plan, layer_);
    SetMatrix(map_.Contiguous(rows.qkv), &w->qkv);
    SetMatrix(map_.Contiguous(rows.gate), &w->gate);
    SetMatrix(map_.Contiguous(rows.alpha), &w->alpha);
    SetMatrix(map_.Contiguous(rows.beta), &w->beta);
    SetMatrix(map_.Contiguous(rows.out), &w->out);
    w->step_bias = rows.step_bias;
    w->rate = rows.rate;
    w->norm = rows.norm;
    w->convolution = ByTaps(plan.shape, rows.convolution);
  }

  // Files have the taps of a channel together.
  static std::vector<float> ByTaps(const RecurShape& shape, const std::vector<float>& by_channels) {
    const size_t width = shape.conv_width, channels = shape.num_channels();
    std::vector<float> taps(width * channels);
    for (size_t channel = 0; channel < channels; ++channel) {
      for (size_t tap = 0; tap < width; ++tap) {
        taps[tap * channels + channel] = by_channels[channel * width + tap];
      }
    }
    return taps;
  }

  void Parts(std::string_view name, std::span<const size_t> num_rows, size_t num_cols,
             std::span<LinearLayer* const> parts) override {
    const size_t total = std::accumulate(num_rows.begin(), num_rows.end(), size_t{0});
    const std::vector<float> bias = map_.FindVector(name, "bias", layer_, total, false);
    size_t first = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      SetMatrix(map_.Contiguous(map_.FindPart(name, layer_, total, num_cols, first, num_rows[i])), parts[i]);
      const size_t end = first + num_rows[i];
      if (!bias.empty()) parts[i]->bias.assign(&bias[first], &bias[0] + end);
      first = end;
    }
  }

  void Adapter(std::string_view name, size_t source, size_t number, std::span<const size_t> num_rows,
               size_t num_cols, std::span<LinearLayer* const> parts) override {
    const size_t total = std::accumulate(num_rows.begin(), num_rows.end(), size_t{0});
    size_t first = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      SetMatrix(map_.Contiguous(
                    map_.FindAdapter(name, layer_, source, number, total, num_cols, first, num_rows[i])),
                parts[i]);
      first += num_rows[i];
    }
  }

  void Convolution(std::string_view name, const RecurShape& shape, std::vector<float>* taps,
                   std::vector<float>* bias) override {
    const size_t count = shape.num_channels() * shape.conv_width;
    *taps = ByTaps(shape, map_.FindVector(name, "weight", layer_, count, true));
    *bias = map_.FindVector(name, "bias", layer_, shape.num_channels(), false);
  }

  void PerHead(std::string_view name, size_t num_heads, size_t depth, bool is_rate,
               std::vector<float>* values) override {
    *values = map_.FindPerHead(name, layer_, num_heads * depth, is_rate);
  }

  void GateUp(size_t dim, LinearLayer* gate, LinearLayer* up) override {
    LinearLayer* const parts[2] = {gate, up};
    for (int part = 0; part < 2; ++part) {
      SetMatrix(map_.Contiguous(*map_.FindGateUp(dim, part, layer_)), parts[part]);
      parts[part]->bias = map_.FindGateUpBias(dim, part, layer_);
    }
    with_gate_[gate] = up;
  }

  void Heads(std::string_view name, size_t head_dim, std::span<LinearLayer> heads) override {
    for (size_t i = 0; i < heads.size(); ++i) {
      SetMatrix(map_.Contiguous(map_.FindExpert(name, layer_, i, heads.size(), head_dim, head_dim)),
                &heads[i]);
      heads[i].bias = map_.FindExpertBias(name, layer_, i, heads.size(), head_dim);
    }
  }

  void XieluOf(Xielu* xielu) override {
    const auto softplus = [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); };
    const auto [alpha_p, alpha_n, beta, epsilon] = map_.FindXielu(layer_);
    *xielu = {.square = static_cast<float>(softplus(static_cast<double>(alpha_p))),
              .bend = static_cast<float>(static_cast<double>(beta) + softplus(static_cast<double>(alpha_n))),
              .line = beta,
              .below = epsilon};
  }

  void Experts(const ExpertsPlan& plan, std::span<DenseWeights> experts) override {
    for (size_t i = 0; i < experts.size(); ++i) {
      DenseWeights& e = experts[i];
      const auto set = [&](std::string_view name, size_t rows, size_t cols, LinearLayer* linear) {
        SetMatrix(map_.Contiguous(map_.FindExpert(name, layer_, i, experts.size(), rows, cols)), linear);
      };
      if (plan.is_gated) set("ffn_gate_exps", plan.dim, plan_.model_dim, &e.gate);
      set("ffn_up_exps", plan.dim, plan_.model_dim, &e.up);
      set("ffn_down_exps", plan_.model_dim, plan.dim, &e.down);
      if (plan.is_gated) with_gate_[&e.gate] = &e.up;
      if (!plan.has_biases) continue;
      e.gate.bias = map_.FindExpertBias("ffn_gate_exps", layer_, i, experts.size(), plan.dim);
      e.up.bias = map_.FindExpertBias("ffn_up_exps", layer_, i, experts.size(), plan.dim);
      e.down.bias = map_.FindExpertBias("ffn_down_exps", layer_, i, experts.size(), plan_.model_dim);
    }
  }

  void SetMatrix(const WeightView& view, LinearLayer* linear) {
    linear->file = view;
    linear->weights = LinearWeights::InPlace(pack_ == PackMode::kExact ? map_.Decoded(view) : view);
  }

  // How float weights of an encoding are multiplied once packed. By default those of 8 or 11 significant bits
  // as integers of 14, which usually loses less than rounding the activations to half precision would
  // (docs/performance.md).
  FloatProducts ProductsOf(Encoding encoding) const {
    const bool is_float =
        encoding == Encoding::kF32 || encoding == Encoding::kF16 || encoding == Encoding::kBF16;
    if (!is_float) return FloatProducts::kFloat32;
    switch (pack_) {
      case PackMode::kBFloat16:
        return FloatProducts::kBFloat16;
      case PackMode::kInt16:
        return FloatProducts::kInt16;
      case PackMode::kFloat32:
        return FloatProducts::kFloat32;
      default:
        return AutoProducts(encoding, saved_products_);
    }
  }

  // Bytes of a matrix's packed form; 0 for one that stays in place.
  size_t PackedBytes(const LinearLayer& linear) const {
    const WeightView& view = linear.file;
    if (pack_ == PackMode::kNever || pack_ == PackMode::kExact) return 0;
    if (pack_ != PackMode::kAlways && view.num_rows < kMinPackRows) return 0;
    return LinearWeights::PackedBytes(view.encoding, view.num_rows, view.num_cols, ProductsOf(view.encoding));
  }

  void Pack(const std::function<void()>& beside) {
    std::vector<PackJob> jobs = ListPacked();
    if (jobs.empty()) {
      if (!pack_cache_.empty())
        weights_.pack_notes.emplace_back("nothing of it is repacked, so there is no packed copy");
      return beside();
    }
    for (const PackJob& job : jobs) weights_.packed_bytes += BytesOf(job);
    if (pack_cache_.empty()) {
      PackAnew(std::move(jobs), beside);
    } else {
      PackOrMap(std::move(jobs), beside);
    }
  }

  void PackAnew(std::vector<PackJob> jobs, const std::function<void()>& beside) {
    weights_.packed = device_.Allocate(weights_.packed_bytes, DeviceMemoryUse::kWeights);
    Place(static_cast<uint8_t*>(weights_.packed.get()), &jobs);
    device_.Pack(
        jobs, [&](size_t job) { ReleasePages(jobs[job].view); }, beside);
    TakePacked(jobs);
  }

  void PackOrMap(std::vector<PackJob> jobs, const std::function<void()>& beside) {
    PackCache cache(pack_cache_, source_.path());
    const uint64_t key = PackKey(jobs);
    bool has_run_beside = false;
    weights_.packed_copy = cache.Find(key, weights_.packed_bytes, device_, beside, &has_run_beside);
    if (weights_.packed_copy) {
      // Only read from here on; the mapping allows nothing else.
      Place(const_cast<uint8_t*>(weights_.packed_copy->data), &jobs);
      TakePacked(jobs);
    } else {
      PackAnew(std::move(jobs), has_run_beside ? std::function<void()>() : beside);
      // A file that was written to while it was read would be packed wrong for good.
      source_.CheckUnchanged();
      cache.Write(key, {static_cast<const uint8_t*>(weights_.packed.get()), weights_.packed_bytes}, device_);
    }
    weights_.pack_notes = cache.notes();
  }

  // The matrices that are packed, without their places, in about the order in which a token reads them. Two
  // that are packed together follow each other.
  std::vector<PackJob> ListPacked() {
    std::vector<PackJob> jobs;
    packed_linears_.clear();
    const LinearLayer* listed_before = nullptr;
    ForEachLinear(weights_, [&](LinearLayer& linear) {
      if (PackedBytes(linear) == 0 || &linear == listed_before) return;
      listed_before = TogetherWith(linear);
      for (LinearLayer* one : {&linear, TogetherWith(linear)}) {
        if (one == nullptr) continue;
        jobs.push_back({.view = one->file, .products = ProductsOf(one->file.encoding)});
        jobs.back().num_together = listed_before != nullptr ? 2 : 1;
        packed_linears_.push_back(one);
      }
    });
    return jobs;
  }

  // One after the other into `memory`.
  static void Place(uint8_t* memory, std::vector<PackJob>* jobs) {
    for (size_t i = 0; i < jobs->size(); ++i) {
      PackJob& job = (*jobs)[i];
      const size_t bytes = BytesOf(job);
      job.memory = memory;
      if (job.num_together == 2) {
        PackJob& second = (*jobs)[++i];
        const auto both = PackJob::Together(job.view, second.view, memory, job.products);
        job = both[0];
        second = both[1];
        memory += bytes;
      }
      memory += bytes;
    }
  }

  static size_t BytesOf(const PackJob& job) {
    return LinearWeights::PackedBytes(job.view.encoding, job.view.num_rows, job.view.num_cols, job.products);
  }

  void TakePacked(std::span<const PackJob> jobs) {
    for (size_t i = 0; i < jobs.size(); ++i)
      packed_linears_[i]->weights = LinearWeights::AlreadyPacked(jobs[i]);
  }

  // Of all that decides the bytes of the packed form.
  uint64_t PackKey(std::span<const PackJob> jobs) const {
    Hasher hash;
    hash.Put(kPackedLayoutVersion);
    hash.Put(source_.stamp());
    for (const PackJob& job : jobs) {
      HashSamples(job.view, &hash);
      for (const size_t value :
           {job.view.num_rows, job.view.num_cols, job.num_together, static_cast<size_t>(job.products)}) {
        hash.Put<uint64_t>(value);
      }
    }
    return hash.value();
  }

  // The up matrix of a gate that is read with it; null for others.
  LinearLayer* TogetherWith(const LinearLayer& linear) const {
    const auto found = with_gate_.find(&linear);
    if (found == with_gate_.end()) return nullptr;
    const WeightView& gate = linear.file;
    const WeightView& up = found->second->file;
    const bool alike =
        gate.encoding == up.encoding && gate.num_rows == up.num_rows && gate.num_cols == up.num_cols;
    return alike ? found->second : nullptr;
  }

  // The file's pages of a matrix that has been repacked need not stay resident; they come back from the file
  // if someone reads them.
  void ReleasePages(const WeightView& view) const {
    const auto is_inside = [&](const TensorInfo& tensor) {
      return view.data >= tensor.data && view.data < tensor.data + tensor.bytes;
    };
    if (std::none_of(source_.tensors().begin(), source_.tensors().end(), is_inside)) return;
    const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    const uintptr_t first = (reinterpret_cast<uintptr_t>(view.data) + page - 1) / page * page;
    const uintptr_t last =
        (reinterpret_cast<uintptr_t>(view.data) + view.num_rows * view.row_bytes()) / page * page;
    if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

  const TensorSource& source_;
  const ModelPlan& plan_;
  TensorMap map_;
  PackMode pack_;
  std::string saved_products_;
  std::string pack_cache_;
  std::vector<LinearLayer*> packed_linears_;  // of ListPacked's jobs
  Device& device_;
  int layer_ = -1;  // -1: outside layers
  ModelWeights weights_;
  std::unordered_map<const LinearLayer*, LinearLayer*> with_gate_;  // the up matrix of each gate
};

}  // namespace

namespace {

void VisitMixer(const ModelPlan& model, const LayerPlan& plan, WeightVisitor& visitor, LayerWeights* w) {
  if (const auto* hybrid = std::get_if<HybridPlan>(&plan.mixer)) {
    auto& weights = w->mixer.emplace<HybridWeights>();
    VisitAttention(model, hybrid->attention, visitor, &weights.attention);
    VisitScan(model, hybrid->scan, visitor, &weights.scan);
  } else if (const LatentPlan* latent = plan.latent()) {
    VisitLatent(model, *latent, visitor, &w->mixer.emplace<LatentWeights>());
  } else if (const auto* attention = std::get_if<AttentionPlan>(&plan.mixer)) {
    VisitAttention(model, *attention, visitor, &w->mixer.emplace<AttentionWeights>());
  } else if (const DeltaPlan* delta = plan.delta()) {
    visitor.Delta(*delta, &w->mixer.emplace<DeltaWeights>());
  } else if (const ChannelDeltaPlan* channel_delta = plan.channel_delta()) {
    VisitChannelDelta(model, *channel_delta, visitor, &w->mixer.emplace<ChannelDeltaWeights>());
  } else if (const ShortConvPlan* short_conv = plan.short_conv()) {
    VisitShortConv(model, *short_conv, visitor, &w->mixer.emplace<ShortConvWeights>());
  } else if (const auto* scan = std::get_if<ScanPlan>(&plan.mixer)) {
    VisitScan(model, *scan, visitor, &w->mixer.emplace<ScanWeights>());
  } else if (const SelectivePlan* selective = plan.selective()) {
    VisitSelective(model, *selective, visitor, &w->mixer.emplace<SelectiveWeights>());
  } else if (const LruPlan* lru = plan.lru()) {
    VisitLru(model, *lru, visitor, &w->mixer.emplace<LruWeights>());
  } else if (const TimeMixPlan* time_mix = plan.time_mix()) {
    VisitTimeMix(model, *time_mix, visitor, &w->mixer.emplace<TimeMixWeights>());
  } else if (const SharedPlan* shared = plan.shared()) {
    VisitShared(model, *shared, visitor, &w->mixer.emplace<SharedWeights>());
  } else {
    w->mixer.emplace<std::monostate>();
  }
}

}  // namespace

void VisitLayer(const ModelPlan& model, const LayerPlan& plan, WeightVisitor& visitor, LayerWeights* w) {
  VisitNorms(model, plan, visitor, w);
  VisitMixer(model, plan, visitor, w);
  if (const auto* dense = std::get_if<DensePlan>(&plan.feed_forward)) {
    VisitDense(model, *dense, visitor, &w->feed_forward.emplace<DenseWeights>());
  } else if (const auto* experts = std::get_if<ExpertsPlan>(&plan.feed_forward)) {
    VisitExperts(model, *experts, visitor, &w->feed_forward.emplace<ExpertsWeights>());
  } else if (const auto* mixed = std::get_if<MixedPlan>(&plan.feed_forward)) {
    VisitMixed(model, *mixed, visitor, &w->feed_forward.emplace<MixedWeights>());
  } else if (const ChannelMixPlan* channel_mix = plan.channel_mix()) {
    VisitChannelMix(model, *channel_mix, visitor, &w->feed_forward.emplace<ChannelMixWeights>());
  } else {
    w->feed_forward.emplace<std::monostate>();
  }
  if (model.per_layer_dim > 0) VisitPerLayer(model, visitor, &w->per_layer);
  if (plan.has_output_scale) visitor.Vector("layer_output_scale", "weight", 1, true, &w->output_scale);
}

void HashSamples(const WeightView& view, Hasher* hash) {
  constexpr size_t kSampleBytes = 64;
  constexpr size_t kNumSamples = 8;
  const size_t bytes = view.num_rows * (view.num_rows == 0 ? 0 : view.row_bytes());
  hash->Put(static_cast<uint64_t>(view.encoding));
  hash->Put(bytes);
  if (bytes <= kSampleBytes * kNumSamples) {
    if (bytes > 0) hash->Write(view.data, bytes);
    return;
  }
  for (size_t i = 0; i < kNumSamples; ++i) {
    hash->Write(view.data + (bytes - kSampleBytes) / (kNumSamples - 1) * i, kSampleBytes);
  }
}

ModelWeights LoadWeights(const TensorSource& source, const Family& family, const ModelPlan& plan,
                         bool tied_head, const ModelOptions& options, Device& device,
                         const std::function<void()>& beside) {
  return Loader(source, family, plan, options, device).Load(tied_head, beside);
}

double ProductsPerToken(const ModelPlan& plan, const ModelWeights& weights) {
  double count = 0;
  for (size_t layer = 0; layer < plan.num_layers(); ++layer) {
    const auto size_of = [](const LinearLayer& linear) {
      return static_cast<double>(linear.weights.num_rows()) * static_cast<double>(linear.weights.num_cols());
    };
    const SharedPlan* const shared = plan.layers[layer].shared();
    if (shared != nullptr && !shared->is_source) {
      ForEachLinearOfTransformer(*weights.layers[shared->source].shared(),
                                 [&](const LinearLayer& linear) { count += size_of(linear); });
    }
    const ExpertsPlan* const experts = plan.layers[layer].experts();
    ForEachLinearOfLayer(weights.layers[layer], [&](const LinearLayer& linear, bool is_expert) {
      const double share = !is_expert ? 1.0
                                      : static_cast<double>(experts->router.num_used) /
                                            static_cast<double>(experts->router.num_experts);
      count += share * size_of(linear);
    });
  }
  return count;
}

}  // namespace mneme
