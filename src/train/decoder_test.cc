#include "train/decoder.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "train/data/sequence.h"
#include "train/train_test_util.h"

namespace mneme::train {
namespace {

using testing::Attention;
using testing::RandomBatch;
using testing::SmallModel;
using torch::Tensor;

constexpr int64_t kVocab = 13;

Decoder Make(const MemorySettings& memory, torch::ScalarType type = torch::kFloat64, bool tied = true) {
  ModelSettings model = SmallModel();
  model.tied_head = tied;
  return Decoder(MakeArchitecture(model, kVocab), memory, {}, 3, torch::TensorOptions().dtype(type));
}

Tensor LogitsOf(const Decoder& decoder, const Batch& batch) {
  torch::NoGradGuard no_grad;
  DecoderState state = decoder.EmptyState(batch.batch);
  const Tensor tokens = torch::tensor(batch.tokens).view({batch.batch, -1});
  const Tensor resets = torch::tensor(batch.resets).view({batch.batch, -1}).to(decoder.options());
  std::vector<Tensor> parts;
  for (int64_t s = 0; s < batch.num_segments; ++s) {
    parts.push_back(decoder.Logits(
        decoder.Segment(tokens.narrow(1, s * batch.segment, batch.segment), resets.select(1, s), &state)));
  }
  return torch::cat(parts, 1);
}

std::vector<Tensor> Gradients(Decoder& decoder) {
  std::vector<Tensor> result;
  for (Parameter& parameter : decoder.parameters()) {
    const Tensor& gradient = parameter.value.grad();
    result.push_back(gradient.defined() ? gradient.clone() : torch::zeros_like(parameter.value));
    parameter.value.mutable_grad().reset();
  }
  return result;
}

class EveryAttention : public ::testing::TestWithParam<MemorySettings> {};

TEST_P(EveryAttention, RecomputingBySegmentGivesTheSameGradient) {
  Decoder decoder = Make(GetParam());
  Batch batch = RandomBatch(2, 5, 4, kVocab, 1);
  batch.resets[3] = 1;  // another document in the first row
  SequenceOptions options{.recompute = false, .write_penalty = 0.3, .scale = 0.5};
  const SequenceResult whole = Backpropagate(decoder, batch, options);
  const std::vector<Tensor> expected = Gradients(decoder);
  options.recompute = true;
  const SequenceResult by_segment = Backpropagate(decoder, batch, options);
  const std::vector<Tensor> got = Gradients(decoder);
  EXPECT_NEAR(whole.loss, by_segment.loss, 1e-12);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LT((got[i] - expected[i]).abs().max().item<double>(), 1e-12) << decoder.parameters()[i].name;
  }
}

TEST_P(EveryAttention, ChangesNothingBeforeTheChangedToken) {
  const Decoder decoder = Make(GetParam());
  const Batch batch = RandomBatch(1, 5, 4, kVocab, 2);
  const Tensor expected = LogitsOf(decoder, batch);
  for (const int64_t at : {0, 3, 4, 9, 19}) {
    Batch changed = batch;
    changed.tokens[static_cast<size_t>(at)] = (batch.tokens[static_cast<size_t>(at)] + 1) % kVocab;
    const Tensor got = LogitsOf(decoder, changed);
    EXPECT_TRUE(at == 0 || torch::equal(got.narrow(1, 0, at), expected.narrow(1, 0, at))) << at;
    EXPECT_FALSE(torch::equal(got.narrow(1, at, 1), expected.narrow(1, at, 1))) << at;
  }
}

TEST_P(EveryAttention, EarlierSegmentsReachLaterOnes) {
  const Decoder decoder = Make(GetParam());
  const Batch batch = RandomBatch(1, 5, 4, kVocab, 2);
  Batch changed = batch;
  changed.tokens[5] = (batch.tokens[5] + 1) % kVocab;
  EXPECT_FALSE(
      torch::equal(LogitsOf(decoder, batch).narrow(1, 8, 4), LogitsOf(decoder, changed).narrow(1, 8, 4)));
}

TEST_P(EveryAttention, DocumentsAfterAResetAreAsIfAlone) {
  const Decoder decoder = Make(GetParam());
  Batch batch = RandomBatch(2, 5, 4, kVocab, 4);
  batch.resets[2] = 1;
  const Tensor together = LogitsOf(decoder, batch).narrow(0, 0, 1).narrow(1, 8, 12);
  Batch alone = RandomBatch(1, 3, 4, kVocab, 5);
  alone.tokens.assign(batch.tokens.begin() + 8, batch.tokens.begin() + 20);
  // The same distances at other positions: the tables of angles are rounded to float32.
  EXPECT_LT((together - LogitsOf(decoder, alone)).abs().max().item<double>(), 1e-7);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryAttention,
                         ::testing::Values(Attention("dense", 4), Attention("xl", 4, 1),
                                           Attention("xl", 4, 2), Attention("infini", 4, 0, "linear"),
                                           Attention("infini", 4, 0, "delta"), Attention("infini", 4),
                                           Attention("infini", 4, 1, "linear"), Attention("infini", 4, 2),
                                           Attention("memorizing", 4), Attention("memorizing", 4, 1)),
                         [](const auto& info) {
                           std::string name = info.param.attention + "_" + info.param.update +
                                              std::to_string(info.param.previous);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// T23: finite differences through three segments, in double precision.
class InfiniRules : public ::testing::TestWithParam<const char*> {};

TEST_P(InfiniRules, GradientIsTheDerivativeThroughThreeSegments) {
  Decoder decoder = Make(Attention("infini", 4, 0, GetParam()));
  const Batch batch = RandomBatch(1, 3, 4, kVocab, 6);
  const SequenceOptions options{.recompute = true, .write_penalty = 0.2};
  Backpropagate(decoder, batch, options);
  const std::vector<Tensor> gradients = Gradients(decoder);
  const auto loss = [&] {
    const SequenceResult result = Evaluate(decoder, batch);
    return result.loss + 0.2 * result.write_mean;
  };
  torch::NoGradGuard no_grad;
  double largest = 0;
  for (size_t which = 0; which < gradients.size(); ++which) {
    const std::string& name = decoder.parameters()[which].name;
    if (!name.starts_with("blk.1.") && !name.starts_with("blk.0.attn")) continue;
    Tensor& value = decoder.parameters()[which].value;
    for (int64_t i = 0; i < value.numel(); i += std::max<int64_t>(1, value.numel() / 5)) {
      double* at = value.data_ptr<double>() + i;
      const double old = *at;
      constexpr double kStep = 1e-5;
      *at = old + kStep;
      const double up = loss();
      *at = old - kStep;
      const double down = loss();
      *at = old;
      const double expected = (up - down) / (2 * kStep);
      const double got = gradients[which].contiguous().data_ptr<double>()[i];
      EXPECT_NEAR(got, expected, 1e-6 * (1 + std::abs(expected))) << name << " at " << i;
      largest = std::max(largest, std::abs(got));
    }
  }
  EXPECT_GT(largest, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Rules, InfiniRules, ::testing::Values("linear", "delta", "gated-delta"));

TEST(Decoder, ShutGatesGiveLocalAttentionInsideSegments) {
  MemorySettings memory = Attention("infini", 4);
  memory.gate_init = -30;
  const Decoder shut = Make(memory, torch::kFloat32);
  const Decoder local = Make(Attention("xl", 4, 0), torch::kFloat32);
  const Batch batch = RandomBatch(1, 4, 4, kVocab, 7);
  EXPECT_LT((LogitsOf(shut, batch) - LogitsOf(local, batch)).abs().max().item<double>(), 1e-6);
}

TEST(Decoder, LiteralFirstSegmentScalesTheLocalHalf) {
  MemorySettings bypass = Attention("infini", 4), literal = bypass;
  literal.first = "literal";
  const Batch batch = RandomBatch(1, 1, 4, kVocab, 7);
  EXPECT_GT((LogitsOf(Make(bypass), batch) - LogitsOf(Make(literal), batch)).abs().max().item<double>(),
            1e-4);
}

TEST(Decoder, RefusesArchitecturesItDoesNotHave) {
  Architecture architecture = MakeArchitecture(SmallModel(), kVocab);
  architecture.plan.norm = NormKind::kLayer;
  EXPECT_THROW(Decoder(architecture, Attention("infini", 4), {}, 1, torch::kFloat32), Error);
}

TEST(Decoder, MemoriesDoNotGrowWithTheSequence) {
  const Decoder decoder = Make(Attention("infini", 4, 1), torch::kFloat32);
  torch::NoGradGuard no_grad;
  DecoderState state = decoder.EmptyState(1);
  const auto run = [&](int count) {
    for (int i = 0; i < count; ++i) {
      decoder.Segment(torch::zeros({1, 4}, torch::kInt64), torch::zeros({1}), &state);
    }
    int64_t total = 0;
    for (const Tensor* tensor : state.Differentiable()) total += tensor->numel();
    return total;
  };
  EXPECT_EQ(run(3), run(20));
}

TEST(Decoder, PositionHeadsBeginByLookingBack) {
  ModelSettings settings = testing::SmallModel();
  settings.qkv_bias = true;
  settings.head_dim = 32;
  settings.position_heads = 3;
  Decoder decoder(MakeArchitecture(settings, kVocab), Attention("dense", 16), {}, 1, torch::kFloat64);
  torch::NoGradGuard no_grad;
  const Tensor q = decoder.Find("blk.0.attn_q.bias")->value, k = decoder.Find("blk.0.attn_k.bias")->value;
  const Rope& rope = decoder.plan().ropes[0];
  for (int64_t head = 0; head < settings.position_heads; ++head) {
    std::vector<double> logits(16);
    for (int64_t distance = 0; distance < 16; ++distance) {
      for (int64_t pair = 0; pair < 16; ++pair) {
        const double angle = static_cast<double>(distance) * rope.frequencies[static_cast<size_t>(pair)];
        const double q0 = q[head * 32 + 2 * pair].item<double>(),
                     q1 = q[head * 32 + 2 * pair + 1].item<double>();
        const double key = k[head / 2 * 32 + 2 * pair].item<double>();
        logits[static_cast<size_t>(distance)] +=
            key * (q0 * std::cos(angle) - q1 * std::sin(angle)) / std::sqrt(32.0);
      }
    }
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - logits[static_cast<size_t>(head + 1)]);
    EXPECT_GT(1 / sum, 0.9) << "head " << head;
  }
}

// The wrong tokens of a branch give what they give when they are fed and nothing else follows; the text's own
// outputs and state are those without branches.
TEST(DecoderBranches, AreAsIfFedAndTakenBack) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  std::vector<MemorySettings> kinds = {
      testing::Attention("dense", 8), testing::Attention("xl", 8, 1), testing::Attention("memorizing", 8, 1),
      testing::Attention("infini", 8, 0, "linear"), testing::Attention("infini", 8, 1, "gated-delta")};
  for (const std::string sink : {"none", "logit"}) {
    for (const MemorySettings& memory : kinds) {
      ModelSettings model = testing::SmallModel();
      model.sink = sink;
      const Decoder decoder(MakeArchitecture(model, 30), memory, {}, 5, torch::kFloat64);
      const auto ids = torch::TensorOptions().dtype(torch::kInt64);
      const torch::Tensor text = torch::randint(30, {2, 24}, ids);
      const torch::Tensor none = torch::zeros({2}, torch::kFloat64);
      // Two branches in each row: two tokens after 1, one token after 5; one slot of padding.
      const torch::Tensor wrong = torch::randint(30, {2, 4}, ids);
      const BranchTokens branches = {wrong, torch::tensor({{1, 1, 5, 0}, {1, 1, 5, 0}}, torch::kInt64),
                                     torch::tensor({{1, 2, 1, 1}, {1, 2, 1, 1}}, torch::kInt64)};
      DecoderState with = decoder.EmptyState(2), without = decoder.EmptyState(2);
      for (int64_t s = 0; s < 3; ++s) {
        const torch::Tensor own = text.narrow(1, 8 * s, 8);
        torch::Tensor first = own.clone(), second = own.clone();
        first.narrow(1, 2, 2).copy_(wrong.narrow(1, 0, 2));
        second.narrow(1, 6, 1).copy_(wrong.narrow(1, 2, 1));
        DecoderState a = without, b = without;
        const torch::Tensor first_out = decoder.Segment(first, none, &a).narrow(1, 2, 2);
        const torch::Tensor second_out = decoder.Segment(second, none, &b).narrow(1, 6, 1);
        const torch::Tensor out = decoder.Segment(own, none, &with, nullptr, &branches);
        const torch::Tensor plain = decoder.Segment(own, none, &without);
        const std::string where = memory.attention + " " + sink + " segment " + std::to_string(s);
        ASSERT_EQ(out.size(1), 12);
        EXPECT_LT((out.narrow(1, 0, 8) - plain).abs().max().item<double>(), 1e-10) << where;
        EXPECT_LT((out.narrow(1, 8, 2) - first_out).abs().max().item<double>(), 1e-10) << where;
        EXPECT_LT((out.narrow(1, 10, 1) - second_out).abs().max().item<double>(), 1e-10) << where;
      }
      const auto x = with.Differentiable(), y = without.Differentiable();
      ASSERT_EQ(x.size(), y.size());
      for (size_t i = 0; i < x.size(); ++i) EXPECT_LT((*x[i] - *y[i]).abs().max().item<double>(), 1e-10);
    }
  }
}

}  // namespace
}  // namespace mneme::train
