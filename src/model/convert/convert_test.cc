// Conversion: from folders of every family and back, encodings, tokenizers, and what cannot be converted.
#include "model/convert/convert.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "formats/quant.h"
#include "formats/safetensors.h"
#include "kernels/cpu_device.h"
#include "kernels/pointwise/elementwise.h"
#include "model/convert/random_model.h"
#include "model/families/family.h"
#include "model/runner.h"
#include "model/test_util.h"
#include "model/weights.h"
#include "reference/model.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

// Writes a GGUF model of the conformance set as a Hugging Face folder: the inverse of what loading does, from
// the family's own description of such folders.
class FolderWriter {
 public:
  FolderWriter(const LoadedModel& model, const Family& family)
      : model_(model), family_(family), c_(model.plan()) {}

  void Write(const std::string& folder, const std::string& config_json) {
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/config.json") << config_json;
    const ModelWeights& w = model_.weights();
    AddMatrix("token_embd", -1, Decode(w.token_embedding), c_.vocab_size, c_.model_dim, false);
    if (w.position_embedding.num_rows > 0) {
      AddMatrix("position_embd", -1, Decode(w.position_embedding), w.position_embedding.num_rows,
                c_.model_dim, false);
    }
    AddNorm("output_norm", -1, w.output_norm);
    if (w.output.file.data != w.token_embedding.data) {
      AddMatrix("output", -1, Decode(w.output.file), c_.vocab_size, c_.model_dim, false);
    }
    for (size_t i = 0; i < c_.num_layers(); ++i) AddLayer(static_cast<int>(i), w.layers[i]);
    writer_.Write(folder + "/model.safetensors");
  }

 private:
  static std::vector<float> Decode(const WeightView& view) {
    std::vector<float> values(view.num_rows * view.num_cols);
    DecodeBlocks(view.encoding, view.data, values.size(), values.data());
    return values;
  }
  bool Has(std::string_view canonical) const {
    for (const TensorName& row : family_.folder_names) {
      if (row.canonical == canonical) return true;
    }
    return false;
  }
  // The last name of a weight in the table that fits (falcon's two norms are the later ones).
  std::string Name(std::string_view canonical, int layer, const std::string& suffix, int star = 0) const {
    for (const TensorName& row : family_.folder_names) {
      if (row.canonical != canonical) continue;
      if (canonical == "attn_norm" && two_norms_ &&
          row.folder.find("input_layernorm") != std::string_view::npos)
        continue;
      if (canonical == "ffn_up" && fused_gate_up_ && row.folder.find("gate_up") == std::string_view::npos)
        continue;
      std::string name(row.folder);
      if (name[0] == '/') return name.substr(1) + "." + suffix;
      if (const size_t at = name.find("{}"); at != std::string::npos)
        name.replace(at, 2, std::to_string(layer));
      if (const size_t at = name.find('*'); at != std::string::npos)
        name.replace(at, 1, std::to_string(star));
      return std::string(family_.folder_prefixes[0]) + name + "." + suffix;
    }
    ADD_FAILURE() << "no name for " << canonical;
    return "";
  }
  void Add(const std::string& name, std::vector<float> values, std::vector<uint64_t> shape) {
    kept_.push_back(std::make_unique<std::vector<float>>(std::move(values)));
    writer_.Add(name, Encoding::kF32, std::move(shape), kept_.back()->data());
  }
  void AddMatrix(std::string_view canonical, int layer, std::vector<float> values, size_t rows, size_t cols,
                 bool may_transpose = true) {
    if (may_transpose && family_.folder_transposed) {
      std::vector<float> turned(values.size());
      for (size_t r = 0; r < rows; ++r) {
        for (size_t k = 0; k < cols; ++k) turned[k * rows + r] = values[r * cols + k];
      }
      Add(Name(canonical, layer, "weight"), std::move(turned), {cols, rows});
    } else {
      Add(Name(canonical, layer, "weight"), std::move(values), {rows, cols});
    }
  }
  void AddBias(std::string_view canonical, int layer, const std::vector<float>& bias) {
    if (!bias.empty()) Add(Name(canonical, layer, "bias"), bias, {bias.size()});
  }
  void AddNorm(std::string_view canonical, int layer, NormWeights norm) {
    if (norm.empty()) return;
    if (family_.folder_norms_minus_one) {
      for (float& value : norm.weight) value -= 1.0f;
    }
    Add(Name(canonical, layer, "weight"), norm.weight, {norm.weight.size()});
    AddBias(canonical, layer, norm.bias);
  }
  // Rows of each head from pairs to halves.
  std::vector<float> Halves(const std::vector<float>& rows, size_t cols, size_t head_dim) const {
    if (!family_.gguf_interleaved_rope || rows.empty()) return rows;
    std::vector<float> out;
    for (size_t row = 0; row < rows.size() / cols; ++row) {
      const size_t offset = row % head_dim;
      const size_t half = head_dim / 2;
      const size_t from = row - offset + (offset < half ? 2 * offset : 2 * (offset - half) + 1);
      out.insert(out.end(), rows.begin() + static_cast<ptrdiff_t>(from * cols),
                 rows.begin() + static_cast<ptrdiff_t>((from + 1) * cols));
    }
    return out;
  }
  std::vector<float> Fuse(const std::vector<float> parts[3], size_t num_kv_heads) const {
    std::vector<float> out;
    const size_t groups = family_.folder_qkv == FusedQkv::kPerKvHead ? num_kv_heads : 1;
    for (size_t group = 0; group < groups; ++group) {
      for (int part = 0; part < 3; ++part) {
        const size_t count = parts[part].size() / groups;
        const auto first = parts[part].begin() + static_cast<ptrdiff_t>(group * count);
        out.insert(out.end(), first, first + static_cast<ptrdiff_t>(count));
      }
    }
    return out;
  }
  void AddLayer(int layer, const LayerWeights& w) {
    two_norms_ = c_.family == "falcon" && !w.ffn_norm.empty();
    fused_gate_up_ = c_.family == "phi3";
    AddNorm(two_norms_ ? "attn_norm_2" : "attn_norm", layer, w.attn_norm);
    AddNorm(two_norms_ ? "attn_norm" : "ffn_norm", layer, w.ffn_norm);
    AddNorm("post_attention_norm", layer, w.post_attn_norm);
    AddNorm("post_ffw_norm", layer, w.post_ffn_norm);
    const LayerPlan& plan = c_.layers[static_cast<size_t>(layer)];
    AddAttention(layer, *plan.attention(), *w.attention());
    AddDense(layer, plan.dense()->dim, *w.dense());
  }
  void AddAttention(int layer, const AttentionPlan& plan, const AttentionWeights& w) {
    const size_t dim = c_.model_dim;
    AddNorm("attn_q_norm", layer, w.q_norm);
    AddNorm("attn_k_norm", layer, w.k_norm);
    const LinearLayer* const linear[3] = {&w.q, &w.k, &w.v};
    std::vector<float> parts[3], biases[3];
    for (int i = 0; i < 3; ++i) {
      parts[i] = i < 2 ? Halves(Decode(linear[i]->file), dim, plan.key_dim) : Decode(linear[i]->file);
      biases[i] = i < 2 ? Halves(linear[i]->bias, 1, plan.key_dim) : linear[i]->bias;
    }
    const bool is_fused = c_.family == "phi3" || !Has("attn_q");
    const char* const names[3] = {"attn_q", "attn_k", "attn_v"};
    if (is_fused) {
      const auto fused = Fuse(parts, plan.num_kv_heads);
      AddMatrix("attn_qkv", layer, fused, fused.size() / dim, dim);
      AddBias("attn_qkv", layer, Fuse(biases, plan.num_kv_heads));
    } else {
      for (int i = 0; i < 3; ++i) {
        AddMatrix(names[i], layer, parts[i], parts[i].size() / dim, dim);
        AddBias(names[i], layer, biases[i]);
      }
    }
    AddMatrix("attn_output", layer, Decode(w.o.file), dim, plan.num_heads * plan.value_dim);
    AddBias("attn_output", layer, w.o.bias);
  }
  void AddDense(int layer, size_t ffn, const DenseWeights& w) {
    const size_t dim = c_.model_dim;
    if (fused_gate_up_) {
      std::vector<float> both = Decode(w.gate.file);
      const std::vector<float> up = Decode(w.up.file);
      both.insert(both.end(), up.begin(), up.end());
      AddMatrix("ffn_up", layer, both, 2 * ffn, dim);
    } else {
      if (!w.gate.empty()) AddMatrix("ffn_gate", layer, Decode(w.gate.file), ffn, dim);
      AddMatrix("ffn_up", layer, Decode(w.up.file), ffn, dim);
      AddBias("ffn_up", layer, w.up.bias);
    }
    AddMatrix("ffn_down", layer, Decode(w.down.file), dim, ffn);
    AddBias("ffn_down", layer, w.down.bias);
  }

  const LoadedModel& model_;
  const Family& family_;
  const ModelPlan& c_;
  bool two_norms_ = false;
  bool fused_gate_up_ = false;
  SafetensorsWriter writer_;
  std::vector<std::unique_ptr<std::vector<float>>> kept_;
};

struct FolderCase {
  const char* file;
  const char* family;
  std::string config;
};

// What each family's config.json looks like, with the names that its models use.
std::vector<FolderCase> FolderCases() {
  const std::string sizes =
      R"("hidden_size":64,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":128,)"
      R"("max_position_embeddings":512,"vocab_size":320,"rope_theta":10000.0,)";
  const std::string gqa = sizes + R"("num_key_value_heads":2,"rms_norm_eps":1e-05,"hidden_act":"silu")";
  const std::string tanh = R"("layer_norm_eps":1e-05,"hidden_act":"gelu_new")";
  return {
      {"llama-gqa", "llama", R"({"model_type":"llama",)" + gqa + "}"},
      {"llama-linear-rope", "llama",
       R"({"model_type":"llama","rope_scaling":{"type":"linear","factor":4.0},)" + gqa + "}"},
      {"llama-yarn", "llama",
       R"({"model_type":"llama","rope_scaling":{"rope_type":"yarn","factor":4.0,)"
       R"("original_max_position_embeddings":128},)" +
           gqa + "}"},
      {"llama-gqa", "mistral", R"({"model_type":"mistral","sliding_window":null,)" + gqa + "}"},
      {"p3-fused", "phi3", R"({"model_type":"phi3","original_max_position_embeddings":512,)" + gqa + "}"},
      {"olmo2", "olmo2", R"({"model_type":"olmo2",)" + gqa + "}"},
      {"qwen3", "qwen3", R"({"model_type":"qwen3","head_dim":32,)" + gqa + "}"},
      {"stablelm", "stablelm",
       R"({"model_type":"stablelm","partial_rotary_factor":0.25,"layer_norm_eps":1e-05,"hidden_act":"silu",)" +
           sizes + R"("num_key_value_heads":4})"},
      {"gptneox-par", "gptneox",
       R"({"model_type":"gpt_neox","rotary_pct":0.25,"rotary_emb_base":10000,"use_parallel_residual":true,)" +
           sizes + tanh + "}"},
      {"gptneox-seq", "gptneox",
       R"({"model_type":"gpt_neox","rotary_pct":1.0,"use_parallel_residual":false,)" + sizes + tanh + "}"},
      {"falcon-40b", "falcon",
       R"({"model_type":"falcon","new_decoder_architecture":true,"num_kv_heads":2,"activation":"gelu_new",)"
       R"("hidden_size":64,"num_hidden_layers":3,"num_attention_heads":4,"ffn_hidden_size":128,)"
       R"("layer_norm_epsilon":1e-05,"vocab_size":320,"alibi":false})"},
      {"falcon-7b", "falcon",
       R"({"model_type":"falcon","multi_query":true,"parallel_attn":true,"num_kv_heads":4,"activation":"gelu_new",)"
       R"("hidden_size":64,"num_hidden_layers":3,"num_attention_heads":4,"ffn_hidden_size":128,)"
       R"("layer_norm_epsilon":1e-05,"vocab_size":320,"alibi":false})"},
      {"starcoder2", "starcoder2",
       R"({"model_type":"starcoder2","norm_epsilon":1e-05,"hidden_act":"gelu_pytorch_tanh",)" + sizes +
           R"("num_key_value_heads":2,"sliding_window":null})"},
      {"gpt2", "gpt2",
       R"({"model_type":"gpt2","n_embd":64,"n_layer":3,"n_head":4,"n_inner":128,"n_positions":512,)"
       R"("vocab_size":320,"layer_norm_epsilon":1e-05,"activation_function":"gelu_new"})"},
      {"mpt-clamp-8h", "mpt",
       R"({"model_type":"mpt","d_model":64,"n_layers":3,"n_heads":8,"expansion_ratio":2,"max_seq_len":512,)"
       R"("vocab_size":320,"activation":"gelu_new","attn_config":{"alibi":true,"alibi_bias_max":8,"clip_qkv":1.5}})"},
      {"gemma2", "gemma2",
       R"({"model_type":"gemma2","hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,)"
       R"("num_key_value_heads":2,"intermediate_size":128,"max_position_embeddings":512,"vocab_size":320,)"
       R"("head_dim":16,"query_pre_attn_scalar":16,"sliding_window":16,"attn_logit_softcapping":50.0,)"
       R"("final_logit_softcapping":30.0,"rms_norm_eps":1e-05,"hidden_activation":"gelu_pytorch_tanh"})"},
      {"gemma3", "gemma3",
       R"({"model_type":"gemma3_text","hidden_size":64,"num_hidden_layers":7,"num_attention_heads":4,)"
       R"("num_key_value_heads":2,"intermediate_size":128,"max_position_embeddings":512,"vocab_size":320,)"
       R"("head_dim":32,"query_pre_attn_scalar":32,"sliding_window":16,"sliding_window_pattern":6,)"
       R"("rope_theta":1000000.0,"rope_local_base_freq":10000.0,"rms_norm_eps":1e-05})"},
  };
}

// From GGUF to a folder and back again: the same logits on the way, and the same bits at the end of a second
// round. Folders have exact GELU, GGUF files of these families the half-precision one.
TEST(Model, FoldersOfEveryFamilyAndConversionBack) {
  MNEME_REQUIRE_DATA(data);
  const auto ids = testing::ReadIds(data + "/conformance/models/tokens.txt");
  CpuDevice device(1);
  NoProgress progress;
  for (const FolderCase& item : FolderCases()) {
    SCOPED_TRACE(std::string(item.file) + " as " + item.family);
    TemporaryFolder folder;
    const auto original = LoadModel(data + "/conformance/models/" + item.file + ".gguf");
    const Family* family = nullptr;
    for (const Family* row : FamilyTable()) {
      if (row->name == item.family) family = row;
    }
    ASSERT_NE(family, nullptr);
    FolderWriter(*original, *family).Write(folder / "hf", item.config);
    const auto from_folder = LoadModel(folder / "hf");
    const auto expected = EngineLogits(*original, ids);
    const auto logits = EngineLogits(*from_folder, ids);
    EXPECT_LT(RelativeDifference(logits, expected),
              original->plan().layers[0].dense()->half_gelu ? 1e-3 : 2e-6);
    ConvertOptions options;
    options.encoding = Encoding::kF32;
    const ConvertReport report =
        ConvertModel(folder / "hf", folder / "back.gguf", options, device.pool(), progress);
    EXPECT_GT(report.num_tensors, 10u);
    const auto back = LoadModel(folder / "back.gguf");
    EXPECT_LT(RelativeDifference(EngineLogits(*back, ids), logits), 2e-6);
  }
}

TEST(Model, ConvertedEncodings) {
  MNEME_REQUIRE_DATA(data);
  TemporaryFolder folder;
  CpuDevice device(2);
  NoProgress progress;
  const auto ids = testing::ReadIds(data + "/conformance/models/tokens.txt");
  const std::string path = data + "/conformance/models/llama-256.gguf";
  const auto exact = EngineLogits(*LoadModel(path), ids);
  for (const auto& [encoding, tolerance] : std::vector<std::pair<Encoding, double>>{{Encoding::kF32, 2e-6},
                                                                                    {Encoding::kF16, 5e-3},
                                                                                    {Encoding::kBF16, 3e-2},
                                                                                    {Encoding::kQ8_0, 5e-2},
                                                                                    {Encoding::kQ6_K, 0.2},
                                                                                    {Encoding::kQ4_K, 0.6},
                                                                                    {Encoding::kQ4_0, 0.7}}) {
    ConvertOptions options;
    options.encoding = encoding;
    ConvertModel(path, folder / "out.gguf", options, device.pool(), progress);
    const auto model = LoadModel(folder / "out.gguf", PackMode::kAuto);
    const auto logits = EngineLogits(*model, ids);
    EXPECT_LE(RelativeDifference(logits, exact), tolerance) << EncodingName(encoding);
    EXPECT_EQ(model->tokenizer().vocab_size(), 320);
  }
  // Decoding a quantised file to F32 leaves the block encoding's values: the engine in float32 must then
  // agree with the twin of the quantised file.
  for (const char* name :
       {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K"}) {
    const std::string quantised = data + "/conformance/models/llama-256-" + name + ".gguf";
    ConvertOptions options;
    options.encoding = Encoding::kF32;
    ConvertModel(quantised, folder / "decoded.gguf", options, device.pool(), progress);
    const auto twin = ReferenceLogits(*LoadModel(quantised), ids);
    EXPECT_LT(RelativeDifference(EngineLogits(*LoadModel(folder / "decoded.gguf"), ids), twin), 2e-6) << name;
  }
}

// A safetensors file by hand: the writer has no bytes, which is what gpt-oss keeps its experts in.
struct RawTensor {
  std::string name, dtype;
  std::vector<uint64_t> shape;
  std::string bytes;
};
void WriteSafetensors(const std::string& path, const std::vector<RawTensor>& tensors) {
  std::string header, data;
  for (const RawTensor& tensor : tensors) {
    header += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          header.empty() ? "{" : ",", tensor.name, tensor.dtype, fmt::join(tensor.shape, ","),
                          data.size(), data.size() + tensor.bytes.size());
    data += tensor.bytes;
  }
  header += "}";
  while (header.size() % 8 != 0) header += ' ';
  const uint64_t size = header.size();
  std::ofstream(path, std::ios::binary)
      << std::string(reinterpret_cast<const char*>(&size), 8) << header << data;
}

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Gate and up of gpt-oss as blocks and scales are the same weights as floats: rows in turns, values 2i and
// 2i + 1 in byte i, and the floats the other way round.
TEST(Model, BlocksOfAFolderAreItsWeights) {
  MNEME_REQUIRE_DATA(data);
  TemporaryFolder folder;
  CpuDevice device(1);
  NoProgress progress;
  const std::string golden = data + "/goldens/gpt-oss";
  const SafetensorsFolder source(golden);
  std::vector<RawTensor> as_floats, as_blocks;
  for (const SafetensorsTensor* tensor : source.tensors()) {
    const std::string bytes(reinterpret_cast<const char*>(tensor->data), tensor->bytes);
    as_floats.push_back({tensor->name, tensor->dtype, tensor->shape, bytes});
    if (!tensor->name.ends_with("gate_up_proj")) {
      as_blocks.push_back(as_floats.back());
      continue;
    }
    const size_t count = tensor->shape[0], cols = tensor->shape[1], rows = tensor->shape[2];
    ASSERT_EQ(cols, 32u);
    std::vector<uint8_t> blocks, scales;
    std::vector<float> floats(count * cols * rows), row(cols);
    for (size_t i = 0; i < count * rows; ++i) {
      const auto at = [&](size_t col) { return (i / rows * cols + col) * rows + i % rows; };
      for (size_t col = 0; col < cols; ++col) std::memcpy(&row[col], tensor->data + 4 * at(col), 4);
      uint8_t block[17];
      EncodeBlocks(Encoding::kMXFP4, row.data(), cols, block);
      DecodeBlocks(Encoding::kMXFP4, block, cols, row.data());
      for (size_t col = 0; col < cols; ++col) floats[at(col)] = row[col];
      const auto level = [&](int k) { return k < 16 ? block[1 + k] & 15 : block[1 + k - 16] >> 4; };
      for (int k = 0; k < 32; k += 2) blocks.push_back(static_cast<uint8_t>(level(k) | level(k + 1) << 4));
      scales.push_back(block[0]);
    }
    as_floats.back().bytes = BytesOf(floats);
    as_blocks.push_back({tensor->name + "_blocks", "U8", {count, rows, 1, 16}, BytesOf(blocks)});
    as_blocks.push_back({tensor->name + "_scales", "U8", {count, rows, 1}, BytesOf(scales)});
  }
  ConvertOptions options;
  options.encoding = Encoding::kF32;
  for (const auto& [name, tensors] : {std::pair("floats", &as_floats), std::pair("blocks", &as_blocks)}) {
    std::filesystem::create_directory(folder / name);
    std::filesystem::copy_file(golden + "/config.json", (folder / name) + "/config.json");
    WriteSafetensors((folder / name) + "/model.safetensors", *tensors);
    ConvertModel(folder / name, folder / (name + std::string(".gguf")), options, device.pool(), progress);
  }
  EXPECT_EQ(ReadWholeFile(folder / "floats.gguf"), ReadWholeFile(folder / "blocks.gguf"));
  options.mix = "mxfp4_moe";
  ConvertModel(folder / "blocks", folder / "mix.gguf", options, device.pool(), progress);
  EXPECT_EQ(GgufFile(folder / "mix.gguf").FindTensor("blk.0.ffn_up_exps.weight")->encoding, Encoding::kMXFP4);
  const auto ids = testing::ReadIds(data + "/goldens/tokens.txt");
  const auto exact = EngineLogits(*LoadModel(folder / "floats.gguf"), ids);
  EXPECT_LT(RelativeDifference(EngineLogits(*LoadModel(folder / "blocks"), ids), exact), 3e-2);
}

TEST(Model, MixesGiveMoreBitsToSomeMatrices) {
  MNEME_REQUIRE_DATA(data);
  TemporaryFolder folder;
  CpuDevice device(1);
  NoProgress progress;
  const std::string path = data + "/conformance/models/llama-256.gguf";
  ConvertOptions options;
  options.mix = "q4_k_m";
  const ConvertReport report = ConvertModel(path, folder / "out.gguf", options, device.pool(), progress);
  EXPECT_TRUE(report.warnings.empty());
  const GgufFile file(folder / "out.gguf");
  EXPECT_EQ(file.GetUint("general.file_type"), 15u);
  EXPECT_EQ(file.FindTensor("blk.0.attn_q.weight")->encoding, Encoding::kQ4_K);
  EXPECT_EQ(file.FindTensor("blk.0.ffn_up.weight")->encoding, Encoding::kQ4_K);
  const bool has_output = file.FindTensor("output.weight") != nullptr;
  EXPECT_EQ(file.FindTensor(has_output ? "output.weight" : "token_embd.weight")->encoding, Encoding::kQ6_K);
  EXPECT_EQ(file.FindTensor("blk.0.attn_norm.weight")->encoding, Encoding::kF32);
  const auto ids = testing::ReadIds(data + "/conformance/models/tokens.txt");
  const auto exact = EngineLogits(*LoadModel(path), ids);
  EXPECT_LE(RelativeDifference(EngineLogits(*LoadModel(folder / "out.gguf"), ids), exact), 0.6);
  options.mix = "q4_k_x";
  EXPECT_THROW(ConvertModel(path, folder / "out.gguf", options, device.pool(), progress), Error);
}

TEST(Model, ConversionTakesTheTokenizerAlong) {
  MNEME_REQUIRE_DATA(data);
  TemporaryFolder folder;
  CpuDevice device(1);
  NoProgress progress;
  ConvertOptions options;
  const std::string text = "Once upon a time, there was a girl named Lily.\nShe said: h\xC3\xA9llo!";
  const auto original = LoadModel(data + "/models/derived/stories260K-hf");
  const ConvertReport report = ConvertModel(data + "/models/derived/stories260K-hf", folder / "out.gguf",
                                            options, device.pool(), progress);
  ASSERT_EQ(report.warnings.size(), 1u);  // for all matrices together
  EXPECT_EQ(
      report.warnings[0],
      "5 of 36 matrices have columns that do not fill q8_0's blocks of 32 and are stored otherwise: 5 with "
      "172 columns as f16");
  const auto converted = LoadModel(folder / "out.gguf");
  EXPECT_EQ(converted->tokenizer().Encode(text), original->tokenizer().Encode(text));
  EXPECT_EQ(converted->tokenizer().bos_id(), original->tokenizer().bos_id());
}

TEST(Model, AStopEndsAConversionAndLeavesNothing) {
  // Set by the first report of progress, in the middle of the work.
  class StopSoon : public NoProgress {
   public:
    void Update(int64_t, int64_t, std::string_view) override { stop = true; }
    std::atomic<bool> stop{false};
  };
  TemporaryFolder folder;
  CpuDevice device(1);
  const std::string path = WriteTiny(folder);
  const auto is_interrupted = [](const auto& work) {
    try {
      work();
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInterrupted;
    }
    return false;
  };
  StopSoon converting, writing;
  const std::string out = folder / "out/model.gguf";
  std::filesystem::create_directory(folder / "out");
  EXPECT_TRUE(
      is_interrupted([&] { ConvertModel(path, out, {}, device.pool(), converting, &converting.stop); }));
  EXPECT_TRUE(is_interrupted([&] {
    WriteRandomModel(ParseRandomShape("tiny"), Encoding::kQ8_0, 1, out, device.pool(), writing,
                     &writing.stop);
  }));
  EXPECT_TRUE(std::filesystem::is_empty(folder / "out"));
}

TEST(Model, ConversionRefusesWhatCannotBeEncoded) {
  TemporaryFolder folder;
  const std::string path = WriteTiny(folder);
  std::vector<float> bad(512 * 64, 0.5f);
  bad[1000] = std::nanf("");
  Rewrite(
      path, folder / "bad.gguf",
      [&](GgufWriter& w) {
        w.AddTensor("token_embd.weight", Encoding::kF32, {64, 512}, bad.data());
      },
      [](const GgufTensor& t) { return t.name != "token_embd.weight"; });
  CpuDevice device(1);
  NoProgress progress;
  try {
    ConvertModel(folder / "bad.gguf", folder / "out.gguf", {}, device.pool(), progress);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("token_embd.weight"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(FileExists(folder / "out.gguf"));
}

}  // namespace
}  // namespace mneme
