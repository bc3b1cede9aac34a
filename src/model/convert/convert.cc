#include "model/convert/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/text/units.h"
#include "formats/gguf.h"
#include "formats/quant.h"
#include "model/convert/mix.h"
#include "model/convert/tokenizer_metadata.h"
#include "model/engine.h"
#include "model/families/family.h"
#include "model/hyperparameters.h"
#include "model/suggested_sampler.h"
#include "model/tensors/tensor_map.h"
#include "model/weights.h"
#include "tokenizer/load/load_folder.h"

namespace mneme {
namespace {

// Values that are converted at once.
constexpr size_t kTileValues = size_t{1} << 22;

// The number that llama.cpp's tools show for a file mostly in this encoding; readers ignore it.
uint32_t FileTypeNumber(Encoding encoding) {
  switch (encoding) {
    case Encoding::kF16:
      return 1;
    case Encoding::kQ4_0:
      return 2;
    case Encoding::kQ4_1:
      return 3;
    case Encoding::kQ8_0:
      return 7;
    case Encoding::kQ5_0:
      return 8;
    case Encoding::kQ5_1:
      return 9;
    case Encoding::kQ2_K:
      return 10;
    case Encoding::kQ3_K:
      return 11;
    case Encoding::kQ4_K:
      return 14;
    case Encoding::kQ5_K:
      return 16;
    case Encoding::kQ6_K:
      return 18;
    case Encoding::kIQ4_NL:
      return 25;
    case Encoding::kBF16:
      return 32;
    case Encoding::kMXFP4:
      return 38;
    default:
      return 0;
  }
}

class Converter : private WeightVisitor {
 public:
  Converter(const std::string& path, const ConvertOptions& options, ThreadPool& pool, Progress& progress,
            StopToken stop)
      : options_(options), pool_(pool), progress_(progress), stop_(stop), source_(OpenTensorSource(path)) {
    if (!options.mix.empty()) {
      mix_ = FindMix(options.mix);
      if (mix_ == nullptr) Fail(ErrorKind::kInput, "'{}' is no mix of encodings", options.mix);
    } else if (!CanEncode(options.encoding)) {
      Fail(ErrorKind::kUnsupported, "weights cannot be written as {}", EncodingName(options.encoding));
    }
    for (const TensorInfo& tensor : source_->tensors()) report_.read_bytes += tensor.bytes;
  }

  ConvertReport Run(const std::string& out_path) {
    if (source_->gguf() != nullptr) {
      AddGguf();
    } else {
      AddModel();
    }
    writer_.Set("general.file_type", FileType());
    writer_.Set("general.quantization_version", uint32_t{2});
    WarnOfOthers();
    AddTokenizer();
    const auto sampler = SuggestedSampler(*source_);
    if (sampler && source_->gguf() == nullptr) WriteSuggestedSampler(*sampler, &writer_);
    writer_.Write(out_path);
    progress_.Finish(
        fmt::format("{} -> {}", FormatBytes(report_.read_bytes), FormatBytes(report_.written_bytes)));
    return std::move(report_);
  }

 private:
  uint32_t FileType() const { return mix_ != nullptr ? mix_->file_type : FileTypeNumber(options_.encoding); }

  // What the mix asks about the model: of a GGUF by its metadata and names, else by the plan.
  void DescribeGguf() {
    const GgufFile& gguf = *source_->gguf();
    mixed_.family = std::string(gguf.GetString("general.architecture").value_or(""));
    const auto number = [&](const char* key) {
      const GgufValue* value = gguf.FindValue(fmt::format("{}.{}", mixed_.family, key));
      // Per layer in some families: the first that has any stands for all.
      if (value != nullptr && value->type == GgufType::kArray) {
        const auto all = gguf.GetIntArray(value->key);
        const auto any = std::find_if(all->begin(), all->end(), [](int64_t item) { return item != 0; });
        return any == all->end() ? int64_t{0} : *any;
      }
      return value == nullptr ? int64_t{0} : gguf.GetInt(value->key).value_or(0);
    };
    mixed_.num_layers = number("block_count");
    mixed_.num_experts = number("expert_count");
    const int64_t heads = number("attention.head_count"), kv_heads = number("attention.head_count_kv");
    mixed_.heads_per_kv_head = kv_heads > 0 ? heads / kv_heads : 1;
    for (int64_t layer = 0; layer < mixed_.num_layers; ++layer) {
      for (const char* name : {"attn_v", "attn_qkv", "attn_kv_b"}) {
        if (source_->Find(fmt::format("blk.{}.{}.weight", layer, name)) == nullptr) continue;
        mixed_.with_values.push_back(layer);
        break;
      }
    }
    mixed_.has_output = source_->Find("output.weight") != nullptr;
  }

  void DescribePlan(bool has_output) {
    mixed_.family = std::string(family_->gguf_names[0]);
    mixed_.num_layers = static_cast<int64_t>(plan_.num_layers());
    mixed_.has_output = has_output;
    for (size_t layer = 0; layer < plan_.num_layers(); ++layer) {
      const LayerPlan& plan = plan_.layers[layer];
      const AttentionPlan* const attention = plan.attention();
      if (attention != nullptr && mixed_.heads_per_kv_head == 1) {
        mixed_.heads_per_kv_head = static_cast<int64_t>(attention->num_heads / attention->num_kv_heads);
      }
      if (const ExpertsPlan* experts = plan.experts()) {
        mixed_.num_experts = static_cast<int64_t>(experts->router.num_experts);
      }
      const bool has_values =
          plan.latent() != nullptr
              ? family_->gguf_joins_latent_heads
              : plan.delta() != nullptr || plan.channel_delta() != nullptr ||
                    (attention != nullptr && attention->kv_source < 0 && !attention->value_is_key);
      if (has_values) mixed_.with_values.push_back(static_cast<int64_t>(layer));
    }
  }

  // GGUF to GGUF: the names and the metadata are right already.
  void AddGguf() {
    DescribeGguf();
    writer_.Set("general.file_type", FileType());
    writer_.CopyAllMetadata(*source_->gguf());
    // What was in parts becomes one file.
    for (const char* key : {"split.no", "split.count", "split.tensors.count"}) writer_.Remove(key);
    for (const TensorInfo& tensor : source_->tensors()) {
      MatrixRows rows{
          tensor.name, tensor.encoding, 1, static_cast<size_t>(tensor.num_values()), {{tensor.data, 1}}, {}};
      const bool is_matrix =
          tensor.shape.size() >= 2 && CanDecode(tensor.encoding) && IsMultiplied(tensor.name);
      if (is_matrix) {
        rows.num_cols = static_cast<size_t>(tensor.shape.back());
        rows.num_rows = rows.num_cols == 0 ? 0 : static_cast<size_t>(tensor.num_values()) / rows.num_cols;
        rows.runs[0].num_rows = rows.num_rows;
      }
      const size_t num_matrices = tensor.shape.size() == 3 ? static_cast<size_t>(tensor.shape[0]) : 1;
      const Encoding encoding = is_matrix ? Choose(tensor.name, rows.num_cols, num_matrices)
                                : CanDecode(tensor.encoding) ? Encoding::kF32
                                                             : tensor.encoding;
      AddRows(tensor.name, std::move(rows), encoding, {tensor.shape.rbegin(), tensor.shape.rend()});
    }
  }

  // Whether rows are multiplied with a tensor of two dimensions.
  static bool IsMultiplied(std::string_view name) {
    if (!name.ends_with(".weight") || name == "position_embd.weight") return false;
    constexpr std::string_view kOthers[] = {"norm", "ssm_conv1d", "shortconv.conv."};
    return std::none_of(std::begin(kOthers), std::end(kOthers),
                        [&](std::string_view other) { return name.find(other) != std::string_view::npos; });
  }

  // Any other container: by canonical names.
  void AddModel() {
    Hyperparameters hyper = ReadHyperparameters(*source_);
    family_ = &FindFamily(hyper);
    if (!hyper.vocab_size) hyper.vocab_size = TensorMap::EmbeddingRows(*source_, *family_);
    plan_ = MakePlan(*family_, InputOf(hyper, *source_, *family_));
    map_ = std::make_unique<TensorMap>(*source_, *family_, plan_);
    const Hyperparameters out = HyperparametersForGguf(*family_, hyper, plan_);
    WriteHyperparameters(out, family_->gguf_names[0], &writer_);
    const size_t dim = plan_.model_dim;
    const auto head = map_->Find("output", -1, plan_.vocab_size, dim, false);
    const bool has_head = head && !hyper.tied_head.value_or(false);
    // The embedding is another matrix than the head where these have scales of their own in them.
    const bool folds = family_->gguf_folds_scales;
    const bool has_output = has_head || (folds && plan_.logit_scale != plan_.embedding_scale);
    DescribePlan(has_output);
    const auto embedding = map_->Find("token_embd", -1, plan_.vocab_size, dim, true);
    AddMatrix("token_embd.weight", Scaled(*embedding, folds ? plan_.embedding_scale : 1.0f));
    if (plan_.position == PositionKind::kLearned) {
      const auto positions = map_->Find(
          "position_embd", -1, static_cast<size_t>(plan_.trained_length) + plan_.position_offset, dim, true);
      AddRows("position_embd.weight", *positions, Encoding::kF32, {dim, positions->num_rows});
    }
    if (plan_.per_layer_dim > 0) AddPerLayer();
    for (const LayerPlan& layer : plan_.layers) {
      ++layer_;
      LayerWeights unused;
      VisitLayer(plan_, layer, *this, &unused);
    }
    layer_ = -1;
    for (size_t i = 0; i < xielu_.size() && !xielu_[i].empty(); ++i) {
      writer_.SetArray(TensorMap::kXieluNames[i], xielu_[i]);
    }
    if (plan_.norms_have_weights) Norm("output_norm", {&dim, 1}, true, nullptr);
    if (plan_.has_embedding_norm) Norm("token_embd_norm", {&dim, 1}, true, nullptr);
    if (has_output) {
      AddMatrix("output.weight", Scaled(has_head ? *head : *embedding, folds ? plan_.logit_scale : 1.0f));
    }
    AddVector("output.bias", map_->FindVector("output", "bias", -1, plan_.vocab_size, false));
    AddVector("rope_freqs.weight", out.frequency_divisors);
    AddVector("rope_factors_short.weight", out.short_divisors);
    AddVector("rope_factors_long.weight", out.long_divisors);
    map_->CheckAllUsed();
  }

  static MatrixRows Scaled(MatrixRows rows, float factor) {
    if (factor != 1.0f) rows.factors.assign(rows.num_rows, factor);
    return rows;
  }

  void AddPerLayer() {
    const size_t all = plan_.num_layers() * plan_.per_layer_dim;
    AddMatrix("per_layer_token_embd.weight",
              map_->Find("per_layer_token_embd", -1, plan_.vocab_size, all, true));
    Matrix("per_layer_model_proj", all, plan_.model_dim, nullptr);
    Norm("per_layer_proj_norm", {&plan_.per_layer_dim, 1}, true, nullptr);
  }

  std::string Name(std::string_view canonical, std::string_view suffix) const {
    return NameInGguf(*family_, canonical, suffix, layer_);
  }

  void Norm(std::string_view name, std::span<const size_t> counts, bool is_required, NormWeights*) override {
    for (const char* suffix : {"weight", "bias"}) {
      const bool must = is_required && suffix == std::string_view("weight");
      std::vector<float> values = map_->FindNorm(name, suffix, layer_, must, counts);
      std::vector<uint64_t> shape;
      if (counts.size() == 2 && values.size() == counts[1] && counts[1] > counts[0]) {
        shape = {counts[0], counts[1] / counts[0]};
      }
      AddVector(Name(name, suffix), std::move(values), std::move(shape));
    }
  }

  void Matrix(std::string_view name, size_t num_rows, size_t num_cols, LinearLayer*) override {
    AddMatrix(Name(name, "weight"), map_->Find(name, layer_, num_rows, num_cols, true));
    AddVector(Name(name, "bias"), map_->FindVector(name, "bias", layer_, num_rows, false));
  }

  void Vector(std::string_view name, std::string_view suffix, size_t count, bool is_required,
              std::vector<float>*) override {
    AddVector(Name(name, suffix), map_->FindVector(name, suffix, layer_, count, is_required));
  }

  void Parts(std::string_view name, std::span<const size_t> num_rows, size_t num_cols,
             std::span<LinearLayer* const>) override {
    Matrix(name, std::accumulate(num_rows.begin(), num_rows.end(), size_t{0}), num_cols, nullptr);
  }

  void Adapter(std::string_view name, size_t source, size_t number, std::span<const size_t> num_rows,
               size_t num_cols, std::span<LinearLayer* const>) override {
    const size_t total = std::accumulate(num_rows.begin(), num_rows.end(), size_t{0});
    AddMatrix(Name(name, "weight"),
              map_->FindAdapter(name, layer_, source, number, total, num_cols, 0, total));
  }

  void Convolution(std::string_view name, const RecurShape& shape, std::vector<float>*,
                   std::vector<float>*) override {
    const size_t channels = shape.num_channels(), width = shape.conv_width;
    // Those of q, k and v apart have three dimensions.
    const bool is_part = name.starts_with("ssm_conv1d_");
    AddVector(Name(name, "weight"), map_->FindVector(name, "weight", layer_, channels * width, true),
              is_part ? std::vector<uint64_t>{width, 1, channels} : std::vector<uint64_t>{width, channels});
    AddVector(Name(name, "bias"), map_->FindVector(name, "bias", layer_, channels, false));
  }

  void PerHead(std::string_view name, size_t num_heads, size_t depth, bool is_rate,
               std::vector<float>*) override {
    AddVector(Name(name, ""), map_->FindPerHead(name, layer_, num_heads * depth, is_rate),
              {depth, num_heads});
  }

  void Qkv(const AttentionPlan& plan, LinearLayer*, LinearLayer*, LinearLayer*, LinearLayer*) override {
    constexpr const char* kQkv[3] = {"attn_q", "attn_k", "attn_v"};
    std::vector<MatrixRows> qkv;
    std::vector<float> biases;
    const int num_parts = plan.kv_source >= 0 ? 1 : plan.value_is_key ? 2 : 3;
    for (int part = 0; part < num_parts; ++part) {
      if (part == 0 && plan.has_output_gate) {
        // Queries and gates stay together, head by head.
        const size_t num_rows = 2 * plan.num_heads * plan.key_dim;
        AddMatrix(Name("attn_q", "weight"), map_->Find("attn_q", layer_, num_rows, plan_.model_dim, true));
        AddVector(Name("attn_q", "bias"), map_->FindVector("attn_q", "bias", layer_, num_rows, false));
        continue;
      }
      MatrixRows rows = *map_->FindQkv(plan, part, layer_);
      std::vector<float> bias = map_->FindQkvBias(plan, part, layer_);
      if (part < 2 && plan_.position == PositionKind::kRope &&
          source_->container() == Container::kSafetensors && family_->gguf_interleaved_rope &&
          !family_->folder_interleaved_rope) {
        Interleave(plan.key_dim, plan_.ropes[plan.rope].rotary_dim, &rows, &bias);
      }
      if (family_->gguf_fused_qkv) {
        biases.insert(biases.end(), bias.begin(), bias.end());
      } else {
        AddMatrix(Name(kQkv[part], "weight"), rows);
        AddVector(Name(kQkv[part], "bias"), std::move(bias));
      }
      qkv.push_back(std::move(rows));
    }
    if (family_->gguf_fused_qkv) AddFused("attn_qkv", std::move(qkv), std::move(biases));
  }

  void LatentHeads(const LatentPlan& plan, LatentWeights*) override {
    const size_t num_heads = plan.attention.num_heads, rank = plan.rank();
    if (family_->gguf_joins_latent_heads) {
      Matrix("attn_kv_b", num_heads * (plan.plain_dim + plan.head_value_dim), rank, nullptr);
      return;
    }
    LatentRows rows = map_->FindLatent(plan, layer_);
    const auto add = [&](const char* name, std::vector<MatrixRows> heads) {
      MatrixRows all = std::move(heads[0]);
      const size_t num_rows = all.num_rows, num_cols = all.num_cols;
      for (size_t head = 1; head < num_heads; ++head) {
        all.num_rows += num_rows;
        all.runs.insert(all.runs.end(), heads[head].runs.begin(), heads[head].runs.end());
      }
      const std::string full = Name(name, "weight");
      AddRows(full, std::move(all), Choose(full, num_cols, num_heads), {num_cols, num_rows, num_heads});
    };
    add("attn_k_b", std::move(rows.keys));
    add("attn_v_b", std::move(rows.values));
  }

  void Delta(const DeltaPlan& plan, DeltaWeights*) override {
    const RecurShape& shape = plan.shape;
    DeltaRows rows = map_->FindDelta(plan, layer_);
    const size_t keys = 2 * shape.key_channels(), width = shape.conv_width;
    if (family_->gguf_tiled_value_heads && source_->gguf() == nullptr) {
      rows.qkv = Tiled(shape, rows.qkv, keys, shape.value_dim);
      rows.gate = Tiled(shape, rows.gate, 0, shape.value_dim);
      rows.alpha = Tiled(shape, rows.alpha, 0, 1);
      rows.beta = Tiled(shape, rows.beta, 0, 1);
      rows.out = TiledColumns(shape, rows.out);
      rows.convolution = Tiled(shape, rows.convolution, keys * width, shape.value_dim * width);
      rows.step_bias = Tiled(shape, rows.step_bias, 0, 1);
      rows.rate = Tiled(shape, rows.rate, 0, 1);
    }
    AddMatrix(Name("attn_qkv", "weight"), rows.qkv);
    AddMatrix(Name("attn_gate", "weight"), rows.gate);
    if (family_->gguf_tiled_value_heads) {
      AddMatrix(Name("ssm_alpha", "weight"), rows.alpha);
      AddMatrix(Name("ssm_beta", "weight"), rows.beta);
    } else {
      AddMatrix(Name("ssm_ba", "weight"), InTurns(shape, rows.beta, rows.alpha));
    }
    AddMatrix(Name("ssm_out", "weight"), rows.out);
    AddVector(Name("ssm_conv1d", "weight"), std::move(rows.convolution), {width, shape.num_channels()});
    AddVector(Name("ssm_dt", "bias"), std::move(rows.step_bias));
    AddVector(Name("ssm_a", ""), std::move(rows.rate));
    AddVector(Name("ssm_norm", "weight"), std::move(rows.norm));
  }

  // Where value head `head` of a tiled order stands in the order by key heads.
  static size_t HeadInFolder(const RecurShape& shape, size_t head) {
    const size_t group = shape.num_value_heads / shape.num_key_heads;
    return head % shape.num_key_heads * group + head / shape.num_key_heads;
  }

  // The rows, or values, from `first` on are `size` of each value head.
  static MatrixRows Tiled(const RecurShape& shape, const MatrixRows& rows, size_t first, size_t size) {
    const size_t row_bytes = EncodedBytes(rows.encoding, rows.num_cols);
    std::vector<const uint8_t*> at;
    for (const RowRun& run : rows.runs) {
      for (size_t i = 0; i < run.num_rows; ++i) at.push_back(run.data + i * row_bytes);
    }
    MatrixRows tiled = rows;
    tiled.runs.clear();
    for (size_t i = 0; i < first; ++i) tiled.runs.push_back({at[i], 1});
    for (size_t head = 0; head < shape.num_value_heads; ++head) {
      for (size_t i = 0; i < size; ++i) {
        tiled.runs.push_back({at[first + HeadInFolder(shape, head) * size + i], 1});
      }
    }
    return tiled;
  }
  static std::vector<float> Tiled(const RecurShape& shape, const std::vector<float>& values, size_t first,
                                  size_t size) {
    std::vector<float> tiled(values.begin(), values.begin() + static_cast<ptrdiff_t>(first));
    for (size_t head = 0; head < shape.num_value_heads; ++head) {
      const auto from = values.begin() + static_cast<ptrdiff_t>(first + HeadInFolder(shape, head) * size);
      tiled.insert(tiled.end(), from, from + static_cast<ptrdiff_t>(size));
    }
    return tiled;
  }
  MatrixRows TiledColumns(const RecurShape& shape, const MatrixRows& rows) {
    const size_t head_bytes = EncodedBytes(rows.encoding, rows.num_cols) / shape.num_value_heads;
    auto bytes = std::make_unique<std::vector<uint8_t>>();
    for (const RowRun& run : rows.runs) {
      for (size_t row = 0; row < run.num_rows; ++row) {
        const uint8_t* const from = run.data + row * head_bytes * shape.num_value_heads;
        for (size_t head = 0; head < shape.num_value_heads; ++head) {
          const uint8_t* const at = from + HeadInFolder(shape, head) * head_bytes;
          bytes->insert(bytes->end(), at, at + head_bytes);
        }
      }
    }
    MatrixRows tiled = rows;
    tiled.runs = {{bytes->data(), rows.num_rows}};
    columns_.push_back(std::move(bytes));
    return tiled;
  }
  // For each key head the rows of its value heads in a, then those in b.
  static MatrixRows InTurns(const RecurShape& shape, const MatrixRows& a, const MatrixRows& b) {
    const size_t row_bytes = EncodedBytes(a.encoding, a.num_cols);
    const auto rows_of = [&](const MatrixRows& rows) {
      std::vector<const uint8_t*> at;
      for (const RowRun& run : rows.runs) {
        for (size_t i = 0; i < run.num_rows; ++i) at.push_back(run.data + i * row_bytes);
      }
      return at;
    };
    const std::vector<const uint8_t*> from[2] = {rows_of(a), rows_of(b)};
    const size_t group = shape.num_value_heads / shape.num_key_heads;
    MatrixRows turns = a;
    turns.num_rows = 2 * a.num_rows;
    turns.runs.clear();
    for (size_t head = 0; head < shape.num_key_heads; ++head) {
      for (const auto& rows : from) {
        for (size_t i = 0; i < group; ++i) turns.runs.push_back({rows[head * group + i], 1});
      }
    }
    return turns;
  }

  void GateUp(size_t dim, LinearLayer*, LinearLayer*) override {
    std::vector<MatrixRows> parts = {*map_->FindGateUp(dim, 0, layer_), *map_->FindGateUp(dim, 1, layer_)};
    std::vector<float> biases[2] = {map_->FindGateUpBias(dim, 0, layer_),
                                    map_->FindGateUpBias(dim, 1, layer_)};
    if (family_->gguf_fused_gate_up) {
      biases[0].insert(biases[0].end(), biases[1].begin(), biases[1].end());
      AddFused("ffn_up", std::move(parts), std::move(biases[0]));
      return;
    }
    AddMatrix(Name("ffn_gate", "weight"), parts[0]);
    AddVector(Name("ffn_gate", "bias"), std::move(biases[0]));
    AddMatrix(Name("ffn_up", "weight"), parts[1]);
    AddVector(Name("ffn_up", "bias"), std::move(biases[1]));
  }

  // Matrices of one shape, each an expert or a head, as one tensor, and their biases.
  void AddAll(std::string_view name, size_t count, size_t num_rows, size_t num_cols, bool has_biases) {
    MatrixRows all;
    for (size_t i = 0; i < count; ++i) {
      MatrixRows one = map_->FindExpert(name, layer_, i, count, num_rows, num_cols);
      if (i == 0) {
        all = std::move(one);
        continue;
      }
      if (one.encoding != all.encoding) {
        Fail(ErrorKind::kUnsupported, "{}: '{}' and '{}' are stored differently and cannot be joined",
             source_->path(), all.name, one.name);
      }
      all.num_rows += one.num_rows;
      all.runs.insert(all.runs.end(), one.runs.begin(), one.runs.end());
    }
    const std::string full = Name(name, "weight");
    AddRows(full, std::move(all), Choose(full, num_cols, count), {num_cols, num_rows, count});
    if (!has_biases) return;
    std::vector<float> biases;
    for (size_t i = 0; i < count; ++i) {
      const std::vector<float> one = map_->FindExpertBias(name, layer_, i, count, num_rows);
      biases.insert(biases.end(), one.begin(), one.end());
    }
    AddVector(Name(name, "bias"), std::move(biases), {num_rows, count});
  }

  void Heads(std::string_view name, size_t head_dim, std::span<LinearLayer> heads) override {
    AddAll(name, heads.size(), head_dim, head_dim, /*has_biases=*/true);
  }

  void XieluOf(Xielu*) override {
    const std::array<float, 4> numbers = map_->FindXielu(layer_);
    for (size_t i = 0; i < numbers.size(); ++i) xielu_[i].push_back(numbers[i]);
  }

  void Experts(const ExpertsPlan& plan, std::span<DenseWeights> experts) override {
    const auto add = [&](std::string_view name, size_t num_rows, size_t num_cols) {
      AddAll(name, experts.size(), num_rows, num_cols, plan.has_biases);
    };
    if (plan.is_gated) add("ffn_gate_exps", plan.dim, plan_.model_dim);
    add("ffn_up_exps", plan.dim, plan_.model_dim);
    add("ffn_down_exps", plan_.model_dim, plan.dim);
  }

  // Rows of a head from halves (i, i + half) to pairs (2i, 2i + 1).
  static void Interleave(size_t head_dim, size_t rotary_dim, MatrixRows* rows, std::vector<float>* bias) {
    const size_t row_bytes = EncodedBytes(rows->encoding, rows->num_cols);
    std::vector<const uint8_t*> at;
    for (const RowRun& run : rows->runs) {
      for (size_t i = 0; i < run.num_rows; ++i) at.push_back(run.data + i * row_bytes);
    }
    std::vector<RowRun> runs;
    std::vector<float> new_bias;
    for (size_t row = 0; row < at.size(); ++row) {
      const size_t offset = row % head_dim;
      const size_t from = offset < rotary_dim ? offset / 2 + offset % 2 * (rotary_dim / 2) : offset;
      const size_t index = row - offset + from;
      runs.push_back({at[index], 1});
      if (!bias->empty()) new_bias.push_back((*bias)[index]);
    }
    rows->runs = std::move(runs);
    *bias = std::move(new_bias);
  }

  void AddFused(std::string_view name, std::vector<MatrixRows> parts, std::vector<float> bias) {
    MatrixRows all = std::move(parts[0]);
    for (size_t i = 1; i < parts.size(); ++i) {
      if (parts[i].encoding != all.encoding) {
        Fail(ErrorKind::kUnsupported, "{}: '{}' and '{}' are stored differently and cannot be joined",
             source_->path(), all.name, parts[i].name);
      }
      all.num_rows += parts[i].num_rows;
      all.runs.insert(all.runs.end(), parts[i].runs.begin(), parts[i].runs.end());
    }
    AddMatrix(Name(name, "weight"), std::move(all));
    AddVector(Name(name, "bias"), std::move(bias));
  }

  void AddVector(const std::string& name, std::vector<float> values, std::vector<uint64_t> shape = {}) {
    if (values.empty()) return;
    vectors_.push_back(std::make_unique<std::vector<float>>(std::move(values)));
    const std::vector<float>& kept = *vectors_.back();
    if (shape.empty()) shape = {kept.size()};
    Count(kept.size() * sizeof(float));
    writer_.AddTensor(name, Encoding::kF32, std::move(shape), kept.data());
  }

  void AddMatrix(const std::string& name, std::optional<MatrixRows> rows) {
    const Encoding encoding = Choose(name, rows->num_cols, 1);
    std::vector<uint64_t> shape = {rows->num_cols, rows->num_rows};
    if (rows->num_rows == 1) shape.pop_back();  // a vector, as readers expect it
    AddRows(name, std::move(*rows), encoding, std::move(shape));
  }

  Encoding Choose(const std::string& name, size_t num_cols, size_t num_matrices) {
    // A router chooses: rounding it changes which experts are asked. It is small.
    if (name.find("ffn_gate_inp") != std::string::npos) return Encoding::kF32;
    const Encoding asked = mix_ != nullptr ? mix_->base : options_.encoding;
    const Encoding encoding = mix_ != nullptr ? EncodingInMix(*mix_, mixed_, name, num_cols, num_matrices)
                                              : EncodingForColumns(asked, num_cols);
    ++num_matrices_;
    if (num_cols % EncodingBlockValues(asked) != 0 && encoding != asked) {
      ++others_[{num_cols, EncodingName(encoding)}];
    }
    return encoding;
  }

  // One line for all matrices whose columns do not fill blocks.
  void WarnOfOthers() {
    if (others_.empty()) return;
    size_t count = 0;
    std::string kinds;
    for (const auto& [kind, number] : others_) {
      count += number;
      kinds += fmt::format("{}{} with {} columns as {}", kinds.empty() ? "" : ", ", number, kind.first,
                           kind.second);
    }
    const Encoding asked = mix_ != nullptr ? mix_->base : options_.encoding;
    report_.warnings.push_back(fmt::format(
        "{} of {} matrices have columns that do not fill {}'s blocks of {} and are stored otherwise: {}",
        count, num_matrices_, EncodingName(asked), EncodingBlockValues(asked), kinds));
  }

  void AddRows(const std::string& name, MatrixRows rows, Encoding encoding, std::vector<uint64_t> shape) {
    total_bytes_ += static_cast<int64_t>(rows.num_rows * EncodedBytes(rows.encoding, rows.num_cols));
    Count(rows.num_rows * EncodedBytes(encoding, rows.num_cols));
    writer_.AddTensor(
        name, encoding, std::move(shape),
        [this, rows = std::move(rows), encoding](const GgufSink& sink) { Produce(rows, encoding, sink); });
  }

  void Count(size_t bytes) {
    ++report_.num_tensors;
    report_.written_bytes += bytes;
  }

  void Produce(const MatrixRows& rows, Encoding encoding, const GgufSink& sink) {
    const size_t row_bytes = EncodedBytes(rows.encoding, rows.num_cols);
    std::vector<TileRow> tile;
    const size_t tile_rows = std::max<size_t>(1, kTileValues / std::max<size_t>(1, rows.num_cols));
    size_t number = 0;
    for (const RowRun& run : rows.runs) {
      if (encoding == rows.encoding && rows.factors.empty()) {
        sink(run.data, run.num_rows * row_bytes);
        Advance(run.num_rows * row_bytes);
        continue;
      }
      for (size_t row = 0; row < run.num_rows; ++row, ++number) {
        tile.push_back({run.data + row * row_bytes, rows.factors.empty() ? 1.0f : rows.factors[number]});
        if (tile.size() == tile_rows) Encode(rows, encoding, &tile, sink);
      }
    }
    Encode(rows, encoding, &tile, sink);
  }

  struct TileRow {
    const uint8_t* data;
    float factor;
  };

  void Encode(const MatrixRows& rows, Encoding encoding, std::vector<TileRow>* tile, const GgufSink& sink) {
    if (tile->empty()) return;
    const size_t out_bytes = EncodedBytes(encoding, rows.num_cols);
    encoded_.resize(tile->size() * out_bytes);
    // Errors cannot leave a task, so each row keeps its own until all are done.
    std::vector<std::exception_ptr> errors(tile->size());
    pool_.Run(tile->size(), [&](size_t row, size_t) {
      try {
        std::vector<float> values(rows.num_cols);
        DecodeBlocks(rows.encoding, (*tile)[row].data, values.size(), values.data());
        for (float& value : values) value *= (*tile)[row].factor;
        EncodeBlocks(encoding, values.data(), values.size(), encoded_.data() + row * out_bytes);
      } catch (...) {
        errors[row] = std::current_exception();
      }
    });
    for (const std::exception_ptr& error : errors) {
      if (error == nullptr) continue;
      try {
        std::rethrow_exception(error);
      } catch (const Error& e) {
        throw Error(e.kind(), fmt::format("{}: tensor '{}': {}", source_->path(), rows.name, e.what()));
      }
    }
    sink(encoded_.data(), encoded_.size());
    Advance(tile->size() * EncodedBytes(rows.encoding, rows.num_cols));
    tile->clear();
  }

  void Advance(size_t bytes) {
    if (stop_.stop_requested()) Fail(ErrorKind::kInterrupted, "interrupted; nothing was written");
    done_bytes_ += static_cast<int64_t>(bytes);
    progress_.Update(done_bytes_, total_bytes_, "");
  }

  // Rows of the embedding; 0 if there is none to be found.
  size_t NumTokens() const {
    if (source_->gguf() == nullptr) return plan_.vocab_size;
    for (const TensorInfo& tensor : source_->tensors())
      if (tensor.name == "token_embd.weight" && tensor.shape.size() == 2)
        return static_cast<size_t>(tensor.shape.front());
    return 0;
  }

  void AddTokenizer() {
    if (source_->gguf() != nullptr && options_.tokenizer.empty()) return;
    std::string from = options_.tokenizer;
    if (from.empty() && source_->safetensors() != nullptr) from = source_->path();
    const bool is_folder = !from.empty() && IsDirectory(from);
    std::string json;
    if (is_folder) json = FolderTokenizerJson(from);
    if (!is_folder && from.ends_with(".json")) json = ReadWholeFile(from, kMaxTokenizerBytes);
    if (from.empty() || (is_folder && json.empty() && !FileExists(from + "/tokenizer.model"))) {
      report_.warnings.push_back("the model comes without a tokenizer, and so does the result");
      return;
    }
    const Tokenizer tokenizer = is_folder ? LoadTokenizerFolder(from) : LoadTokenizerFile(from);
    const size_t num_tokens = NumTokens();
    if (num_tokens > 0) CheckTokenizerFits(tokenizer, num_tokens, from);
    const auto problem = WriteTokenizerMetadata(tokenizer, json, num_tokens, &writer_);
    if (problem) report_.warnings.push_back(fmt::format("the tokenizer was left out: {}", *problem));
  }

  const ConvertOptions& options_;
  ThreadPool& pool_;
  Progress& progress_;
  const StopToken stop_;
  std::unique_ptr<TensorSource> source_;
  const Family* family_ = nullptr;
  ModelPlan plan_;
  const Mix* mix_ = nullptr;
  MixModel mixed_;
  size_t num_matrices_ = 0;
  // Matrices in another encoding than asked for because of their columns: how many, by columns and encoding.
  std::map<std::pair<size_t, std::string_view>, size_t> others_;
  int layer_ = -1;  // -1: outside layers
  std::unique_ptr<TensorMap> map_;
  std::array<std::vector<float>, 4> xielu_;                     // of the layers, in the order of FindXielu
  std::vector<std::unique_ptr<std::vector<uint8_t>>> columns_;  // matrices whose columns were reordered
  GgufWriter writer_;
  ConvertReport report_;
  std::vector<std::unique_ptr<std::vector<float>>> vectors_;  // that the writer points into
  std::vector<uint8_t> encoded_;
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = 0;
};

}  // namespace

Encoding EncodingForColumns(Encoding encoding, size_t num_cols) {
  if (num_cols % EncodingBlockValues(encoding) == 0) return encoding;
  return num_cols % EncodingBlockValues(Encoding::kQ8_0) == 0 ? Encoding::kQ8_0 : Encoding::kF16;
}

ConvertReport ConvertModel(const std::string& path, const std::string& out_path,
                           const ConvertOptions& options, ThreadPool& pool, Progress& progress,
                           StopToken stop) {
  return Converter(path, options, pool, progress, stop).Run(out_path);
}

bool CanWrite(Encoding encoding) { return CanEncode(encoding); }

ConvertReport ConvertModel(const Engine& engine, const std::string& path, const std::string& out_path,
                           const ConvertOptions& options, Progress& progress, StopToken stop) {
  return ConvertModel(path, out_path, options, engine.impl().device.pool(), progress, stop);
}

}  // namespace mneme
