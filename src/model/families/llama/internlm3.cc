// InternLM 3: Llama with biases.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"llama"};
constexpr std::string_view kType[] = {"internlm3"};

}  // namespace

extern constinit const Family kInternLm3 = {
    .name = "internlm3",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = UseOptionalWindow,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

}  // namespace mneme
