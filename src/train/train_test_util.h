// Helpers of this folder's tests: a small decoder, sequences of random ids, a scratch folder.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/random.h"
#include "train/data/data.h"
#include "train/decoder.h"

namespace mneme::train::testing {

// 3 layers of width 16, 4 heads of 8 over 2 KV heads.
inline ModelSettings SmallModel() {
  ModelSettings settings;
  settings.num_layers = 3;
  settings.model_dim = 16;
  settings.num_heads = 4;
  settings.num_kv_heads = 2;
  settings.head_dim = 8;
  settings.ffn_dim = 24;
  return settings;
}

inline MemorySettings Attention(const std::string& kind, int64_t segment, int64_t previous = 0,
                                const std::string& update = "gated-delta") {
  MemorySettings settings;
  settings.attention = kind;
  settings.segment = segment;
  settings.previous = previous;
  settings.update = update;
  settings.knn_size = 3 * segment;
  settings.knn_neighbours = 3;
  return settings;
}

inline Batch RandomBatch(int64_t batch, int64_t num_segments, int64_t segment, int64_t vocab_size,
                         uint64_t seed) {
  Random random(seed);
  Batch result;
  result.batch = batch;
  result.num_segments = num_segments;
  result.segment = segment;
  for (int64_t i = 0; i < batch * num_segments * segment; ++i) {
    result.tokens.push_back(static_cast<int64_t>(random.Below(static_cast<uint64_t>(vocab_size))));
    result.targets.push_back(static_cast<int64_t>(random.Below(static_cast<uint64_t>(vocab_size))));
    result.weights.push_back(i % 3 == 0 ? 1.0f : 0.25f);
  }
  result.resets.assign(static_cast<size_t>(batch * num_segments), 0.0f);
  for (int64_t row = 0; row < batch; ++row) result.resets[static_cast<size_t>(row * num_segments)] = 1;
  return result;
}

class ScratchFolder {
 public:
  ScratchFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("mneme-train-test-" + std::to_string(::getpid()) + "-" + std::to_string(++count));
    std::filesystem::create_directories(path_);
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return *this / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace mneme::train::testing
