// What a training run is made of, read from a TOML file. One table (config.cc) holds every key with its
// limits and its meaning: the reader, the reference that `mneme train --reference` prints and the canonical
// text that a checkpoint carries all come from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mneme::train {

// [model]
struct ModelSettings {
  int64_t num_layers = 4;
  int64_t model_dim = 128;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 4;
  int64_t head_dim = 32;
  int64_t ffn_dim = 384;
  double rope_base = 10000;
  double norm_epsilon = 1e-5;
  bool tied_head = true;
  bool qkv_bias = false;
  int64_t position_heads = 0;
  std::string name = "mneme-tiny";
  std::string base;  // adapt: the model to start from
  std::string sink = "none";
};

// [memory]
struct MemorySettings {
  std::string attention = "infini";
  int64_t segment = 128;
  int64_t previous = 0;
  std::string update = "gated-delta";
  std::string first = "bypass";
  double gate_init = 0;
  double write_init = 0;
  bool key_shift = false;
  double write_floor = 0;
  double write_penalty = 0;
  int64_t knn_layer = -1;
  int64_t knn_size = 8192;
  int64_t knn_neighbours = 32;
};

// [vocabulary]
struct VocabularySettings {
  std::string path;
  std::string kind = "bpe";
  int64_t size = 1024;
  int64_t sample_bytes = 4 << 20;
  std::string pause_token = "<pause>";
  std::string backspace_token = "<backspace>";
  std::string sink_token = "<s>";
};

// [[source]]
struct SourceSettings {
  std::string kind;
  double weight = 1;
  std::vector<std::string> files;
  std::string order = "random";
  std::string separator;
  int64_t min_items = 1;
  int64_t max_items = 1;
  double max_statements_share = 0.5;
  double filler_loss = 0.03;
  double digit_repeats = 0;
  double pause_rate = 0;
  int64_t answer_pauses = 0;
  double backspace_rate = 0;
  int64_t backspace_length = 1;
  double backspace_near = 0.5;
};

// [[stage]]
struct StageSettings {
  int64_t steps = 1000;
  int64_t min_segments = 2;
  int64_t max_segments = 4;
  int64_t batch = 8;
  double write_penalty = -1;
  double carry = 0;
  std::vector<int64_t> weights;
};

// [train]
struct OptimizerSettings {
  double learning_rate = 2e-3;
  double final_share = 0.1;
  int64_t warmup = 100;
  double gate_learning_rate = 1e-2;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double clip = 1;
  int64_t micro_batch = 0;
  bool recompute = false;
  std::string trainable = "all";
  int64_t lora_rank = 8;
  double lora_alpha = 16;
  std::string device = "cpu";
  std::string precision = "f32";
  int64_t num_threads = 1;
  int64_t seed = 1;
  int64_t checkpoint_every = 200;
  int64_t evaluate_every = 0;
  std::vector<int64_t> evaluate_segments = {4, 16, 64};
  int64_t evaluate_trials = 16;
  std::vector<std::string> evaluate_files;
  int64_t evaluate_tokens = 1 << 16;
  int64_t evaluate_reset = -1;
  double z_limit = 1e9;
};

struct TrainConfig {
  std::string path;  // of the file, for messages
  std::string out;   // folder of the run
  ModelSettings model;
  MemorySettings memory;
  VocabularySettings vocabulary;
  OptimizerSettings train;
  std::vector<SourceSettings> sources;
  std::vector<StageSettings> stages;

  int64_t num_steps() const;
};

// Reads and checks a configuration. Paths in it are taken from the file's own folder unless absolute. Throws
// Error(kInput) with file, line and key for a key that is not known, a value of another type or outside its
// limits, or settings that contradict each other; Error(kFile) for a file that cannot be read.
// `changes` are "section.key=value" (or "out=value") and win over the file; a value that is no TOML value is
// text.
TrainConfig LoadTrainConfig(const std::string& path, const std::vector<std::string>& changes = {});
TrainConfig ParseTrainConfig(std::string_view text, const std::string& path,
                             const std::vector<std::string>& changes = {});

// Every key with its type, default and meaning, for people.
std::string TrainConfigReference();

// "key = value" of every setting that shapes the weights (model, memory, trainable): equal texts mean that
// a checkpoint fits.
std::string ShapeText(const TrainConfig& config);

}  // namespace mneme::train
