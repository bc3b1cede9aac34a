// A hostile GGUF file: the reader, the vocabulary in its metadata, and the whole way to a token, where the
// file gets that far.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/budget.h"
#include "context/registry.h"
#include "formats/gguf.h"
#include "formats/quant.h"
#include "fuzz/guard.h"
#include "fuzz/load_from_bytes.h"
#include "kernels/cpu_device.h"
#include "mneme/tokenizer.h"
#include "model/runner.h"
#include "tokenizer/load/load_gguf.h"

namespace mneme::fuzz {
namespace {

void ReadEverything(const GgufFile& file) {
  for (const GgufValue& value : file.metadata()) {
    MNEME_CHECK(file.FindValue(value.key) != nullptr);
    value.ToString();
    Accepts([&] { file.GetUint(value.key); });
    Accepts([&] { file.GetInt(value.key); });
    Accepts([&] { file.GetFloat(value.key); });
    Accepts([&] { file.GetStringArray(value.key); });
    Accepts([&] { file.GetFloatArray(value.key); });
    Accepts([&] { file.GetIntArray(value.key); });
  }
  for (const GgufTensor& tensor : file.tensors()) {
    MNEME_CHECK(file.FindTensor(tensor.name) != nullptr);
    const size_t block = EncodingBlockValues(tensor.encoding);
    if (!CanDecode(tensor.encoding) || tensor.num_values() < block) continue;
    std::vector<float> values(block);
    DecodeBlocks(tensor.encoding, tensor.data, block, values.data());
    DecodeBlocks(tensor.encoding, tensor.data + tensor.bytes - EncodingBlockBytes(tensor.encoding), block,
                 values.data());
  }
}

// Loads the model and runs a few tokens, if it is small.
void RunModel(const uint8_t* data, size_t size) {
  static CpuDevice device(1);
  const std::shared_ptr<const LoadedModel> model = LoadFromBytes(data, size, device);
  const ModelPlan& plan = model->plan();
  if (plan.num_layers() * plan.model_dim > 4096 || plan.vocab_size == 0) return;
  Budget budget(size_t{16} << 20);
  ContextSettings settings;
  settings.spec = "sinks:sinks=1,window=4";
  settings.max_chunk = 4;
  settings.max_rewind = 1;
  const ContextSettings resolved =
      ResolveContext(model->context_shape(), settings, budget.cap_bytes(), -1).settings;
  const std::unique_ptr<Context> context =
      MakeContext(model->context_shape(), resolved, budget, device.num_threads());
  Runner runner(*model, 4, device, budget);
  std::vector<TokenId> tokens;
  for (size_t i = 0; i < 3; ++i) tokens.push_back(static_cast<TokenId>(i % plan.vocab_size));
  const ForwardChunk chunk{.context = context.get(), .tokens = tokens};
  for (int i = 0; i < 3; ++i) {
    runner.Forward({&chunk, 1}, [&](size_t, size_t, std::span<const float> logits) {
      MNEME_CHECK(logits.size() == plan.vocab_size);
    });
  }
}

}  // namespace
}  // namespace mneme::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using mneme::fuzz::Accepts;
  const bool is_gguf = Accepts([&] {
    const mneme::GgufFile file = mneme::GgufFile::FromBytes({data, size});
    mneme::fuzz::ReadEverything(file);
    Accepts([&] { mneme::LoadTokenizer(file).Encode("the cat, at 12 \xC3\xA9"); });
  });
  if (is_gguf) Accepts([&] { mneme::fuzz::RunModel(data, size); });
  return 0;
}
