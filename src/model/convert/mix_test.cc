#include "model/convert/mix.h"

#include <gtest/gtest.h>

#include <string>

#include "mneme/convert.h"

namespace mneme {
namespace {

MixModel Llama(int64_t num_layers) {
  MixModel model{.family = "llama", .num_layers = num_layers, .has_output = true};
  for (int64_t layer = 0; layer < num_layers; ++layer) model.with_values.push_back(layer);
  return model;
}

Encoding Of(const char* mix, const MixModel& model, const std::string& name, size_t cols = 2048,
            size_t num_matrices = 1) {
  return EncodingInMix(*FindMix(mix), model, name, cols, num_matrices);
}

std::string InLayer(int layer, const char* name) {
  return "blk." + std::to_string(layer) + "." + name + ".weight";
}

TEST(MixTest, NamesAreFoundInAnyCase) {
  for (const std::string_view name : MixNames()) EXPECT_EQ(FindMix(name)->name, name);
  EXPECT_EQ(FindMix("Q4_K_M")->file_type, 15u);
  EXPECT_EQ(FindMix("q4_k"), nullptr);
  EXPECT_EQ(FindMix("q4_k_"), nullptr);
  EXPECT_EQ(FindMix(""), nullptr);
}

// 16 layers: the first two and the last two, and of the others every third.
TEST(MixTest, MediumMixesGiveMoreToSomeLayers) {
  const MixModel model = Llama(16);
  const std::string more = "1100100100100111";  // by hand: i < 2, i >= 14, (i - 2) % 3 == 2
  for (int layer = 0; layer < 16; ++layer) {
    const Encoding expected = more[static_cast<size_t>(layer)] == '1' ? Encoding::kQ6_K : Encoding::kQ4_K;
    EXPECT_EQ(Of("q4_k_m", model, InLayer(layer, "attn_v")), expected) << layer;
    EXPECT_EQ(Of("q4_k_m", model, InLayer(layer, "ffn_down")), expected) << layer;
    EXPECT_EQ(Of("q4_k_m", model, InLayer(layer, "ffn_down_exps")), expected) << layer;
    EXPECT_EQ(Of("q4_k_m", model, InLayer(layer, "ffn_up")), Encoding::kQ4_K);
  }
  EXPECT_EQ(Of("q4_k_m", model, "output.weight"), Encoding::kQ6_K);
  EXPECT_EQ(Of("q4_k_m", model, "token_embd.weight"), Encoding::kQ4_K);
  EXPECT_EQ(Of("q5_k_m", model, InLayer(0, "attn_v")), Encoding::kQ6_K);
  EXPECT_EQ(Of("q5_k_m", model, InLayer(3, "attn_v")), Encoding::kQ5_K);
}

TEST(MixTest, TheOthers) {
  MixModel model = Llama(16);
  EXPECT_EQ(Of("q4_k_s", model, InLayer(3, "attn_v")), Encoding::kQ5_K);
  EXPECT_EQ(Of("q4_k_s", model, InLayer(4, "attn_v")), Encoding::kQ4_K);
  EXPECT_EQ(Of("q4_k_s", model, InLayer(1, "ffn_down")), Encoding::kQ5_K);
  EXPECT_EQ(Of("q4_k_s", model, InLayer(2, "ffn_down")), Encoding::kQ4_K);
  EXPECT_EQ(Of("q3_k_m", model, InLayer(0, "ffn_down")), Encoding::kQ5_K);
  EXPECT_EQ(Of("q3_k_m", model, InLayer(9, "ffn_down")), Encoding::kQ4_K);
  EXPECT_EQ(Of("q3_k_m", model, InLayer(9, "attn_output")), Encoding::kQ4_K);
  EXPECT_EQ(Of("q3_k_m", model, InLayer(9, "attn_q")), Encoding::kQ3_K);
  EXPECT_EQ(Of("q3_k_s", model, InLayer(9, "attn_output")), Encoding::kQ3_K);
  EXPECT_EQ(Of("q2_k", model, InLayer(9, "attn_v")), Encoding::kQ3_K);
  model.heads_per_kv_head = 4;
  EXPECT_EQ(Of("q2_k", model, InLayer(9, "attn_v")), Encoding::kQ4_K);
  model.num_experts = 8;
  EXPECT_EQ(Of("q4_k_m", model, InLayer(9, "attn_v")), Encoding::kQ8_0);
  EXPECT_EQ(Of("q4_k_m", model, InLayer(9, "attn_k")), Encoding::kQ8_0);
  EXPECT_EQ(Of("q4_k_m", model, InLayer(9, "attn_output")), Encoding::kQ5_K);
  EXPECT_EQ(Of("mxfp4_moe", model, InLayer(9, "ffn_up_exps"), 2880, 8), Encoding::kMXFP4);
  EXPECT_EQ(Of("mxfp4_moe", model, InLayer(9, "attn_q"), 2880), Encoding::kQ8_0);
}

// A model whose embedding is its head, and columns that do not fill blocks.
TEST(MixTest, TiedHeadsAndNarrowMatrices) {
  MixModel model = Llama(16);
  model.has_output = false;
  EXPECT_EQ(Of("q4_k_m", model, "token_embd.weight"), Encoding::kQ6_K);
  EXPECT_EQ(Of("q4_k_m", model, "token_embd.weight", 576), Encoding::kQ8_0);
  EXPECT_EQ(Of("q4_k_m", model, InLayer(3, "attn_q"), 576), Encoding::kQ5_0);
  EXPECT_EQ(Of("q4_k_m", model, InLayer(0, "attn_v"), 576), Encoding::kQ8_0);
  EXPECT_EQ(Of("q5_k_m", model, InLayer(3, "attn_q"), 576), Encoding::kQ5_1);
  EXPECT_EQ(Of("q2_k", model, InLayer(3, "attn_q"), 576), Encoding::kQ4_0);
  EXPECT_EQ(Of("q4_k_m", model, InLayer(3, "attn_q"), 40), Encoding::kF16);
}

// Layers without attention count for nothing.
TEST(MixTest, OnlyLayersWithValuesAreCounted) {
  MixModel model = Llama(32);
  model.with_values.clear();
  for (int64_t layer = 1; layer < 32; layer += 2) model.with_values.push_back(layer);
  EXPECT_EQ(Of("q4_k_m", model, InLayer(1, "attn_v")), Encoding::kQ6_K);    // 0 of 16
  EXPECT_EQ(Of("q4_k_m", model, InLayer(5, "attn_v")), Encoding::kQ4_K);    // 2 of 16
  EXPECT_EQ(Of("q4_k_m", model, InLayer(9, "attn_qkv")), Encoding::kQ6_K);  // 4 of 16
}

}  // namespace
}  // namespace mneme
