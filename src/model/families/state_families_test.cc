// Families with layers of fixed state, and one whose layers rotate each in its own way, beyond what their
// goldens show: settings that their models have in other ways, what conversion writes for other readers, and
// what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/testing.h"
#include "formats/gguf.h"
#include "model/families/golden_test_util.h"
#include "model/test_util.h"
#include "reference/model.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

class StateFamilies : public GoldenModels {};

TEST_F(StateFamilies, InfinityAsPythonWritesIt) {
  nlohmann::json config = ConfigOf("mamba2");
  config["time_step_limit"] = "LIMIT";
  config["note"] = "an \"Infinity\" in a text";
  std::string text = config.dump();
  text.replace(text.find("\"LIMIT\""), 7, "[0.0, Infinity]");
  EXPECT_EQ(Logits(Folder("mamba2", text)), Logits(root_ + "mamba2"));
}

TEST_F(StateFamilies, TheWidthOfAHeadMayBeLeftToTheReader) {
  for (const char* name : {"granite-hybrid", "falcon-h1"}) {
    nlohmann::json config = ConfigOf(name);
    config["mamba_d_head"] = "auto";
    EXPECT_EQ(Logits(Folder(name, config.dump())), Logits(root_ + name)) << name;
    config.erase("mamba_d_head");
    EXPECT_EQ(Logits(Folder(name, config.dump())), Logits(root_ + name)) << name;
  }
}

TEST_F(StateFamilies, StepsHaveLimits) {
  nlohmann::json config = ConfigOf("mamba2");
  config["time_step_limit"] = {0.5, 0.7};
  const std::string path = Folder("mamba2", config.dump());
  EXPECT_GT(RelativeDifference(CheckAll(path), Logits(root_ + "mamba2")), 1e-3);
  config["time_step_limit"] = {0.7, 0.5};
  EXPECT_THROW(LoadModel(Folder("mamba2", config.dump())), Error);
}

// The smallest step of the weights that training began with is no limit.
TEST_F(StateFamilies, WhatStepsBeganWithIsNoLimit) {
  nlohmann::json config = ConfigOf("nemotron-h");
  config["time_step_min"] = 0.5;
  EXPECT_EQ(Logits(Folder("nemotron-h", config.dump())), Logits(root_ + "nemotron-h"));
}

TEST_F(StateFamilies, ThreadsAndChunksDoNotChangeABit) {
  for (const char* name : {"mamba", "jamba", "recurrent-gemma", "rwkv4", "zamba2"}) {
    for (const PackMode pack : {PackMode::kNever, PackMode::kAlways}) {
      const auto model = LoadModel(root_ + name, pack);
      const std::vector<float> expected = EngineLogits(*model, tokens_);
      for (const size_t chunk : {1, 7, 64}) {
        EXPECT_TRUE(EngineLogits(*model, tokens_, chunk, 2) == expected) << name << " chunk " << chunk;
      }
      EXPECT_LT(RelativeDifference(expected, Logits(root_ + name)), 3e-5) << name;
    }
  }
}

// One stream begins in a call, another goes on: a first token is another's neighbour.
TEST_F(StateFamilies, StreamsThatBeginBesideOthers) {
  for (const char* name : {"recurrent-gemma", "rwkv4", "zamba2"}) {
    const auto model = LoadModel(root_ + name);
    const std::vector<float> expected = EngineLogits(*model, tokens_);
    CpuDevice device(2);
    Budget budget;
    Runner runner(*model, 64, device, budget);
    const auto old = DenseContext(*model, budget, 2, 64), fresh = DenseContext(*model, budget, 2, 64);
    const std::span<const TokenId> tokens = tokens_;
    std::vector<float> rows[2];
    const auto forward = [&](std::vector<ForwardChunk> chunks) {
      for (ForwardChunk& chunk : chunks) chunk.all_logits = true;
      runner.Forward(chunks, [&](size_t chunk, size_t, std::span<const float> logits) {
        rows[chunk].insert(rows[chunk].end(), logits.begin(), logits.end());
      });
    };
    forward({{.context = old.get(), .tokens = tokens.first(20)}});
    forward({{.context = old.get(), .tokens = tokens.subspan(20, 9)},
             {.context = fresh.get(), .tokens = tokens.first(5)}});
    const auto is_head = [&](const std::vector<float>& part) {
      return std::equal(part.begin(), part.end(), expected.begin());
    };
    EXPECT_TRUE(is_head(rows[0])) << name;
    EXPECT_TRUE(is_head(rows[1])) << name;
  }
}

// Norms without weights of what a scan is made of.
TEST_F(StateFamilies, FalconMamba) {
  nlohmann::json config = ConfigOf("mamba");
  config["model_type"] = "falcon_mamba";
  const std::vector<float> logits = CheckAll(Folder("mamba", config.dump()));
  EXPECT_GT(RelativeDifference(logits, Logits(root_ + "mamba")), 1e-3);
  const GgufFile file(Convert(Folder("mamba", config.dump())));
  EXPECT_EQ(file.GetString("general.architecture"), "mamba");
  EXPECT_EQ(file.GetBool("mamba.ssm.dt_b_c_rms"), true);
  config["mixer_rms_eps"] = 0.1;
  EXPECT_GT(RelativeDifference(CheckAll(Folder("mamba", config.dump())), logits), 1e-3);
}

TEST_F(StateFamilies, TheGateOfAScanBeforeOrAfterItsNormOrAlone) {
  nlohmann::json config = ConfigOf("falcon-h1");
  config["mamba_norm_before_gate"] = true;
  const std::vector<float> after = CheckAll(Folder("falcon-h1", config.dump()));
  EXPECT_GT(RelativeDifference(after, Logits(root_ + "falcon-h1")), 1e-3);
  const Keep but_norms = [](const GgufTensor& tensor) {
    return tensor.name.find("ssm_norm") == std::string::npos;
  };
  const std::string path =
      Rewrite(Convert(root_ + "falcon-h1"), folder_ / "alone.gguf", kNoChange, but_norms);
  const auto alone = LoadModel(path);
  const std::vector<float> logits = EngineLogits(*alone, tokens_);
  EXPECT_LT(RelativeDifference(logits, ReferenceLogits(*alone, tokens_)), 3e-5);
  EXPECT_GT(RelativeDifference(logits, after), 1e-3);
}

TEST_F(StateFamilies, MultipliersOfAHeadThatIsTheEmbedding) {
  nlohmann::json config = ConfigOf("falcon-h1");
  config["tie_word_embeddings"] = true;
  CheckAll(Folder("falcon-h1", config.dump()));
}

TEST_F(StateFamilies, GraniteWithWindowsRotatesEachLayerInItsOwnWay) {
  nlohmann::json config = ConfigOf("granite-swa");
  const std::vector<float> golden = Logits(root_ + "granite-swa");
  config["layer_rope_theta"] = {1000000.0, 0, 10000.0, 0.0};
  const std::vector<float> partly = CheckAll(Folder("granite-swa", config.dump()));
  EXPECT_GT(RelativeDifference(partly, golden), 1e-3);
  const GgufFile file(Convert(Folder("granite-swa", config.dump())));
  EXPECT_EQ(*file.GetIntArray("granite_swa.attention.rope_pattern"), (std::vector<int64_t>{1, 0, 1, 0}));
  EXPECT_EQ(file.GetFloat("granite_swa.rope.freq_base"), 1000000.0);
  EXPECT_EQ(file.GetFloat("granite_swa.rope.freq_base_swa"), 10000.0);
  // The first of four layers sees everything where nothing is said; the golden's last one does as well.
  config = ConfigOf("granite-swa");
  config.erase("layer_types");
  config.erase("layer_rope_theta");
  EXPECT_GT(RelativeDifference(CheckAll(Folder("granite-swa", config.dump())), golden), 1e-3);
  config["layer_types"] = {"sliding_attention", "sliding_attention", "sliding_attention",
                           "sliding_attention"};
  CheckAll(Folder("granite-swa", config.dump()));
  config["layer_rope_theta"] = {10000.0, 20000.0, 10000.0, 10000.0};
  EXPECT_THROW(Convert(Folder("granite-swa", config.dump())), Error);
}

// Two transformers in turns, the second a copy of the first, come to the same as one.
TEST_F(StateFamilies, LayersShareTransformersInTurns) {
  const std::string path = Convert(root_ + "zamba2");
  const GgufFile file(path);
  const auto copy = [&file](GgufWriter& writer) {
    writer.Set("zamba2.shared.block_count", uint32_t{2});
    for (const GgufTensor& tensor : file.tensors()) {
      const std::string part(tensor.name.substr(tensor.name.find('.', 4) + 1));
      if (!tensor.name.starts_with("blk.1.") || part == "attn_norm.weight") continue;
      if (part.starts_with("attn_") || part.starts_with("ffn_") || part == "shared_norm.weight") {
        writer.AddTensor("blk.2." + part, tensor.encoding, tensor.shape, tensor.data);
      }
    }
  };
  EXPECT_EQ(Logits(Rewrite(path, folder_ / "twice.gguf", copy, kKeepAll)), Logits(path));
}

TEST_F(StateFamilies, WhatALayerAddsToASharedAttention) {
  const std::string path = Convert(root_ + "zamba2");
  for (const double size : {0.0, 0.3}) {
    std::vector<std::vector<float>> matrices;
    matrices.reserve(12);
    Random random(5);
    const auto add = [&](GgufWriter& writer) {
      writer.Set("zamba2.shared.attention_adapters", true);
      for (const char* layer : {"1", "2"}) {
        for (const char* matrix : {"q_down", "q_up", "k_down", "k_up", "v_down", "v_up"}) {
          const bool is_down = std::string_view(matrix).ends_with("down");
          auto& values = matrices.emplace_back(4 * 64);
          for (float& value : values) value = static_cast<float>(size * random.Normal());
          const std::string name = std::string("blk.") + layer + ".shared_" + matrix + ".weight";
          const std::vector<uint64_t> shape =
              is_down ? std::vector<uint64_t>{64, 4} : std::vector<uint64_t>{4, 64};
          writer.AddTensor(name, Encoding::kF32, shape, values.data());
        }
      }
    };
    const auto model = LoadModel(Rewrite(path, folder_ / "adapters.gguf", add, kKeepAll));
    const std::vector<float> logits = EngineLogits(*model, tokens_);
    EXPECT_LT(RelativeDifference(logits, ReferenceLogits(*model, tokens_)), 3e-5);
    EXPECT_EQ(logits == Logits(path), size == 0) << size;
  }
}

TEST_F(StateFamilies, QuantisedWeightsAreMultipliedFirst) {
  const std::vector<float> exact = Logits(root_ + "falcon-h1");
  EXPECT_LT(RelativeDifference(Logits(Convert(root_ + "falcon-h1", Encoding::kQ8_0)), exact), 0.05);
}

// Convolutions and what each head has stay as they are, on either way.
TEST_F(StateFamilies, AGgufIsEncodedAgainLikeAFolder) {
  for (const char* name :
       {"mamba2", "lfm2", "qwen3-next", "gpt-oss", "mamba", "jamba", "recurrent-gemma", "rwkv4", "zamba2"}) {
    const std::string folder = root_ + name;
    EXPECT_EQ(Logits(Convert(Convert(folder), Encoding::kQ8_0)), Logits(Convert(folder, Encoding::kQ8_0)))
        << name;
  }
}

// Which layers have attention, and sizes under the names that other readers look for.
TEST_F(StateFamilies, WhatOtherReadersLookFor) {
  const GgufFile lfm2(Convert(root_ + "lfm2"));
  EXPECT_EQ(*lfm2.GetIntArray("lfm2.attention.head_count_kv"), (std::vector<int64_t>{0, 0, 2, 0}));
  EXPECT_EQ(lfm2.GetUint("lfm2.shortconv.l_cache"), 3u);
  EXPECT_EQ(lfm2.GetUint("lfm2.feed_forward_length"), 32u);  // two thirds of 40, rounded up
  const GgufFile mamba2(Convert(root_ + "mamba2"));
  EXPECT_EQ(mamba2.GetUint("mamba2.attention.head_count"), 0u);
  EXPECT_EQ(mamba2.GetUint("mamba2.ssm.inner_size"), 64u);
  EXPECT_EQ(mamba2.GetUint("mamba2.ssm.time_step_rank"), 8u);
  for (const GgufTensor& tensor : mamba2.tensors()) {
    if (tensor.name == "blk.0.ssm_a") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{1, 8}));
    }
    if (tensor.name == "blk.0.ssm_norm.weight") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{32, 2}));
    }
    if (tensor.name == "blk.0.ssm_conv1d.weight") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{4, 96}));
    }
  }
  const GgufFile falcon(Convert(root_ + "falcon-h1"));
  EXPECT_TRUE(std::any_of(falcon.tensors().begin(), falcon.tensors().end(),
                          [](const GgufTensor& tensor) { return tensor.name == "blk.0.ffn_norm"; }));
  const GgufFile nemotron(Convert(root_ + "nemotron-h"));
  EXPECT_EQ(nemotron.GetString("general.architecture"), "nemotron_h_moe");
  EXPECT_EQ(*nemotron.GetIntArray("nemotron_h_moe.feed_forward_length"),
            (std::vector<int64_t>{0, 32, 0, 0, 12}));
  const GgufFile mamba(Convert(root_ + "mamba"));
  EXPECT_EQ(mamba.GetUint("mamba.attention.head_count"), 0u);
  EXPECT_EQ(mamba.GetUint("mamba.ssm.inner_size"), 64u);
  EXPECT_EQ(mamba.GetUint("mamba.ssm.state_size"), 8u);
  EXPECT_EQ(mamba.GetUint("mamba.ssm.time_step_rank"), 4u);
  for (const GgufTensor& tensor : mamba.tensors()) {
    if (tensor.name == "blk.0.ssm_a") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{8, 64}));
    }
    if (tensor.name == "blk.0.ssm_d") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{64}));
    }
    if (tensor.name == "blk.0.ssm_x.weight") {
      EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{64, 20}));
    }
  }
  const GgufFile jamba(Convert(root_ + "jamba"));
  EXPECT_EQ(*jamba.GetIntArray("jamba.attention.head_count_kv"), (std::vector<int64_t>{0, 0, 2, 0}));
  EXPECT_EQ(jamba.GetUint("jamba.expert_count"), 2u);
  EXPECT_EQ(jamba.GetUint("jamba.expert_used_count"), 1u);
  const GgufFile granite(Convert(root_ + "granite-hybrid"));
  EXPECT_EQ(granite.GetBool("granitehybrid.rope.scaling.finetuned"), false);
}

TEST_F(StateFamilies, WhatIsNotKnownIsRefused) {
  EXPECT_NE(Refusal("nemotron-h", "moe_latent_size", 8).find("moe_latent_size"), std::string::npos);
  EXPECT_NE(Refusal("nemotron-h", "mlp_hidden_act", "silu").find("silu"), std::string::npos);
  EXPECT_NE(Refusal("mamba2", "hidden_act", "gelu").find("gelu"), std::string::npos);
  EXPECT_NE(Refusal("falcon-h1", "ssm_multipliers", {1.0, 2.0}).find("ssm_multipliers"), std::string::npos);
  EXPECT_NE(Refusal("falcon-h1", "intermediate_size", {32, 24}).find("[32, 32]"), std::string::npos);
  EXPECT_NE(Refusal("mamba2", "n_groups", 3).find("groups"), std::string::npos);
  EXPECT_NE(Refusal("mamba", "hidden_act", "gelu").find("gelu"), std::string::npos);
  EXPECT_NE(Refusal("mamba", "state_size", 0).find("state_size"), std::string::npos);
  // What may be left to the reader is a sixteenth of the width, which is not that of these weights.
  EXPECT_NE(Refusal("mamba", "time_step_rank", "auto").find("[18, 64]"), std::string::npos);
  EXPECT_NE(Refusal("zamba2", "use_long_context", true).find("use_long_context"), std::string::npos);
  EXPECT_NE(Refusal("zamba2", "hidden_act", "relu").find("relu"), std::string::npos);
  EXPECT_NE(Refusal("zamba2", "adapter_rank", 5).find("[5, 32]"), std::string::npos);
  EXPECT_NE(Refusal("rwkv4", "attention_hidden_size", 24).find("[32, 32]"), std::string::npos);
  EXPECT_NE(Refusal("recurrent-gemma", "hidden_activation", "relu").find("relu"), std::string::npos);
  EXPECT_NE(Refusal("recurrent-gemma", "lru_width", 30).find("30 channels"), std::string::npos);
  EXPECT_NE(Refusal("recurrent-gemma", "attention_window_size", 0).find("window"), std::string::npos);
  EXPECT_NE(Refusal("mamba2", "conv_kernel", 100).find("conv_kernel"), std::string::npos);
}

TEST(StateFamiliesFile, AttentionWithoutKvHeadsIsRefused) {
  TemporaryFolder folder;
  const std::string tiny = WriteTiny(folder);
  const uint64_t num_layers = *GgufFile(tiny).GetUint("llama.block_count");
  const Change change = [&](GgufWriter& writer) {
    std::vector<uint32_t> kv_heads(num_layers, *GgufFile(tiny).GetUint("llama.attention.head_count_kv"));
    kv_heads.back() = 0;
    writer.SetArray("llama.attention.head_count_kv", kv_heads);
  };
  try {
    LoadModel(Rewrite(tiny, folder / "changed.gguf", change, kKeepAll));
    ADD_FAILURE() << "was loaded";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no KV heads"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace mneme
