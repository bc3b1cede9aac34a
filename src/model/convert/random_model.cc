#include "model/convert/random_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "base/text/units.h"
#include "formats/gguf.h"
#include "formats/quant.h"
#include "model/convert/convert.h"
#include "model/engine.h"

namespace mneme {
namespace {

const RandomShape kShapes[] = {
    {"tinyllama-1.1b", 22, 2048, 32, 4, 5632, 32000, 2048, false},
    {"smollm-135m", 30, 576, 9, 3, 1536, 49152, 2048, true},
    {"stories15m", 6, 288, 6, 6, 768, 32000, 256, true},
    {"tiny", 2, 64, 4, 2, 128, 512, 128, false},
};

constexpr size_t kNumByteTokens = 259;  // <unk>, <s>, </s>, 256 bytes
constexpr size_t kPatternValues = size_t{1} << 20;

void CheckShape(const RandomShape& s) {
  const bool is_positive = s.num_layers > 0 && s.model_dim > 0 && s.num_heads > 0 && s.num_kv_heads > 0 &&
                           s.ffn_dim > 0 && s.trained_length > 0;
  if (!is_positive || s.num_layers > 1000 || s.model_dim > 65536 || s.ffn_dim > 1 << 20 ||
      s.vocab_size > 1 << 22 || s.model_dim % s.num_heads != 0 || s.num_heads % s.num_kv_heads != 0 ||
      s.model_dim / s.num_heads % 2 != 0) {
    Fail(ErrorKind::kInput,
         "random shape '{}': heads must divide the dimension into even parts and KV heads must divide the "
         "heads",
         s.name);
  }
  if (s.num_experts > 4096 || s.num_used_experts > s.num_experts ||
      (s.num_experts > 0 && s.num_used_experts == 0)) {
    Fail(ErrorKind::kInput, "random shape '{}': a token uses 1 to {} of {} experts", s.name, s.num_experts,
         s.num_experts);
  }
  if (s.vocab_size < kNumByteTokens) {
    Fail(ErrorKind::kInput, "random shape '{}': the vocabulary needs at least {} tokens", s.name,
         kNumByteTokens);
  }
}

// Words of consonants and vowels, told apart by a counter.
std::string MadeUpWord(size_t index) {
  static constexpr std::string_view kConsonants = "bdfgklmnprstvz";
  static constexpr std::string_view kVowels = "aeiou";
  std::string word = "\xE2\x96\x81";
  do {
    word += kConsonants[index % kConsonants.size()];
    index /= kConsonants.size();
    word += kVowels[index % kVowels.size()];
    index /= kVowels.size();
  } while (index > 0);
  return word;
}

void AddVocabulary(size_t size, GgufWriter* writer) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
  }
  // Letters and short words first, as in a trained vocabulary: BPE reaches a word only through pieces of it.
  std::vector<std::string> words;
  words.push_back("\xE2\x96\x81");
  for (char letter = 'a'; letter <= 'z'; ++letter) words.emplace_back(1, letter);
  for (size_t i = 0; tokens.size() + words.size() < size; ++i) words.push_back(MadeUpWord(i));
  for (size_t i = 0; tokens.size() < size; ++i) {
    tokens.push_back(words[i]);
    types.push_back(1);
  }
  std::vector<float> scores(size, 0.0f);
  for (size_t i = kNumByteTokens; i < size; ++i) scores[i] = -static_cast<float>(i - kNumByteTokens);
  writer->Set("tokenizer.ggml.model", std::string("llama"));
  writer->SetArray("tokenizer.ggml.tokens", tokens);
  writer->SetArray("tokenizer.ggml.scores", scores);
  writer->SetArray("tokenizer.ggml.token_type", types);
  writer->Set("tokenizer.ggml.bos_token_id", uint32_t{1});
  writer->Set("tokenizer.ggml.eos_token_id", uint32_t{2});
  writer->Set("tokenizer.ggml.unknown_token_id", uint32_t{0});
  writer->Set("tokenizer.ggml.add_bos_token", true);
}

// Standard normal values, scaled so that a product keeps the size of its input, encoded once and then
// repeated from a random block on.
class MatrixPattern {
 public:
  MatrixPattern(Encoding encoding, size_t num_cols, uint64_t seed, ThreadPool& pool) : encoding_(encoding) {
    const size_t step = 4096;
    const size_t num_parts = kPatternValues / step;
    encoded_.resize(EncodedBytes(encoding, kPatternValues));
    pool.Run(num_parts, [&](size_t part, size_t) {
      Random random(seed + part);
      std::vector<float> values(step);
      const double scale = 1 / std::sqrt(static_cast<double>(num_cols));
      for (float& value : values) value = static_cast<float>(random.Normal() * scale);
      EncodeBlocks(encoding_, values.data(), step, encoded_.data() + EncodedBytes(encoding_, part * step));
    });
  }

  void Produce(size_t num_values, uint64_t seed, const GgufSink& sink) const {
    const size_t block_bytes = EncodingBlockBytes(encoding_);
    const size_t num_blocks = encoded_.size() / block_bytes;
    size_t left = num_values / EncodingBlockValues(encoding_);
    Random random(seed);
    while (left > 0) {
      const size_t first = random.Below(num_blocks);
      const size_t count = std::min(left, num_blocks - first);
      sink(encoded_.data() + first * block_bytes, count * block_bytes);
      left -= count;
    }
  }

 private:
  Encoding encoding_;
  std::vector<uint8_t> encoded_;
};

}  // namespace

std::vector<std::string_view> RandomShapeNames() {
  std::vector<std::string_view> names;
  for (const RandomShape& shape : kShapes) names.push_back(shape.name);
  return names;
}

RandomShape ParseRandomShape(std::string_view text) {
  for (const RandomShape& shape : kShapes) {
    if (shape.name == text) return shape;
  }
  if (text.find('=') == std::string_view::npos) {
    Fail(ErrorKind::kInput, "random shape '{}' is not known; take {} or layers=..,dim=..,heads=..", text,
         "tinyllama-1.1b, smollm-135m, stories15m, tiny");
  }
  RandomShape shape = kShapes[3];
  shape.name = text;
  const std::pair<std::string_view, size_t RandomShape::*> fields[] = {
      {"layers", &RandomShape::num_layers},     {"dim", &RandomShape::model_dim},
      {"heads", &RandomShape::num_heads},       {"kv_heads", &RandomShape::num_kv_heads},
      {"ffn", &RandomShape::ffn_dim},           {"vocab", &RandomShape::vocab_size},
      {"length", &RandomShape::trained_length}, {"experts", &RandomShape::num_experts},
      {"used", &RandomShape::num_used_experts},
  };
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    const size_t equals = item.find('=');
    const auto field = std::find_if(std::begin(fields), std::end(fields),
                                    [&](const auto& f) { return f.first == item.substr(0, equals); });
    if (equals == std::string_view::npos || field == std::end(fields)) {
      Fail(ErrorKind::kInput,
           "random shape: '{}' is not one of layers, dim, heads, kv_heads, ffn, vocab, length, experts, used",
           item);
    }
    shape.*(field->second) = static_cast<size_t>(ParseCount(item.substr(equals + 1), field->first));
  }
  CheckShape(shape);
  return shape;
}

void WriteRandomModel(const RandomShape& shape, Encoding encoding, uint64_t seed, const std::string& path,
                      ThreadPool& pool, Progress& progress, StopToken stop) {
  CheckShape(shape);
  if (!CanEncode(encoding)) {
    Fail(ErrorKind::kUnsupported, "weights cannot be written as {}", EncodingName(encoding));
  }
  GgufWriter writer;
  writer.Set("general.architecture", std::string("llama"));
  writer.Set("general.name", fmt::format("random {}", shape.name));
  writer.Set("llama.block_count", static_cast<uint32_t>(shape.num_layers));
  writer.Set("llama.embedding_length", static_cast<uint32_t>(shape.model_dim));
  writer.Set("llama.feed_forward_length", static_cast<uint32_t>(shape.ffn_dim));
  writer.Set("llama.attention.head_count", static_cast<uint32_t>(shape.num_heads));
  writer.Set("llama.attention.head_count_kv", static_cast<uint32_t>(shape.num_kv_heads));
  writer.Set("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  writer.Set("llama.context_length", static_cast<uint32_t>(shape.trained_length));
  writer.Set("llama.rope.dimension_count", static_cast<uint32_t>(shape.model_dim / shape.num_heads));
  writer.Set("llama.rope.freq_base", 10000.0f);
  writer.Set("llama.vocab_size", static_cast<uint32_t>(shape.vocab_size));
  if (shape.num_experts > 0) {
    writer.Set("llama.expert_count", static_cast<uint32_t>(shape.num_experts));
    writer.Set("llama.expert_used_count", static_cast<uint32_t>(shape.num_used_experts));
  }
  AddVocabulary(shape.vocab_size, &writer);

  const size_t kv_dim = shape.model_dim / shape.num_heads * shape.num_kv_heads;
  const std::vector<float> ones(shape.model_dim, 1.0f);
  std::vector<std::pair<std::pair<Encoding, size_t>, std::unique_ptr<MatrixPattern>>> patterns;
  int64_t done_bytes = 0;
  int64_t total_bytes = 0;
  uint64_t tensor_seed = seed * 0x9E3779B97F4A7C15u + 1;
  // Of one matrix, or of one for each expert.
  const auto add = [&](const std::string& name, size_t rows, size_t cols, size_t num_experts,
                       Encoding actual) {
    const std::pair<Encoding, size_t> key(actual, cols);
    auto found =
        std::find_if(patterns.begin(), patterns.end(), [&](const auto& p) { return p.first == key; });
    if (found == patterns.end()) {
      patterns.emplace_back(key, std::make_unique<MatrixPattern>(actual, cols, seed + (cols << 20), pool));
      found = patterns.end() - 1;
    }
    const MatrixPattern* const pattern = found->second.get();
    const size_t count = rows * cols * std::max<size_t>(num_experts, 1);
    total_bytes += static_cast<int64_t>(EncodedBytes(actual, count));
    std::vector<uint64_t> shape_of_file = {cols, rows};
    if (num_experts > 0) shape_of_file.push_back(num_experts);
    writer.AddTensor(name, actual, shape_of_file,
                     [&, pattern, count, this_seed = ++tensor_seed, actual](const GgufSink& sink) {
                       pattern->Produce(count, this_seed, sink);
                       if (stop.stop_requested())
                         Fail(ErrorKind::kInterrupted, "interrupted; nothing was written");
                       done_bytes += static_cast<int64_t>(EncodedBytes(actual, count));
                       progress.Update(done_bytes, total_bytes, "");
                     });
  };
  const auto add_matrix = [&](const std::string& name, size_t rows, size_t cols) {
    add(name, rows, cols, 0, EncodingForColumns(encoding, cols));
  };
  const auto add_experts = [&](const std::string& name, size_t rows, size_t cols) {
    add(name, rows, cols, shape.num_experts, EncodingForColumns(encoding, cols));
  };
  const auto add_norm = [&](const std::string& name) {
    writer.AddTensor(name, Encoding::kF32, {shape.model_dim}, ones.data());
  };
  add_matrix("token_embd.weight", shape.vocab_size, shape.model_dim);
  for (size_t layer = 0; layer < shape.num_layers; ++layer) {
    const auto name = [&](const char* part) { return fmt::format("blk.{}.{}.weight", layer, part); };
    add_norm(name("attn_norm"));
    add_matrix(name("attn_q"), shape.model_dim, shape.model_dim);
    add_matrix(name("attn_k"), kv_dim, shape.model_dim);
    add_matrix(name("attn_v"), kv_dim, shape.model_dim);
    add_matrix(name("attn_output"), shape.model_dim, shape.model_dim);
    add_norm(name("ffn_norm"));
    if (shape.num_experts > 0) {
      add(name("ffn_gate_inp"), shape.num_experts, shape.model_dim, 0, Encoding::kF32);
      add_experts(name("ffn_gate_exps"), shape.ffn_dim, shape.model_dim);
      add_experts(name("ffn_up_exps"), shape.ffn_dim, shape.model_dim);
      add_experts(name("ffn_down_exps"), shape.model_dim, shape.ffn_dim);
      continue;
    }
    add_matrix(name("ffn_gate"), shape.ffn_dim, shape.model_dim);
    add_matrix(name("ffn_up"), shape.ffn_dim, shape.model_dim);
    add_matrix(name("ffn_down"), shape.model_dim, shape.ffn_dim);
  }
  add_norm("output_norm.weight");
  if (!shape.tied_head) add_matrix("output.weight", shape.vocab_size, shape.model_dim);
  writer.Write(path);
  progress.Finish(FormatBytes(static_cast<size_t>(total_bytes)));
}

void WriteRandomModel(const Engine& engine, const RandomShape& shape, Encoding encoding, uint64_t seed,
                      const std::string& path, Progress& progress, StopToken stop) {
  WriteRandomModel(shape, encoding, seed, path, engine.impl().device.pool(), progress, stop);
}

}  // namespace mneme
