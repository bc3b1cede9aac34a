// Families whose layers are all attention, beyond what their goldens show: settings and weights that their
// models have in other ways, what conversion writes for other readers, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "base/testing.h"
#include "formats/gguf.h"
#include "formats/quant.h"
#include "formats/tensor_source.h"
#include "model/families/golden_test_util.h"
#include "model/test_util.h"
#include "reference/model.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

struct FileTensor {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::string bytes;
};

FileTensor F32Tensor(std::string name, std::vector<uint64_t> shape, const std::vector<float>& values) {
  return {std::move(name),
          "F32",
          std::move(shape),
          {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}};
}

void WriteSafetensors(const std::string& path, const std::vector<FileTensor>& tensors) {
  nlohmann::json header;
  std::string data;
  for (const FileTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  std::ofstream(path, std::ios::binary)
      << std::string_view(reinterpret_cast<const char*>(&length), sizeof(length)) << text << data;
}

struct Matrix {
  std::string name;
  std::vector<uint64_t> shape;
  std::vector<float> values;
  size_t cols() const { return shape.back(); }
  // Rows first .. last.
  std::vector<float> Rows(size_t first, size_t last) const {
    return {values.begin() + static_cast<ptrdiff_t>(first * cols()),
            values.begin() + static_cast<ptrdiff_t>(last * cols())};
  }
  std::vector<float> Columns(size_t first, size_t last) const {
    std::vector<float> part;
    for (size_t i = 0; i < values.size(); ++i) {
      if (i % cols() >= first && i % cols() < last) part.push_back(values[i]);
    }
    return part;
  }
};

class AttentionFamilies : public GoldenModels {
 protected:
  // A golden whose weights `change` gives in others' place; false: it stays as it is.
  using ChangeTensor = std::function<bool(const Matrix&, std::vector<FileTensor>*)>;
  std::string Changed(const std::string& name, const nlohmann::json& config, const ChangeTensor& change) {
    const auto source = OpenTensorSource(root_ + name);
    std::vector<FileTensor> tensors;
    for (const TensorInfo& tensor : source->tensors()) {
      Matrix matrix{tensor.name, tensor.shape, std::vector<float>(tensor.num_values())};
      DecodeBlocks(tensor.encoding, tensor.data, matrix.values.size(), matrix.values.data());
      if (!change(matrix, &tensors)) tensors.push_back(F32Tensor(matrix.name, matrix.shape, matrix.values));
    }
    const std::string path = NewFolder(config.dump());
    WriteSafetensors(path + "/model.safetensors", tensors);
    return path;
  }
};

// Transformers 5.24 takes Phi-3.5-MoE's short factors at every length, but with the long magnitude; the
// model's authors and other engines take the long ones.
TEST_F(AttentionFamilies, LongRopeOfPhimoeHasAMagnitudeOfItsOwn) {
  nlohmann::json config = ConfigOf("phimoe");
  config["rope_parameters"]["long_factor"] = config["rope_parameters"]["short_factor"];
  const std::vector<TokenId> tokens = ReadIds(root_ + "tokens-long.txt");
  const auto model = LoadModel(Folder("phimoe", config.dump()));
  CpuDevice device(1);
  const Budget budget(size_t{1} << 28);
  ContextSettings settings;
  settings.spec = "dense";
  settings.key_encoding = settings.value_encoding = Encoding::kF32;
  const auto context =
      MakeContext(*model->ShapeFor(static_cast<int64_t>(tokens.size())), settings, budget, 1);
  Runner runner(*model, static_cast<int64_t>(tokens.size()), device, budget);
  std::vector<float> logits;
  const ForwardChunk chunk{.context = context.get(), .tokens = tokens, .all_logits = true};
  runner.Forward({&chunk, 1}, [&](size_t, size_t row, std::span<const float> values) {
    if (row >= tokens.size() / 2) logits.insert(logits.end(), values.begin(), values.end());
  });
  EXPECT_LT(RelativeDifference(logits, ReadFloats(root_ + "phimoe/logits-long.f32")), 3e-5);
}

// A dense network cut in two: one half every expert, the other the shared one.
TEST_F(AttentionFamilies, HunyuanWithExpertsIsTheDenseOne) {
  constexpr size_t kExperts = 4, kHalf = 16;
  nlohmann::json config = ConfigOf("hunyuan-dense");
  config["model_type"] = "hunyuan_v1_moe";
  config["architectures"] = {"HunYuanMoEV1ForCausalLM"};
  config["intermediate_size"] = kHalf;
  config["moe_intermediate_size"] = {kHalf, kHalf};
  config["moe_topk"] = {2, 2};
  config["num_experts"] = kExperts;
  config["num_shared_expert"] = {1, 1};
  Random random(3);
  const std::string path =
      Changed("hunyuan-dense", config, [&](const Matrix& matrix, std::vector<FileTensor>* out) {
        const size_t at = matrix.name.find("mlp.");
        if (at == std::string::npos) return false;
        const std::string before = matrix.name.substr(0, at + 4), after = matrix.name.substr(at + 4);
        const bool is_down = after.starts_with("down");
        const std::vector<uint64_t> shape =
            is_down ? std::vector<uint64_t>{32, kHalf} : std::vector<uint64_t>{kHalf, 32};
        const auto half = [&](size_t i) {
          return is_down ? matrix.Columns(i * kHalf, (i + 1) * kHalf)
                         : matrix.Rows(i * kHalf, (i + 1) * kHalf);
        };
        for (size_t e = 0; e < kExperts; ++e) {
          out->push_back(F32Tensor(before + "experts." + std::to_string(e) + "." + after, shape, half(0)));
        }
        out->push_back(F32Tensor(before + "shared_mlp." + after, shape, half(1)));
        if (!is_down) return true;
        std::vector<float> router;
        for (size_t i = 0; i < kExperts * 32; ++i) router.push_back(static_cast<float>(random.Uniform()));
        out->push_back(F32Tensor(before + "gate.wg.weight", {kExperts, 32}, router));
        return true;
      });
  EXPECT_LT(RelativeDifference(CheckAll(path), Logits(root_ + "hunyuan-dense")), 3e-5);
}

// A gate of each value that is the same within a head.
TEST_F(AttentionFamilies, LagunaGatesHeadsOrValues) {
  const std::string path =
      Changed("laguna", ConfigOf("laguna"), [&](const Matrix& matrix, std::vector<FileTensor>* out) {
        if (matrix.name.find("g_proj") == std::string::npos) return false;
        std::vector<float> rows;
        for (size_t row = 0; row < 4 * 8; ++row) {
          const std::vector<float> of_head = matrix.Rows(row / 8, row / 8 + 1);
          rows.insert(rows.end(), of_head.begin(), of_head.end());
        }
        out->push_back(F32Tensor(matrix.name, {4 * 8, matrix.cols()}, rows));
        return true;
      });
  EXPECT_LT(RelativeDifference(CheckAll(path), Logits(root_ + "laguna")), 3e-5);
}

TEST_F(AttentionFamilies, LagunaHasHeadsOfEachLayer) {
  nlohmann::json config = ConfigOf("laguna");
  config["num_attention_heads_per_layer"] = {4, 2, 4};
  const std::string path = Changed("laguna", config, [&](const Matrix& m, std::vector<FileTensor>* out) {
    const size_t at = m.name.find("layers.1.self_attn.");
    if (at == std::string::npos) return false;
    const std::string what = m.name.substr(at + 19);
    if (what == "q_proj.weight") {
      out->push_back(F32Tensor(m.name, {16, 32}, m.Rows(0, 16)));
    } else if (what == "g_proj.weight") {
      out->push_back(F32Tensor(m.name, {2, 32}, m.Rows(0, 2)));
    } else if (what == "o_proj.weight") {
      out->push_back(F32Tensor(m.name, {32, 16}, m.Columns(0, 16)));
    } else {
      return false;
    }
    return true;
  });
  CheckAll(path);
  EXPECT_EQ(*GgufFile(Convert(path)).GetIntArray("laguna.attention.head_count"),
            (std::vector<int64_t>{4, 2, 4}));
}

// Weights of -1, 0 and 1, four in a byte, whose scale multiplies or divides them.
TEST_F(AttentionFamilies, BitnetsPackedWeights) {
  const auto value_of = [](float weight) { return weight > 0.3f ? 1 : weight < -0.3f ? -1 : 0; };
  const auto is_packed = [](const Matrix& m) { return m.name.find("_proj") != std::string::npos; };
  for (const float scale : {0.5f, 3.0f}) {  // the inverse of 3 is no half
    for (const bool divides : {false, true}) {
      nlohmann::json config = ConfigOf("bitnet");
      config["quantization_config"] = {{"quant_method", "bitnet"},
                                       {"linear_class", divides ? "bitlinear" : "autobitlinear"},
                                       {"quantization_mode", "offline"}};
      const std::string packed = Changed("bitnet", config, [&](const Matrix& m, auto* out) {
        if (!is_packed(m)) return false;
        const size_t rows = m.shape[0], quarter = rows / 4;
        std::string bytes(quarter * m.cols(), '\0');
        for (size_t i = 0; i < m.values.size(); ++i) {
          const size_t row = i / m.cols(), part = row / quarter;
          bytes[row % quarter * m.cols() + i % m.cols()] |=
              static_cast<char>((value_of(m.values[i]) + 1) << (2 * part));
        }
        out->push_back({m.name, "U8", {quarter, m.cols()}, bytes});
        out->push_back(F32Tensor(m.name + "_scale", {1}, {scale}));
        return true;
      });
      const std::string plain = Changed("bitnet", ConfigOf("bitnet"), [&](const Matrix& m, auto* out) {
        if (!is_packed(m)) return false;
        std::vector<float> values;
        for (const float v : m.values) {
          values.push_back(static_cast<float>(value_of(v)) * (divides ? 1 / scale : scale));
        }
        out->push_back(F32Tensor(m.name, m.shape, values));
        return true;
      });
      const auto model = LoadModel(packed);
      const std::vector<double> exact = ReferenceLogits(*LoadModel(plain), tokens_);
      const std::vector<double> twin = ReferenceLogits(*model, tokens_);
      EXPECT_LT(RelativeDifference(std::vector<float>(twin.begin(), twin.end()), exact), 1e-6)
          << scale << " " << divides;
      EXPECT_LT(RelativeDifference(EngineLogits(*LoadModel(packed, PackMode::kExact), tokens_), exact), 1e-4)
          << scale << " " << divides;
      EXPECT_LT(RelativeDifference(Logits(Convert(packed)), exact), 1e-4) << scale << " " << divides;
    }
  }
}

// Files of Gemma 4 E2B have matrices for keys that no layer reads.
TEST_F(AttentionFamilies, KeysOfLayersThatShareOthersArePassedOver) {
  const std::string path =
      Changed("gemma4-e2b", ConfigOf("gemma4-e2b"), [&](const Matrix& matrix, std::vector<FileTensor>* out) {
        const size_t at = matrix.name.find("self_attn.q_proj");
        if (at == std::string::npos) return false;
        const std::string before = matrix.name.substr(0, at) + "self_attn.";
        for (const char* name : {"k_proj", "v_proj", "k_norm", "v_norm"}) {
          if (OpenTensorSource(root_ + "gemma4-e2b")->Find(before + name + ".weight") != nullptr) continue;
          if (name != std::string_view("v_norm"))
            out->push_back(F32Tensor(before + name + ".weight", {1}, {0}));
        }
        return false;
      });
  EXPECT_EQ(Logits(path), Logits(root_ + "gemma4-e2b"));
}

// Numbers under the names that other readers look for.
TEST_F(AttentionFamilies, WhatOtherReadersLookFor) {
  const GgufFile hunyuan(Convert(root_ + "hunyuan-dense"));
  EXPECT_NEAR(*hunyuan.GetFloat("hunyuan-dense.rope.freq_base"), 1e4 * std::pow(1000, 8.0 / 6), 100);
  EXPECT_EQ(hunyuan.GetString("hunyuan-dense.rope.scaling.type"), "none");
  const GgufFile apertus(Convert(root_ + "apertus"));
  const size_t num_layers = *apertus.GetUint("apertus.block_count");
  for (const char* name : {"alpha_n", "alpha_p", "beta", "eps"}) {
    EXPECT_EQ(apertus.GetFloatArray(std::string("xielu.") + name)->size(), num_layers) << name;
  }
  for (const char* name : {"qwen3_5", "qwen3_5-moe"}) {
    const GgufFile qwen(Convert(root_ + name));
    const std::string key = std::string(*qwen.GetString("general.architecture")) + ".rope.dimension_sections";
    ASSERT_TRUE(qwen.GetIntArray(key)) << name;
    EXPECT_EQ(qwen.GetIntArray(key)->size(), 4u) << name;
  }
  const GgufFile minimax(Convert(root_ + "minimax-m2"));
  EXPECT_EQ(minimax.GetUint("minimax-m2.expert_feed_forward_length"), 12u);
  EXPECT_EQ(minimax.GetUint("minimax-m2.expert_gating_func"), 2u);
  const GgufFile glm(Convert(root_ + "glm4-moe"));
  EXPECT_EQ(glm.GetUint("glm4moe.leading_dense_block_count"), 1u);
  const GgufFile ernie(Convert(root_ + "ernie4_5-moe"));
  EXPECT_EQ(ernie.GetUint("ernie4_5-moe.interleave_moe_layer_step"), 1u);
  EXPECT_EQ(ernie.GetUint("ernie4_5-moe.leading_dense_block_count"), 1u);
  EXPECT_EQ(ernie.GetUint("ernie4_5-moe.expert_shared_feed_forward_length"), 16u);
  // No type of scaling that they end at.
  const GgufFile internlm(Convert(root_ + "internlm3"));
  EXPECT_EQ(internlm.GetString("llama.rope.scaling.type"), "none");
  EXPECT_TRUE(internlm.GetFloat("llama.rope.scaling.factor") == std::nullopt);
  const GgufFile mimo(Convert(root_ + "mimo-v2-flash"));
  EXPECT_EQ(mimo.GetUint("mimo2.attention.sliding_window"), 16u);
  EXPECT_EQ(mimo.GetUint("mimo2.attention.value_length"), 8u);
  EXPECT_NEAR(*mimo.GetFloat("mimo2.attention.value_scale"), 0.707, 1e-6);
  EXPECT_EQ(*mimo.GetIntArray("mimo2.attention.head_count_kv"), (std::vector<int64_t>{2, 4, 2}));
  EXPECT_EQ(mimo.GetUint("mimo2.expert_feed_forward_length"), 8u);
  const GgufFile laguna(Convert(root_ + "laguna"));
  EXPECT_EQ(laguna.GetUint("laguna.leading_dense_block_count"), 1u);
  EXPECT_EQ(laguna.GetUint("laguna.rope.dimension_count"), 4u);
  EXPECT_EQ(laguna.GetUint("laguna.rope.dimension_count_swa"), 8u);
  EXPECT_EQ(laguna.GetUint("laguna.expert_shared_feed_forward_length"), 8u);
}

TEST_F(AttentionFamilies, WhatIsNotKnownIsRefused) {
  EXPECT_NE(Refusal("laguna", "moe_router_logit_softcapping", 30.0).find("moe_router_logit_softcapping"),
            std::string::npos);
  EXPECT_NE(Refusal("laguna", "num_attention_heads_per_layer", {4, 3, 4}).find("3 heads"), std::string::npos);
  EXPECT_NE(Refusal("apertus", "hidden_act", "tanhshrink").find("tanhshrink"), std::string::npos);
  EXPECT_EQ(Refusal("hunyuan-dense", "num_experts", 1), "");  // as some dense ones say
}

TEST_F(AttentionFamilies, SettingsOfAnotherTypeAreRefused) {
  EXPECT_NE(Refusal("gpt-oss", "rope_parameters", 1).find("rope_parameters"), std::string::npos);
  EXPECT_NE(Refusal("lfm3", "sliding_window", true).find("sliding_window"), std::string::npos);
  EXPECT_NE(Refusal("mamba2", "time_step_limit", 0.1).find("time_step_limit"), std::string::npos);
  EXPECT_NE(Refusal("mamba2", "time_step_limit", {0, {{"__float__", 5}}}).find("time_step_limit"),
            std::string::npos);
  nlohmann::json config = ConfigOf("gemma4-31b");
  nlohmann::json& text = config.contains("text_config") ? config["text_config"] : config;
  text["rope_parameters"]["full_attention"]["partial_rotary_factor"] = 7;
  EXPECT_THROW(LoadModel(Folder("gemma4-31b", config.dump())), Error);
}

// config.json need not say it: transformers has a number for each family.
TEST_F(AttentionFamilies, AHeadRotatesAsFarAsItsFamilyDoesWhereNothingIsSaid) {
  for (const char* name : {"qwen3_5", "qwen3_5-moe", "qwen3-next", "glm4", "glm4-moe", "nemotron", "phi",
                           "stablelm-bias", "recurrent-gemma"}) {
    nlohmann::json config = ConfigOf(name);
    for (const char* part : {"rope_parameters", "partial_rotary_factor"}) {
      if (config.contains(part) && config[part].is_object()) {
        config[part].erase("partial_rotary_factor");
      } else {
        config.erase(part);
      }
    }
    EXPECT_EQ(Logits(Folder(name, config.dump())), Logits(root_ + name)) << name;
  }
}

}  // namespace
}  // namespace mneme
