// Families with latent attention, beyond what their goldens show: settings that their models have in other
// ways, older files, what conversion writes for other readers, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/files/serial.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/testing.h"
#include "formats/gguf.h"
#include "formats/quant.h"
#include "formats/tensor_source.h"
#include "model/convert/convert.h"
#include "model/test_util.h"
#include "reference/model.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests
namespace fs = std::filesystem;

class LatentFamilies : public ::testing::Test {
 protected:
  void SetUp() override {
    MNEME_REQUIRE_DATA(data);
    root_ = data + "/goldens/";
    if (!FileExists(root_ + "index.json")) GTEST_SKIP() << "no goldens in " << root_;
    tokens_ = ReadIds(root_ + "tokens.txt");
  }

  nlohmann::json ConfigOf(const std::string& name) const {
    return nlohmann::json::parse(ReadWholeFile(root_ + name + "/config.json"));
  }
  // The golden's weights under other settings.
  std::string Folder(const std::string& name, const nlohmann::json& config) {
    const std::string path = folder_ / ("hf" + std::to_string(++num_files_));
    fs::create_directories(path);
    fs::create_symlink(fs::absolute(root_ + name + "/model.safetensors"), path + "/model.safetensors");
    std::ofstream(path + "/config.json") << config.dump();
    return path;
  }
  std::string Convert(const std::string& path, Encoding encoding = Encoding::kF32) {
    const std::string out = folder_ / ("model" + std::to_string(++num_files_) + ".gguf");
    CpuDevice device(1);
    NoProgress progress;
    ConvertModel(path, out, {.encoding = encoding, .mix = {}, .tokenizer = {}}, device.pool(), progress);
    return out;
  }
  std::vector<float> Logits(const std::string& path) const { return EngineLogits(*LoadModel(path), tokens_); }
  std::vector<float> Golden(const std::string& name) const { return Logits(root_ + name); }

  // The model, its twin in double precision, and the GGUF that is made of it agree.
  std::vector<float> CheckAll(const std::string& path) {
    const auto model = LoadModel(path);
    const std::vector<float> logits = EngineLogits(*model, tokens_);
    EXPECT_LT(RelativeDifference(logits, ReferenceLogits(*model, tokens_)), 3e-5);
    EXPECT_LT(RelativeDifference(Logits(Convert(path)), logits), 3e-5);
    return logits;
  }
  // Of the rows: where weights are rounded a few tokens go to other experts, far off.
  double MedianDifference(std::span<const float> a, std::span<const float> b) const {
    const size_t size = a.size() / tokens_.size();
    std::vector<double> rows;
    for (size_t first = 0; first < a.size(); first += size) {
      rows.push_back(RelativeDifference(a.subspan(first, size), b.subspan(first, size)));
    }
    std::sort(rows.begin(), rows.end());
    return rows[rows.size() / 2];
  }
  std::string Refusal(const std::string& name, const char* key, const nlohmann::json& value) {
    nlohmann::json config = ConfigOf(name);
    config[key] = value;
    try {
      LoadModel(Folder(name, config));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  std::string root_;
  std::vector<TokenId> tokens_;
  TemporaryFolder folder_;
  int num_files_ = 0;
};

// Two sizes of what all heads share: one latent and one rotated key, kept once.
TEST_F(LatentFamilies, WhatIsKeptOfATokenIsOneLatentAndOneRotatedKey) {
  const auto model = LoadModel(root_ + "deepseek-v3");
  const LayerAttention& layer = model->context_shape().layers[0];
  EXPECT_EQ(layer.num_kv_heads, 1u);
  EXPECT_EQ(layer.key_dim, 16u + 8u);
  EXPECT_EQ(layer.value_dim, 16u);
  EXPECT_TRUE(layer.values_in_keys);
}

// As files of DeepSeek were until 2025: keys and values unfold out of one matrix, and sizes are those of a
// head.
TEST_F(LatentFamilies, OlderFilesHaveOneMatrixForKeysAndValues) {
  for (const char* name : {"deepseek-v2-lite", "deepseek-v3"}) {
    const std::string path = Convert(root_ + name);
    const auto source = OpenTensorSource(root_ + name);
    std::vector<std::vector<float>> joined;
    GgufWriter writer;
    const GgufFile file(path);
    writer.Set("deepseek2.attention.key_length", uint32_t{20});
    writer.Set("deepseek2.attention.value_length", uint32_t{12});
    writer.Set("deepseek2.attention.head_count_kv", uint32_t{4});
    writer.CopyAllMetadata(file);
    writer.Remove("deepseek2.attention.key_length_mla");
    writer.Remove("deepseek2.attention.value_length_mla");
    for (const GgufTensor& tensor : file.tensors()) {
      if (tensor.name.find("attn_v_b") != std::string::npos) continue;
      const size_t at = tensor.name.find("attn_k_b");
      if (at == std::string::npos) {
        writer.AddTensor(tensor.name, tensor.encoding, tensor.shape, tensor.data);
        continue;
      }
      const std::string layer = tensor.name.substr(4, tensor.name.find('.', 4) - 4);
      const TensorInfo* both = source->Find("model.layers." + layer + ".self_attn.kv_b_proj.weight");
      ASSERT_NE(both, nullptr);
      joined.emplace_back(both->num_values());
      DecodeBlocks(both->encoding, both->data, joined.back().size(), joined.back().data());
      writer.AddTensor("blk." + layer + ".attn_kv_b.weight", Encoding::kF32, {16, 96}, joined.back().data());
    }
    const std::string older = folder_ / "older.gguf";
    writer.Write(older);
    EXPECT_EQ(Logits(older), Logits(path)) << name;
  }
}

TEST_F(LatentFamilies, OtherEncodings) {
  for (const char* name : {"deepseek-v3", "minicpm3", "kimi-linear"}) {
    EXPECT_LT(RelativeDifference(Logits(Convert(root_ + name, Encoding::kF16)), Golden(name)), 0.02) << name;
    const auto q8_0 = LoadModel(Convert(root_ + name, Encoding::kQ8_0), PackMode::kExact);
    const std::vector<float> logits = EngineLogits(*q8_0, tokens_);
    EXPECT_LT(RelativeDifference(logits, ReferenceLogits(*q8_0, tokens_)), 3e-5) << name;
    EXPECT_LT(MedianDifference(logits, Golden(name)), 0.1) << name;
  }
}

TEST_F(LatentFamilies, ScalesOfYarn) {
  nlohmann::json config = ConfigOf("deepseek-v3");
  config["rope_parameters"]["mscale"] = 0.7;
  const std::vector<float> other = CheckAll(Folder("deepseek-v3", config));
  EXPECT_GT(RelativeDifference(other, Golden("deepseek-v3")), 1e-3);
  config["rope_parameters"].erase("mscale_all_dim");
  const std::vector<float> none = CheckAll(Folder("deepseek-v3", config));
  EXPECT_GT(RelativeDifference(none, other), 1e-3);
}

TEST_F(LatentFamilies, RoutersOfV2AndV3) {
  nlohmann::json config = ConfigOf("deepseek-v2-grouped");
  config["topk_method"] = "greedy";  // groups that are there and not looked at
  EXPECT_GT(
      RelativeDifference(CheckAll(Folder("deepseek-v2-grouped", config)), Golden("deepseek-v2-grouped")),
      1e-3);
  config = ConfigOf("deepseek-v3");
  config["scoring_func"] = "softmax";
  EXPECT_GT(RelativeDifference(CheckAll(Folder("deepseek-v3", config)), Golden("deepseek-v3")), 1e-3);
}

// Mistral Large 3 is a GGUF of DeepSeek's kind whose queries grow; Youtu-LLM is one without experts.
TEST_F(LatentFamilies, OthersOfTheKind) {
  nlohmann::json config = ConfigOf("deepseek-v3");
  config["rope_parameters"]["llama_4_scaling_beta"] = 0.4;
  config["rope_parameters"]["original_max_position_embeddings"] = 16;
  const std::string growing = Folder("deepseek-v3", config);
  const std::vector<float> grown = CheckAll(growing);
  EXPECT_EQ(GgufFile(Convert(growing)).GetUint("deepseek2.attention.temperature_length"), 16u);
  config["rope_parameters"].erase("llama_4_scaling_beta");
  EXPECT_GT(RelativeDifference(grown, Logits(Folder("deepseek-v3", config))), 1e-3);
  config = ConfigOf("minicpm3");  // the same tensors
  config["model_type"] = "youtu";
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e4}};
  for (const char* key : {"scale_emb", "scale_depth", "dim_model_base"}) config.erase(key);
  const std::vector<float> youtu = CheckAll(Folder("minicpm3", config));
  EXPECT_GT(RelativeDifference(youtu, Golden("minicpm3")), 1e-3);
}

TEST_F(LatentFamilies, ScalesThatAreNullOrLeftOut) {
  nlohmann::json config = ConfigOf("minicpm3");
  config["scale_depth"] = nullptr;
  config["dim_model_base"] = nullptr;
  const auto off = LoadModel(Folder("minicpm3", config));
  EXPECT_EQ(off->plan().residual_scale, 1.0f);
  EXPECT_EQ(off->plan().logit_scale, 1.0f);
  config.erase("scale_depth");
  config.erase("dim_model_base");
  config.erase("scale_emb");
  const auto usual = LoadModel(Folder("minicpm3", config));
  EXPECT_FLOAT_EQ(usual->plan().residual_scale, 1.4f / std::sqrt(2.0f));
  EXPECT_FLOAT_EQ(usual->plan().logit_scale, 256.0f / 32);
  EXPECT_EQ(usual->plan().embedding_scale, 12.0f);
}

// Settings of Kimi Linear as its makers publish them, the states in an object of their own.
TEST_F(LatentFamilies, SizesOfStatesInAnObject) {
  nlohmann::json config = ConfigOf("kimi-linear");
  config["linear_attn_config"] = {{"head_dim", 8},
                                  {"num_heads", 4},
                                  {"short_conv_kernel_size", 4},
                                  {"full_attn_layers", {3}},
                                  {"kda_layers", {1, 2}}};
  for (const char* key : {"linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim", "layer_types"})
    config.erase(key);
  EXPECT_EQ(Logits(Folder("kimi-linear", config)), Golden("kimi-linear"));
}

// Layers that predict further tokens are not in a GGUF that is made of a folder, and not counted there.
TEST_F(LatentFamilies, SkippedLayersAreNotWritten) {
  nlohmann::json config = ConfigOf("deepseek-v3");
  config["num_nextn_predict_layers"] = 1;
  EXPECT_EQ(Logits(Convert(Folder("deepseek-v3", config))), Logits(Convert(root_ + "deepseek-v3")));
}

TEST_F(LatentFamilies, WhatOtherReadersLookFor) {
  const GgufFile v3(Convert(root_ + "deepseek-v3"));
  EXPECT_EQ(v3.GetUint("deepseek2.attention.head_count_kv"), 1u);
  EXPECT_EQ(v3.GetUint("deepseek2.attention.key_length"), 24u);
  EXPECT_EQ(v3.GetUint("deepseek2.attention.key_length_mla"), 20u);
  EXPECT_EQ(v3.GetUint("deepseek2.attention.value_length_mla"), 12u);
  EXPECT_EQ(v3.GetUint("deepseek2.attention.q_lora_rank"), 24u);
  EXPECT_EQ(v3.GetUint("deepseek2.rope.dimension_count"), 8u);
  EXPECT_EQ(v3.GetUint("deepseek2.leading_dense_block_count"), 1u);
  EXPECT_EQ(v3.GetUint("deepseek2.expert_gating_func"), 2u);
  EXPECT_NEAR(*v3.GetFloat("deepseek2.rope.scaling.yarn_log_multiplier"), 0.1, 1e-7);
  EXPECT_FALSE(v3.GetFloat("deepseek2.rope.scaling.attn_factor"));
  EXPECT_FALSE(v3.GetFloat("deepseek2.attention.scale"));
  for (const GgufTensor& tensor : v3.tensors()) {
    if (tensor.name == "blk.0.attn_k_b.weight") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{12, 16, 4}));
    }
    if (tensor.name == "blk.0.attn_v_b.weight") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{16, 12, 4}));
    }
  }
  const GgufFile minicpm3(Convert(root_ + "minicpm3"));
  EXPECT_EQ(minicpm3.GetUint("minicpm3.attention.head_count_kv"), 4u);
  EXPECT_EQ(minicpm3.GetUint("minicpm3.attention.key_length"), 20u);
  const GgufFile kimi(Convert(root_ + "kimi-linear"));
  EXPECT_EQ(*kimi.GetIntArray("kimi-linear.attention.head_count_kv"), (std::vector<int64_t>{0, 0, 1}));
  EXPECT_EQ(kimi.GetUint("kimi-linear.kda.head_dim"), 8u);
  EXPECT_EQ(kimi.GetUint("kimi-linear.ssm.conv_kernel"), 4u);
  for (const GgufTensor& tensor : kimi.tensors()) {
    if (tensor.name == "blk.0.ssm_conv1d_q.weight") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{4, 1, 32}));
    }
    if (tensor.name == "blk.0.ssm_a") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{1, 4}));
    }
  }
}

TEST_F(LatentFamilies, WhatIsNotKnownIsRefused) {
  EXPECT_NE(Refusal("deepseek-v3", "rope_interleave", false).find("rope_interleave"), std::string::npos);
  EXPECT_NE(Refusal("deepseek-v3", "scoring_func", "tanh").find("tanh"), std::string::npos);
  EXPECT_NE(Refusal("deepseek-v3", "n_group", 4).find("groups"), std::string::npos);
  EXPECT_NE(Refusal("deepseek-v3", "topk_group", 1).find("groups"), std::string::npos);
  EXPECT_NE(Refusal("deepseek-v3", "kv_lora_rank", 0).find("kv_lora_rank"), std::string::npos);
  EXPECT_NE(Refusal("deepseek-v3", "qk_nope_head_dim", 14).find("q_b_proj"), std::string::npos);
  EXPECT_NE(Refusal("mistral4", "n_group", 2).find("groups"), std::string::npos);
  EXPECT_NE(Refusal("minicpm3", "scale_depth", -1).find("scale_depth"), std::string::npos);
  EXPECT_NE(Refusal("kimi-linear", "moe_router_activation_func", "softmax").find("softmax"),
            std::string::npos);
}

// A small random model of the kind, without experts, whose matrix of keys and values lies in blocks: it is
// decoded to be turned.
class DenseLatent {
 public:
  static constexpr uint64_t kDim = 32, kRank = 32, kRotated = 32, kPlain = 24, kValue = 16, kHeads = 2;

  explicit DenseLatent(bool is_joined) {
    const auto set = [&](const char* key, uint32_t value) {
      writer_.Set(std::string("deepseek2.") + key, value);
    };
    writer_.Set("general.architecture", std::string("deepseek2"));
    writer_.Set("deepseek2.attention.layer_norm_rms_epsilon", 1e-6f);
    for (const auto& [key, value] : {std::pair<const char*, uint64_t>{"block_count", 1},
                                     {"embedding_length", kDim},
                                     {"context_length", 128},
                                     {"vocab_size", kVocab},
                                     {"attention.head_count", kHeads},
                                     {"attention.head_count_kv", 1},
                                     {"feed_forward_length", 32},
                                     {"attention.kv_lora_rank", kRank},
                                     {"attention.key_length_mla", kPlain + kRotated},
                                     {"attention.value_length_mla", kValue},
                                     {"rope.dimension_count", kRotated}}) {
      set(key, static_cast<uint32_t>(value));
    }
    Add("token_embd.weight", {kDim, kVocab});
    Add("output_norm.weight", {kDim});
    Add("blk.0.attn_norm.weight", {kDim});
    Add("blk.0.attn_q.weight", {kDim, kHeads * (kPlain + kRotated)});
    Add("blk.0.attn_kv_a_mqa.weight", {kDim, kRank + kRotated});
    Add("blk.0.attn_kv_a_norm.weight", {kRank});
    Add("blk.0.attn_output.weight", {kHeads * kValue, kDim});
    Add("blk.0.ffn_norm.weight", {kDim});
    for (const char* name : {"gate", "up", "down"})
      Add(std::string("blk.0.ffn_") + name + ".weight", {32, 32});
    AddHeads(is_joined);
  }
  void Write(const std::string& path) { writer_.Write(path); }

 private:
  static constexpr uint64_t kVocab = 50;

  const std::vector<float>& Random(uint64_t count) {
    kept_.push_back(std::make_unique<std::vector<float>>(count));
    for (float& value : *kept_.back()) value = static_cast<float>(0.3 * random_.Normal());
    return *kept_.back();
  }
  void Add(const std::string& name, const std::vector<uint64_t>& shape) {
    uint64_t count = 1;
    for (const uint64_t size : shape) count *= size;
    writer_.AddTensor(name, Encoding::kF32, shape, Random(count).data());
  }
  void AddHeads(bool is_joined) {
    constexpr uint64_t kRows = kHeads * (kPlain + kValue);
    std::vector<float> values = Random(kRows * kRank);
    bytes_.resize(EncodedBytes(Encoding::kQ8_0, values.size()));
    EncodeBlocks(Encoding::kQ8_0, values.data(), values.size(), bytes_.data());
    if (is_joined) {
      writer_.AddTensor("blk.0.attn_kv_b.weight", Encoding::kQ8_0, {kRank, kRows}, bytes_.data());
      return;
    }
    DecodeBlocks(Encoding::kQ8_0, bytes_.data(), values.size(), values.data());
    std::vector<float>& keys = keys_;
    for (uint64_t head = 0; head < kHeads; ++head) {
      const float* const first = values.data() + head * (kPlain + kValue) * kRank;
      for (uint64_t r = 0; r < kRank; ++r) {
        for (uint64_t i = 0; i < kPlain; ++i) keys.push_back(first[i * kRank + r]);
      }
      values_.insert(values_.end(), first + kPlain * kRank, first + (kPlain + kValue) * kRank);
    }
    writer_.AddTensor("blk.0.attn_k_b.weight", Encoding::kF32, {kPlain, kRank, kHeads}, keys.data());
    writer_.AddTensor("blk.0.attn_v_b.weight", Encoding::kF32, {kRank, kValue, kHeads}, values_.data());
  }

  mneme::Random random_{5};
  GgufWriter writer_;
  std::vector<std::unique_ptr<std::vector<float>>> kept_;
  std::vector<uint8_t> bytes_;
  std::vector<float> keys_, values_;
};

TEST(LatentFile, AMatrixInBlocksIsDecodedToBeTurned) {
  TemporaryFolder folder;
  DenseLatent(true).Write(folder / "joined.gguf");
  DenseLatent(false).Write(folder / "apart.gguf");
  const std::vector<TokenId> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 35};
  const auto joined = LoadModel(folder / "joined.gguf", PackMode::kExact);
  const std::vector<float> logits = EngineLogits(*joined, tokens);
  EXPECT_EQ(logits, EngineLogits(*LoadModel(folder / "apart.gguf", PackMode::kExact), tokens));
  EXPECT_LT(RelativeDifference(logits, ReferenceLogits(*joined, tokens)), 3e-5);
}

TEST(LatentFile, ASinkInEverySoftmaxIsRefused) {
  TemporaryFolder folder;
  DenseLatent(false).Write(folder / "model.gguf");
  const Change add_sink = [](GgufWriter& writer) { writer.Set("mneme.attention.softmax_off_by_one", true); };
  try {
    LoadModel(Rewrite(folder / "model.gguf", folder / "sink.gguf", add_sink, kKeepAll));
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("softmax_off_by_one"), std::string::npos) << error.what();
  }
}

// A stream: what it reads, in chunks, and the logits that come of it.
class Stream {
 public:
  Stream(const LoadedModel& model, const std::string& spec, Encoding keys, Encoding values)
      : runner_(model, 512, device_, budget_) {
    ContextSettings settings;
    settings.spec = spec;
    settings.key_encoding = keys;
    settings.value_encoding = values;
    context_ = MakeContext(model.context_shape(), settings, budget_, 2);
  }

  std::vector<float> Read(std::span<const TokenId> tokens, size_t chunk) {
    std::vector<float> all;
    for (size_t first = 0; first < tokens.size(); first += chunk) {
      const ForwardChunk part{.context = context_.get(),
                              .tokens = tokens.subspan(first, std::min(chunk, tokens.size() - first)),
                              .all_logits = true};
      runner_.Forward({&part, 1}, [&](size_t, size_t, std::span<const float> logits) {
        all.insert(all.end(), logits.begin(), logits.end());
      });
    }
    return all;
  }
  Context& context() { return *context_; }

 private:
  CpuDevice device_{2};
  Budget budget_{size_t{1} << 28};
  std::unique_ptr<Context> context_;
  Runner runner_;
};

class LatentStreams : public ::testing::Test {
 protected:
  LatentStreams() {
    DenseLatent(false).Write(folder_ / "model.gguf");
    model_ = LoadModel(folder_ / "model.gguf");
    for (TokenId i = 0; i < 300; ++i) tokens_.push_back(i * i % 50);
  }
  std::vector<float> Logits(const std::string& spec, Encoding keys, Encoding values, size_t chunk) const {
    return Stream(*model_, spec, keys, values).Read(tokens_, chunk);
  }

  TemporaryFolder folder_;
  std::shared_ptr<const LoadedModel> model_;
  std::vector<TokenId> tokens_;
};

constexpr const char* kSpecs[] = {"dense", "window:window=40", "sinks:sinks=4,window=40",
                                  "lambda:starts=4,window=40,top_k=3,from_layer=0"};

TEST_F(LatentStreams, EveryEncodingInAnyChunks) {
  const std::vector<float> exact = Logits("dense", Encoding::kF32, Encoding::kF32, 512);
  for (const Encoding keys :
       {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0}) {
    for (const Encoding values : {keys, Encoding::kF16}) {  // in the keys, and apart
      SCOPED_TRACE(std::string(EncodingName(keys)) + " " + std::string(EncodingName(values)));
      const std::vector<float> whole = Logits("dense", keys, values, 512);
      EXPECT_LT(RelativeDifference(whole, exact), keys == Encoding::kQ4_0 ? 0.3 : 0.02);
      for (const size_t chunk : {1, 7}) EXPECT_EQ(Logits("dense", keys, values, chunk), whole) << chunk;
    }
  }
}

TEST_F(LatentStreams, ContextsThatForget) {
  const std::vector<float> dense = Logits("dense", Encoding::kF16, Encoding::kF16, 512);
  for (const char* spec : kSpecs) {
    SCOPED_TRACE(spec);
    const std::vector<float> whole = Logits(spec, Encoding::kF16, Encoding::kF16, 512);
    EXPECT_EQ(Logits(spec, Encoding::kF16, Encoding::kF16, 1), whole);
    if (spec == kSpecs[0]) continue;
    EXPECT_NE(whole, dense);
    // Before anything is out of sight nothing is otherwise.
    const auto short_part = static_cast<ptrdiff_t>(40 * whole.size() / tokens_.size());
    EXPECT_TRUE(std::equal(whole.begin(), whole.begin() + short_part, dense.begin()));
  }
}

// Saved and restored, or taken back: the same bits as without.
TEST_F(LatentStreams, WhatGoesOnIsTheSameBits) {
  const std::span<const TokenId> all = tokens_, first = all.first(190), last = all.subspan(190);
  for (const char* spec : kSpecs) {
    for (const Encoding keys : {Encoding::kF16, Encoding::kQ8_0}) {
      SCOPED_TRACE(std::string(spec) + " " + std::string(EncodingName(keys)));
      Stream whole(*model_, spec, keys, keys);
      whole.Read(first, 512);
      BufferWriter writer;
      whole.context().Save(writer);
      const std::vector<float> logits = whole.Read(last, 512);
      Stream restored(*model_, spec, keys, keys);
      BufferReader reader(writer.buffer());
      restored.context().Restore(reader);
      EXPECT_EQ(restored.Read(last, 512), logits);
      whole.context().Rewind(30);
      EXPECT_EQ(whole.Read(last.last(30), 512),
                std::vector<float>(logits.end() - 30 * static_cast<ptrdiff_t>(logits.size() / last.size()),
                                   logits.end()));
    }
  }
}

}  // namespace
}  // namespace mneme
