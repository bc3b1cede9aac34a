// Helpers of this folder's tests.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/budget.h"
#include "base/files/file.h"
#include "context/registry.h"
#include "formats/gguf.h"
#include "kernels/cpu_device.h"
#include "model/convert/random_model.h"
#include "model/runner.h"

namespace mneme::testing {

inline std::vector<TokenId> ReadIds(const std::string& path) {
  std::ifstream file(path);
  std::vector<TokenId> ids;
  for (TokenId id; file >> id;) ids.push_back(id);
  return ids;
}

inline std::vector<float> ReadFloats(const std::string& path) {
  const std::string bytes = ReadWholeFile(path);
  std::vector<float> values(bytes.size() / sizeof(float));
  bytes.copy(reinterpret_cast<char*>(values.data()), values.size() * sizeof(float));
  return values;
}

inline std::shared_ptr<const LoadedModel> LoadModel(const std::string& path, PackMode pack = PackMode::kNever,
                                                    size_t num_threads = 1,
                                                    const std::string& tokenizer = "") {
  CpuDevice device(num_threads);
  ModelOptions options;
  options.pack = pack;
  options.tokenizer = tokenizer;
  return LoadedModel::Load(path, options, device);
}

inline std::unique_ptr<Context> DenseContext(const LoadedModel& model, const Budget& budget,
                                             size_t num_threads, int64_t max_chunk = 512) {
  ContextSettings settings;
  settings.spec = "dense";
  settings.key_encoding = Encoding::kF32;
  settings.value_encoding = Encoding::kF32;
  settings.max_chunk = max_chunk;
  return MakeContext(model.context_shape(), settings, budget, num_threads);
}

// Logits after each token, fed in chunks.
inline std::vector<float> EngineLogits(const LoadedModel& model, std::span<const TokenId> tokens,
                                       size_t chunk = 64, size_t num_threads = 1) {
  CpuDevice device(num_threads);
  Budget budget;
  Runner runner(model, static_cast<int64_t>(chunk), device, budget);
  const auto context = DenseContext(model, budget, num_threads, static_cast<int64_t>(chunk));
  std::vector<float> result;
  for (size_t first = 0; first < tokens.size(); first += chunk) {
    ForwardChunk part;
    part.context = context.get();
    part.tokens = tokens.subspan(first, std::min(chunk, tokens.size() - first));
    part.all_logits = true;
    runner.Forward({&part, 1}, [&](size_t, size_t, std::span<const float> logits) {
      result.insert(result.end(), logits.begin(), logits.end());
    });
  }
  return result;
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mneme_model_XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A small random llama as a GGUF file that tests then damage.
inline std::string WriteTiny(const TemporaryFolder& folder, Encoding encoding = Encoding::kF32,
                             const std::string& shape = "tiny") {
  const std::string path = folder / "tiny.gguf";
  CpuDevice device(1);
  NoProgress progress;
  WriteRandomModel(ParseRandomShape(shape), encoding, 7, path, device.pool(), progress);
  return path;
}

// Copies a GGUF file with changes to its metadata and tensors.
using Change = std::function<void(GgufWriter&)>;
using Keep = std::function<bool(const GgufTensor&)>;
inline std::string Rewrite(const std::string& from, const std::string& to, const Change& change,
                           const Keep& keep) {
  const GgufFile file(from);
  GgufWriter writer;
  change(writer);
  writer.CopyAllMetadata(file);
  for (const GgufTensor& tensor : file.tensors()) {
    if (keep(tensor)) writer.AddTensor(tensor.name, tensor.encoding, tensor.shape, tensor.data);
  }
  writer.Write(to);
  return to;
}

inline const Change kNoChange = [](GgufWriter&) {};
inline const Keep kKeepAll = [](const GgufTensor&) { return true; };

}  // namespace mneme::testing
