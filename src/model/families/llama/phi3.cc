// Phi-3 (arXiv 2404.14219).
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"phi3"};

}  // namespace

extern constinit const Family kPhi3 = {
    .name = "phi3",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = UseOptionalWindow,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_fused_qkv = true,
    .gguf_fused_gate_up = true,
};

}  // namespace mneme
