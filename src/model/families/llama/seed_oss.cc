// Seed-OSS.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"seed_oss"};
constexpr TensorName kGgufTensors[] = {{"ffn_norm", "post_attention_norm"}};

}  // namespace

extern constinit const Family kSeedOss = {
    .name = "seed_oss",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = UseOptionalWindow,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_tensors = kGgufTensors,
};

}  // namespace mneme
