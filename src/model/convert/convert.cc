#include "model/convert/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/text/units.h"
#include "formats/gguf.h"
#include "formats/quant.h"
#include "model/convert/tokenizer_metadata.h"
#include "model/engine.h"
#include "model/families.h"
#include "model/hyperparameters.h"
#include "model/suggested_sampler.h"
#include "model/tensor_map.h"

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
    case Encoding::kBF16:
      return 32;
    default:
      return 0;
  }
}

class Converter {
 public:
  Converter(const std::string& path, const ConvertOptions& options, ThreadPool& pool, Progress& progress,
            StopToken stop)
      : options_(options), pool_(pool), progress_(progress), stop_(stop), source_(OpenTensorSource(path)) {
    if (!CanEncode(options.encoding)) {
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
    writer_.Set("general.file_type", FileTypeNumber(options_.encoding));
    writer_.Set("general.quantization_version", uint32_t{2});
    AddTokenizer();
    const auto sampler = SuggestedSampler(*source_);
    if (sampler && source_->gguf() == nullptr) WriteSuggestedSampler(*sampler, &writer_);
    writer_.Write(out_path);
    progress_.Finish(
        fmt::format("{} -> {}", FormatBytes(report_.read_bytes), FormatBytes(report_.written_bytes)));
    return std::move(report_);
  }

 private:
  // GGUF to GGUF: the names and the metadata are right already.
  void AddGguf() {
    writer_.Set("general.file_type", FileTypeNumber(options_.encoding));
    writer_.CopyAllMetadata(*source_->gguf());
    for (const TensorInfo& tensor : source_->tensors()) {
      MatrixRows rows{
          tensor.name, tensor.encoding, 1, static_cast<size_t>(tensor.num_values()), {{tensor.data, 1}}};
      const bool is_matrix = tensor.shape.size() >= 2 && CanDecode(tensor.encoding) &&
                             tensor.name.find("norm") == std::string::npos &&
                             tensor.name != "position_embd.weight";
      if (is_matrix) {
        rows.num_cols = static_cast<size_t>(tensor.shape.back());
        rows.num_rows = rows.num_cols == 0 ? 0 : static_cast<size_t>(tensor.num_values()) / rows.num_cols;
        rows.runs[0].num_rows = rows.num_rows;
      }
      const Encoding encoding = is_matrix                    ? Choose(tensor.name, rows.num_cols)
                                : CanDecode(tensor.encoding) ? Encoding::kF32
                                                             : tensor.encoding;
      AddRows(tensor.name, std::move(rows), encoding, {tensor.shape.rbegin(), tensor.shape.rend()});
    }
  }

  // Any other container: by canonical names.
  void AddModel() {
    Hyperparameters hyper = ReadHyperparameters(*source_);
    family_ = &FindFamily(hyper);
    if (!hyper.vocab_size) hyper.vocab_size = TensorMap::EmbeddingRows(*source_, *family_);
    const FamilyInput input{hyper, [&](std::string_view canonical) {
                              return TensorMap::HasWeight(*source_, *family_, canonical, 0);
                            }};
    config_ = Configure(*family_, input, false);
    map_ = std::make_unique<TensorMap>(*source_, *family_, config_);
    const Hyperparameters out = HyperparametersForGguf(*family_, hyper, config_);
    WriteHyperparameters(out, family_->gguf_names[0], &writer_);
    const size_t dim = config_.model_dim;
    AddMatrix("token_embd.weight", map_->Find("token_embd", -1, config_.vocab_size, dim, true));
    if (config_.position == PositionKind::kLearned) {
      const auto positions =
          map_->Find("position_embd", -1, static_cast<size_t>(config_.trained_length), dim, true);
      AddRows("position_embd.weight", *positions, Encoding::kF32, {dim, positions->num_rows});
    }
    for (size_t layer = 0; layer < config_.num_layers; ++layer) AddLayer(static_cast<int>(layer));
    AddNorm("output_norm", -1, "output_norm");
    const auto head = map_->Find("output", -1, config_.vocab_size, dim, false);
    if (head && !hyper.tied_head.value_or(false)) AddMatrix("output.weight", head);
    AddVector("output.bias", map_->FindVector("output", "bias", -1, config_.vocab_size, false));
    AddVector("rope_freqs.weight", out.frequency_divisors);
    AddVector("rope_factors_short.weight", out.short_divisors);
    AddVector("rope_factors_long.weight", out.long_divisors);
    map_->CheckAllUsed();
  }

  void AddLayer(int layer) {
    const auto name = [&](const char* part) { return fmt::format("blk.{}.{}", layer, part); };
    for (const char* norm : {"attn_norm", "attn_norm_2", "attn_q_norm", "attn_k_norm", "post_attention_norm",
                             "ffn_norm", "post_ffw_norm"}) {
      AddNorm(norm, layer, name(norm));
    }
    const size_t dim = config_.model_dim;
    constexpr const char* kQkv[3] = {"attn_q", "attn_k", "attn_v"};
    std::vector<MatrixRows> qkv;
    std::vector<float> biases;
    for (int part = 0; part < 3; ++part) {
      MatrixRows rows = *map_->FindQkv(part, layer);
      std::vector<float> bias = map_->FindQkvBias(part, layer);
      if (part < 2 && source_->container() == Container::kSafetensors && family_->gguf_interleaved_rope &&
          !family_->folder_interleaved_rope) {
        Interleave(&rows, &bias);
      }
      if (family_->gguf_fused_qkv) {
        biases.insert(biases.end(), bias.begin(), bias.end());
      } else {
        AddMatrix(name(kQkv[part]) + ".weight", rows);
        AddVector(name(kQkv[part]) + ".bias", std::move(bias));
      }
      qkv.push_back(std::move(rows));
    }
    if (family_->gguf_fused_qkv) AddFused(name("attn_qkv"), std::move(qkv), std::move(biases));
    AddPlain(name("attn_output"), "attn_output", layer, dim, config_.num_heads * config_.value_dim);
    const size_t ffn = config_.ffn_dim[static_cast<size_t>(layer)];
    if (config_.gated_ffn) {
      AddGateUp(layer);
    } else {
      AddPlain(name("ffn_up"), "ffn_up", layer, ffn, dim);
    }
    AddPlain(name("ffn_down"), "ffn_down", layer, dim, ffn);
  }

  void AddGateUp(int layer) {
    std::vector<MatrixRows> parts = {*map_->FindGateUp(0, layer), *map_->FindGateUp(1, layer)};
    std::vector<float> biases[2] = {map_->FindGateUpBias(0, layer), map_->FindGateUpBias(1, layer)};
    const std::string stem = fmt::format("blk.{}.", layer);
    if (family_->gguf_fused_gate_up) {
      biases[0].insert(biases[0].end(), biases[1].begin(), biases[1].end());
      AddFused(stem + "ffn_up", std::move(parts), std::move(biases[0]));
      return;
    }
    AddMatrix(stem + "ffn_gate.weight", parts[0]);
    AddVector(stem + "ffn_gate.bias", std::move(biases[0]));
    AddMatrix(stem + "ffn_up.weight", parts[1]);
    AddVector(stem + "ffn_up.bias", std::move(biases[1]));
  }

  // Rows of a head from halves (i, i + half) to pairs (2i, 2i + 1).
  void Interleave(MatrixRows* rows, std::vector<float>* bias) const {
    const size_t row_bytes = EncodedBytes(rows->encoding, rows->num_cols);
    std::vector<const uint8_t*> at;
    for (const RowRun& run : rows->runs) {
      for (size_t i = 0; i < run.num_rows; ++i) at.push_back(run.data + i * row_bytes);
    }
    const size_t rotary_dim = config_.ropes[0].rotary_dim;
    std::vector<RowRun> runs;
    std::vector<float> new_bias;
    for (size_t row = 0; row < at.size(); ++row) {
      const size_t offset = row % config_.key_dim;
      const size_t from = offset < rotary_dim ? offset / 2 + offset % 2 * (rotary_dim / 2) : offset;
      const size_t index = row - offset + from;
      runs.push_back({at[index], 1});
      if (!bias->empty()) new_bias.push_back((*bias)[index]);
    }
    rows->runs = std::move(runs);
    *bias = std::move(new_bias);
  }

  void AddFused(const std::string& stem, std::vector<MatrixRows> parts, std::vector<float> bias) {
    MatrixRows all = std::move(parts[0]);
    for (size_t i = 1; i < parts.size(); ++i) {
      if (parts[i].encoding != all.encoding) {
        Fail(ErrorKind::kUnsupported, "{}: '{}' and '{}' are stored differently and cannot be joined",
             source_->path(), all.name, parts[i].name);
      }
      all.num_rows += parts[i].num_rows;
      all.runs.insert(all.runs.end(), parts[i].runs.begin(), parts[i].runs.end());
    }
    AddMatrix(stem + ".weight", std::move(all));
    AddVector(stem + ".bias", std::move(bias));
  }

  void AddPlain(const std::string& stem, const char* canonical, int layer, size_t num_rows, size_t num_cols) {
    AddMatrix(stem + ".weight", map_->Find(canonical, layer, num_rows, num_cols, true));
    AddVector(stem + ".bias", map_->FindVector(canonical, "bias", layer, num_rows, false));
  }

  void AddNorm(const char* canonical, int layer, const std::string& stem) {
    std::vector<size_t> counts = {config_.model_dim, config_.key_dim, config_.num_heads * config_.key_dim};
    if (layer >= 0) counts.push_back(config_.num_kv_heads[static_cast<size_t>(layer)] * config_.key_dim);
    for (const char* suffix : {"weight", "bias"}) {
      std::vector<float> values = map_->FindNorm(canonical, suffix, layer, false, counts);
      const std::string name = fmt::format("{}.{}", stem, suffix);
      const bool per_head = config_.qk_norm_per_head && stem.ends_with("_norm") &&
                            (stem.ends_with("attn_q_norm") || stem.ends_with("attn_k_norm")) &&
                            values.size() > config_.key_dim;
      if (per_head) {
        const uint64_t heads = values.size() / config_.key_dim;
        AddVector(name, std::move(values), {config_.key_dim, heads});
      } else {
        AddVector(name, std::move(values));
      }
    }
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
    const Encoding encoding = Choose(name, rows->num_cols);
    const std::vector<uint64_t> shape = {rows->num_cols, rows->num_rows};
    AddRows(name, std::move(*rows), encoding, shape);
  }

  Encoding Choose(const std::string& name, size_t num_cols) {
    const Encoding encoding = EncodingForColumns(options_.encoding, num_cols);
    if (encoding != options_.encoding) {
      report_.warnings.push_back(fmt::format("{}: {} columns do not fill blocks of {}, so it is stored as {}",
                                             name, num_cols, EncodingName(options_.encoding),
                                             EncodingName(encoding)));
    }
    return encoding;
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
    std::vector<const uint8_t*> tile;
    const size_t tile_rows = std::max<size_t>(1, kTileValues / std::max<size_t>(1, rows.num_cols));
    for (const RowRun& run : rows.runs) {
      if (encoding == rows.encoding) {
        sink(run.data, run.num_rows * row_bytes);
        Advance(run.num_rows * row_bytes);
        continue;
      }
      for (size_t row = 0; row < run.num_rows; ++row) {
        tile.push_back(run.data + row * row_bytes);
        if (tile.size() == tile_rows) Encode(rows, encoding, &tile, sink);
      }
    }
    Encode(rows, encoding, &tile, sink);
  }

  void Encode(const MatrixRows& rows, Encoding encoding, std::vector<const uint8_t*>* tile,
              const GgufSink& sink) {
    if (tile->empty()) return;
    const size_t out_bytes = EncodedBytes(encoding, rows.num_cols);
    encoded_.resize(tile->size() * out_bytes);
    // Errors cannot leave a task, so each row keeps its own until all are done.
    std::vector<std::exception_ptr> errors(tile->size());
    pool_.Run(tile->size(), [&](size_t row, size_t) {
      try {
        std::vector<float> values(rows.num_cols);
        DecodeBlocks(rows.encoding, (*tile)[row], values.size(), values.data());
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
    if (source_->gguf() == nullptr) return config_.vocab_size;
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
    const std::string json = is_folder ? from + "/tokenizer.json" : from;
    const bool has_json = json.ends_with(".json") && FileExists(json);
    if (from.empty() || (is_folder && !has_json && !FileExists(from + "/tokenizer.model"))) {
      report_.warnings.push_back("the model comes without a tokenizer, and so does the result");
      return;
    }
    const Tokenizer tokenizer = is_folder ? LoadTokenizerFolder(from) : LoadTokenizerFile(from);
    const size_t num_tokens = NumTokens();
    if (num_tokens > 0) CheckTokenizerFits(tokenizer, num_tokens, from);
    const auto problem = WriteTokenizerMetadata(
        tokenizer, has_json ? ReadWholeFile(json, kMaxTokenizerBytes) : "", num_tokens, &writer_);
    if (problem) report_.warnings.push_back(fmt::format("the tokenizer was left out: {}", *problem));
  }

  const ConvertOptions& options_;
  ThreadPool& pool_;
  Progress& progress_;
  const StopToken stop_;
  std::unique_ptr<TensorSource> source_;
  const Family* family_ = nullptr;
  ModelConfig config_;
  std::unique_ptr<TensorMap> map_;
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
