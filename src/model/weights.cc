#include "model/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "model/tensor_map.h"

namespace mneme {
namespace {

// Above this, repacking would cost more start-up time and memory than most people expect.
constexpr size_t kMaxAutoPackBytes = size_t{8} << 30;
constexpr size_t kMinPackRows = 16;

class Loader {
 public:
  Loader(const TensorSource& source, const Family& family, const ModelConfig& config, PackMode pack,
         Device& device)
      : source_(source), config_(config), map_(source, family, config), pack_(pack), device_(device) {
    size_t total = 0;
    for (const TensorInfo& tensor : source.tensors()) total += tensor.bytes;
    const bool has_limit = pack_ == PackMode::kAuto || pack_ == PackMode::kFloat32;
    if (has_limit && total > kMaxAutoPackBytes) pack_ = PackMode::kNever;
  }

  ModelWeights Load(bool tied_head) {
    const size_t model_dim = config_.model_dim;
    const auto embedding = map_.Find("token_embd", -1, config_.vocab_size, model_dim, true);
    weights_.token_embedding = map_.Contiguous(*embedding);
    if (config_.position == PositionKind::kLearned) {
      const size_t positions = static_cast<size_t>(config_.trained_length);
      weights_.position_embedding =
          map_.Contiguous(*map_.Find("position_embd", -1, positions, model_dim, true));
    }
    for (size_t layer = 0; layer < config_.num_layers; ++layer) LoadLayer(static_cast<int>(layer));
    const size_t counts[] = {model_dim};
    weights_.output_norm = Norm("output_norm", -1, true, counts);
    // A file may hold the head and say that it is the embedding all the same.
    const auto head = map_.Find("output", -1, config_.vocab_size, model_dim, false);
    SetMatrix(head && !tied_head ? map_.Contiguous(*head) : weights_.token_embedding, &weights_.output);
    weights_.output.bias = map_.FindVector("output", "bias", -1, config_.vocab_size, false);
    map_.CheckAllUsed();
    Pack();
    weights_.owned_bytes = map_.owned_bytes();
    weights_.owned = map_.TakeOwned();
    return std::move(weights_);
  }

 private:
  void LoadLayer(int layer) {
    const size_t index = static_cast<size_t>(layer);
    const size_t model_dim = config_.model_dim;
    const size_t counts[] = {model_dim};
    LayerWeights w;
    const bool is_pre_norm = config_.block != BlockKind::kPostNormOnly;
    if (is_pre_norm) {
      w.attn_norm = Norm("attn_norm", layer, true, counts);
      w.ffn_norm = Norm("ffn_norm", layer, config_.block == BlockKind::kSequential, counts);
      // With two norms of a parallel block under these names, the second is attention's.
      NormWeights second = Norm("attn_norm_2", layer, false, counts);
      if (!second.empty()) {
        w.ffn_norm = std::move(w.attn_norm);
        w.attn_norm = std::move(second);
      }
    }
    const bool has_post_norms = config_.post_norms || !is_pre_norm;
    if (has_post_norms) {
      w.post_attn_norm = Norm("post_attention_norm", layer, true, counts);
      w.post_ffn_norm = Norm("post_ffw_norm", layer, true, counts);
    }
    LoadHeadNorms(layer, &w);
    LinearLayer* const qkv[3] = {&w.q, &w.k, &w.v};
    for (int part = 0; part < 3; ++part) {
      SetMatrix(map_.Contiguous(*map_.FindQkv(part, layer)), qkv[part]);
      qkv[part]->bias = map_.FindQkvBias(part, layer);
    }
    w.o = Plain("attn_output", layer, model_dim, config_.num_heads * config_.value_dim);
    const size_t ffn_dim = config_.ffn_dim[index];
    if (config_.gated_ffn) {
      SetMatrix(map_.Contiguous(*map_.FindGateUp(0, layer)), &w.gate);
      w.gate.bias = map_.FindGateUpBias(0, layer);
      SetMatrix(map_.Contiguous(*map_.FindGateUp(1, layer)), &w.up);
      w.up.bias = map_.FindGateUpBias(1, layer);
    } else {
      w.up = Plain("ffn_up", layer, ffn_dim, model_dim);
    }
    w.down = Plain("ffn_down", layer, model_dim, ffn_dim);
    w.sink_logits = map_.FindVector("attn_sinks", "weight", layer, config_.num_heads, false);
    if (w.sink_logits.empty() && config_.softmax_off_by_one) w.sink_logits.assign(config_.num_heads, 0.0f);
    if (config_.memory.segment > 0) {
      w.memory_gate = map_.FindVector("infini_gate", "weight", layer, config_.num_heads, true);
      if (config_.memory.update == MemoryUpdate::kGatedDelta) {
        w.memory_write = Plain("infini_write", layer, config_.num_kv_heads[index], model_dim);
      }
    }
    weights_.layers.push_back(std::move(w));
  }

  void LoadHeadNorms(int layer, LayerWeights* w) {
    const size_t q_size = config_.num_heads * config_.key_dim;
    const size_t k_size = config_.num_kv_heads[static_cast<size_t>(layer)] * config_.key_dim;
    if (config_.qk_norm_per_head) {
      // One norm for all heads, or one for each.
      const size_t q_counts[] = {config_.key_dim, q_size};
      const size_t k_counts[] = {config_.key_dim, k_size};
      w->q_norm = Norm("attn_q_norm", layer, true, q_counts);
      w->k_norm = Norm("attn_k_norm", layer, true, k_counts);
    } else if (config_.qk_norm_whole) {
      w->q_norm = Norm("attn_q_norm", layer, true, {&q_size, 1});
      w->k_norm = Norm("attn_k_norm", layer, true, {&k_size, 1});
    }
  }

  NormWeights Norm(std::string_view name, int layer, bool is_required, std::span<const size_t> counts) {
    NormWeights norm;
    norm.weight = map_.FindNorm(name, "weight", layer, is_required, counts);
    norm.bias = map_.FindNorm(name, "bias", layer, false, counts);
    if (!norm.bias.empty() && (norm.bias.size() != norm.weight.size() || config_.norm == NormKind::kRms)) {
      Fail(ErrorKind::kUnsupported, "{}: '{}' has a bias that the family's norm does not take",
           source_.path(), name);
    }
    return norm;
  }

  LinearLayer Plain(std::string_view name, int layer, size_t num_rows, size_t num_cols) {
    LinearLayer linear;
    SetMatrix(map_.Contiguous(*map_.Find(name, layer, num_rows, num_cols, true)), &linear);
    linear.bias = map_.FindVector(name, "bias", layer, num_rows, false);
    return linear;
  }

  void SetMatrix(const WeightView& view, LinearLayer* linear) {
    linear->file = view;
    linear->weights = LinearWeights::InPlace(view);
  }

  // How float weights of an encoding are multiplied once packed. By default those of 8 or 11 significant bits
  // as integers of 14, which usually loses less than rounding the activations to half precision would
  // (docs/performance.md).
  FloatProducts ProductsOf(Encoding encoding) const {
    switch (pack_) {
      case PackMode::kBFloat16:
        return FloatProducts::kBFloat16;
      case PackMode::kInt16:
        return FloatProducts::kInt16;
      case PackMode::kFloat32:
        return FloatProducts::kFloat32;
      default:
        return encoding != Encoding::kF32 && HasFastInt16Products() ? FloatProducts::kInt16
                                                                    : FloatProducts::kFloat32;
    }
  }

  // Bytes of a matrix's packed form; 0 for one that stays in place.
  size_t PackedBytes(const LinearLayer& linear) const {
    const WeightView& view = linear.file;
    if (pack_ == PackMode::kNever || (pack_ != PackMode::kAlways && view.num_rows < kMinPackRows)) return 0;
    return LinearWeights::PackedBytes(view.encoding, view.num_rows, view.num_cols, ProductsOf(view.encoding));
  }

  void Pack() {
    size_t total = 0;
    ForEachLinear(weights_, [&](const LinearLayer& linear) { total += PackedBytes(linear); });
    if (total == 0) return;
    weights_.packed = device_.Allocate(total, DeviceMemoryUse::kWeights);
    weights_.packed_bytes = total;
    auto* at = static_cast<uint8_t*>(weights_.packed.get());
    const LinearLayer* packed_before = nullptr;
    ForEachLinear(weights_, [&](LinearLayer& linear) {
      const size_t bytes = PackedBytes(linear);
      if (bytes == 0 || &linear == packed_before) return;
      const FloatProducts products = ProductsOf(linear.file.encoding);
      if (LinearLayer* other = TogetherWith(linear)) {
        std::tie(linear.weights, other->weights) =
            device_.PackTogether(linear.file, other->file, at, products);
        ReleasePages(other->file);
        packed_before = other;
        at += bytes;
      } else {
        linear.weights = device_.Pack(linear.file, at, products);
      }
      at += bytes;
      ReleasePages(linear.file);
    });
  }

  // The up matrix of a gate that is read with it; null for others.
  LinearLayer* TogetherWith(const LinearLayer& linear) {
    for (LayerWeights& layer : weights_.layers) {
      if (&linear != &layer.gate) continue;
      const WeightView& gate = layer.gate.file;
      const WeightView& up = layer.up.file;
      const bool alike =
          gate.encoding == up.encoding && gate.num_rows == up.num_rows && gate.num_cols == up.num_cols;
      return alike ? &layer.up : nullptr;
    }
    return nullptr;
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
  const ModelConfig& config_;
  TensorMap map_;
  PackMode pack_;
  Device& device_;
  ModelWeights weights_;
};

}  // namespace

ModelWeights LoadWeights(const TensorSource& source, const Family& family, const ModelConfig& config,
                         bool tied_head, PackMode pack, Device& device) {
  return Loader(source, family, config, pack, device).Load(tied_head);
}

}  // namespace mneme
