// BitNet b1.58 (arXiv 2402.17764, 2504.12285): Llama with a norm before the output matrix of each part.
#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"bitnet"};
constexpr TensorName kTensorNames[] = {
    {"attn_sub_norm", "layers.{}.self_attn.attn_sub_norm"},
    {"ffn_sub_norm", "layers.{}.mlp.ffn_sub_norm"},
};

void PlanBitnet(const FamilyInput& input, ModelPlan* plan) {
  // What GGUF files of others leave unsaid is SiLU.
  if (IsFolder(input)) SetActivation(Activation::kRelu2, plan);
  ForEachAttention(*plan, [](AttentionPlan& attention) { attention.has_sub_norm = true; });
  ForEachDense(*plan, [](DensePlan& dense) { dense.has_sub_norm = true; });
}

}  // namespace

extern constinit const Family kBitnet = {
    .name = "bitnet",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanBitnet,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
};

}  // namespace mneme
