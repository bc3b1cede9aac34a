// All families. The order counts where two read the same GGUF architecture: the first is taken.
#include <fmt/format.h>

#include <string>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {

// One line each, defined in the file that bears its name.
extern const Family kLlama;
extern const Family kMistral;
extern const Family kQwen2;
extern const Family kQwen3;
extern const Family kGemma;
extern const Family kGemma2;
extern const Family kGemma3;
extern const Family kPhi3;
extern const Family kGptNeox;
extern const Family kGptj;
extern const Family kFalcon;
extern const Family kMpt;
extern const Family kGpt2;
extern const Family kStarcoder2;
extern const Family kStablelm;
extern const Family kOlmo2;
extern const Family kMixtral;
extern const Family kQwen2Moe;
extern const Family kQwen3Moe;
extern const Family kOlmoe;
extern const Family kGemma4;
extern const Family kGptOss;
extern const Family kSmolLm3;
extern const Family kGranite;
extern const Family kGraniteMoe;
extern const Family kGraniteSwa;
extern const Family kGlm4;
extern const Family kGlm4Moe;
extern const Family kCohere;
extern const Family kCohere2;
extern const Family kExaone4;
extern const Family kSeedOss;
extern const Family kErnie;
extern const Family kErnieMoe;
extern const Family kNemotron;
extern const Family kOlmo;
extern const Family kPhi;
extern const Family kInternLm3;
extern const Family kMistral3;
extern const Family kBloom;
extern const Family kGptBigcode;
extern const Family kOpt;
extern const Family kGptNeo;
extern const Family kMinimaxM2;
extern const Family kQwen3Next;
extern const Family kQwen35;
extern const Family kQwen35Moe;
extern const Family kLfm2;
extern const Family kLfm2Moe;
extern const Family kLfm3;
extern const Family kMamba;
extern const Family kJamba;
extern const Family kGriffin;
extern const Family kMamba2;
extern const Family kRwkv;
extern const Family kZamba2;
extern const Family kGraniteHybrid;
extern const Family kNemotronH;
extern const Family kNemotronHMoe;
extern const Family kFalconH1;
extern const Family kOlmoHybrid;
extern const Family kDeepseek2;
extern const Family kMistral4;
extern const Family kMinicpm3;
extern const Family kKimiLinear;
extern const Family kHunyuan;
extern const Family kHunyuanMoe;
extern const Family kApertus;
extern const Family kPhimoe;
extern const Family kLaguna;
extern const Family kMimo2;
extern const Family kBitnet;
extern const Family kLlama4;

namespace {

constexpr const Family* kFamilies[] = {
    &kLlama,         &kMistral,   &kQwen2,        &kQwen3,      &kGemma,      &kGemma2,   &kGemma3,
    &kPhi3,          &kGptNeox,   &kGptj,         &kFalcon,     &kMpt,        &kGpt2,     &kStarcoder2,
    &kStablelm,      &kOlmo2,     &kMixtral,      &kQwen2Moe,   &kQwen3Moe,   &kOlmoe,    &kGemma4,
    &kGptOss,        &kSmolLm3,   &kGranite,      &kGraniteMoe, &kGlm4,       &kGlm4Moe,  &kCohere,
    &kCohere2,       &kExaone4,   &kSeedOss,      &kErnie,      &kErnieMoe,   &kNemotron, &kOlmo,
    &kPhi,           &kInternLm3, &kMistral3,     &kBloom,      &kGptBigcode, &kOpt,      &kGptNeo,
    &kMinimaxM2,     &kQwen3Next, &kQwen35,       &kQwen35Moe,  &kLfm2,       &kLfm2Moe,  &kMamba2,
    &kGraniteHybrid, &kNemotronH, &kNemotronHMoe, &kFalconH1,   &kOlmoHybrid, &kLfm3,     &kMamba,
    &kJamba,         &kGriffin,   &kGraniteSwa,   &kRwkv,       &kDeepseek2,  &kMistral4, &kMinicpm3,
    &kKimiLinear,    &kZamba2,    &kHunyuan,      &kHunyuanMoe, &kApertus,    &kPhimoe,   &kLaguna,
    &kMimo2,         &kBitnet,    &kLlama4,
};

}  // namespace

std::span<const Family* const> FamilyTable() { return kFamilies; }

const Family& FindFamily(const Hyperparameters& hyper) {
  std::string known;
  for (const Family* family : kFamilies) {
    const auto names = hyper.container == Container::kSafetensors ? family->folder_types : family->gguf_names;
    for (const std::string_view name : names) {
      const bool may_be = family->is_of == nullptr || hyper.container != Container::kSafetensors;
      if (name == hyper.architecture && (may_be || family->is_of(hyper))) return *family;
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", family->name);
  }
  Fail(ErrorKind::kUnsupported, "{}: models of the architecture '{}' are not supported (known: {})",
       hyper.path, hyper.architecture, known);
}

}  // namespace mneme
