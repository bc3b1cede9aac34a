#include "formats/llama2c.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace mneme {
namespace {

constexpr uint32_t kMagic = 0x616b3432;  // "ak42" as a big-endian word
constexpr size_t kVersion1HeaderBytes = 256;
constexpr int64_t kMaxSize = int64_t{1} << 24;  // of any dimension: a product of two fits easily
constexpr int64_t kMaxLayers = 4096;

int32_t LoadInt(std::span<const uint8_t> bytes, size_t offset) {
  int32_t value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

bool HasMagic(std::span<const uint8_t> bytes) {
  return bytes.size() >= 4 && static_cast<uint32_t>(LoadInt(bytes, 0)) == kMagic;
}

bool IsPlausible(const Llama2cConfig& c) {
  const auto is_size = [](int64_t value) { return value >= 1 && value <= kMaxSize; };
  return is_size(c.model_dim) && is_size(c.ffn_dim) && c.num_layers >= 1 && c.num_layers <= kMaxLayers &&
         is_size(c.num_heads) && is_size(c.num_kv_heads) && is_size(c.vocab_size) &&
         is_size(c.max_positions) && c.model_dim % c.num_heads == 0 && c.num_heads % c.num_kv_heads == 0 &&
         c.model_dim / c.num_heads % 2 == 0;
}

// The seven integers that both versions share, from `offset` on.
Llama2cConfig LoadConfig(std::span<const uint8_t> bytes, size_t offset, int version) {
  Llama2cConfig config;
  config.version = version;
  config.model_dim = LoadInt(bytes, offset);
  config.ffn_dim = LoadInt(bytes, offset + 4);
  config.num_layers = LoadInt(bytes, offset + 8);
  config.num_heads = LoadInt(bytes, offset + 12);
  config.num_kv_heads = LoadInt(bytes, offset + 16);
  config.vocab_size = LoadInt(bytes, offset + 20);
  config.max_positions = LoadInt(bytes, offset + 24);
  if (version == 0) {
    // The sign of the vocabulary size says whether the classifier is the embedding.
    config.shared_classifier = config.vocab_size > 0;
    config.vocab_size = std::abs(config.vocab_size);
  } else {
    config.shared_classifier = bytes[offset + 28] == 1;
  }
  return config;
}

// Hands out consecutive tensors of a file.
class Cutter {
 public:
  Cutter(std::span<const uint8_t> bytes, size_t position, const std::string& path,
         std::vector<Llama2cTensor>& tensors)
      : bytes_(bytes), position_(position), path_(path), tensors_(tensors) {}

  void Take(std::string name, std::vector<uint64_t> shape) {
    uint64_t bytes = sizeof(float);
    for (const uint64_t size : shape) bytes *= size;
    const uint8_t* data = bytes_.data() + position_;
    Skip(bytes, name);
    tensors_.push_back({std::move(name), std::move(shape), data, bytes});
  }

  void TakePerLayer(int64_t num_layers, std::string_view name, const std::vector<uint64_t>& shape) {
    for (int64_t layer = 0; layer < num_layers; ++layer) Take(fmt::format("blk.{}.{}", layer, name), shape);
  }

  void Skip(uint64_t bytes, std::string_view what) {
    if (bytes > bytes_.size() - position_) {
      Fail(ErrorKind::kFile, "{}: ends inside {}: it is cut short or not a llama2.c checkpoint", path_, what);
    }
    position_ += bytes;
  }

  uint64_t Left() const { return bytes_.size() - position_; }

 private:
  std::span<const uint8_t> bytes_;
  size_t position_;
  const std::string& path_;
  std::vector<Llama2cTensor>& tensors_;
};

struct Shapes {
  explicit Shapes(const Llama2cConfig& c)
      : dim(c.model_dim),
        ffn(c.ffn_dim),
        kv(c.model_dim / c.num_heads * c.num_kv_heads),
        vocab(c.vocab_size) {}
  uint64_t dim, ffn, kv, vocab;
};

void TakeAttention(Cutter& cutter, int64_t num_layers, const Shapes& s) {
  cutter.TakePerLayer(num_layers, "attn_q.weight", {s.dim, s.dim});
  cutter.TakePerLayer(num_layers, "attn_k.weight", {s.kv, s.dim});
  cutter.TakePerLayer(num_layers, "attn_v.weight", {s.kv, s.dim});
  cutter.TakePerLayer(num_layers, "attn_output.weight", {s.dim, s.dim});
}

void TakeFeedForward(Cutter& cutter, int64_t num_layers, const Shapes& s) {
  cutter.TakePerLayer(num_layers, "ffn_gate.weight", {s.ffn, s.dim});
  cutter.TakePerLayer(num_layers, "ffn_down.weight", {s.dim, s.ffn});
  cutter.TakePerLayer(num_layers, "ffn_up.weight", {s.ffn, s.dim});
}

void CutVersion0(Cutter& cutter, const Llama2cConfig& config) {
  const Shapes s(config);
  cutter.Take("token_embd.weight", {s.vocab, s.dim});
  cutter.TakePerLayer(config.num_layers, "attn_norm.weight", {s.dim});
  TakeAttention(cutter, config.num_layers, s);
  cutter.TakePerLayer(config.num_layers, "ffn_norm.weight", {s.dim});
  TakeFeedForward(cutter, config.num_layers, s);
  cutter.Take("output_norm.weight", {s.dim});
  // Cosines and sines of RoPE, max_positions x head_dim / 2 each: derived numbers that nobody needs.
  const auto table_values =
      static_cast<uint64_t>(config.max_positions * (config.model_dim / config.num_heads));
  cutter.Skip(table_values * sizeof(float), "the RoPE tables");
  if (!config.shared_classifier) cutter.Take("output.weight", {s.vocab, s.dim});
}

void CutVersion1(Cutter& cutter, const Llama2cConfig& config) {
  const Shapes s(config);
  cutter.TakePerLayer(config.num_layers, "attn_norm.weight", {s.dim});
  cutter.TakePerLayer(config.num_layers, "ffn_norm.weight", {s.dim});
  cutter.Take("output_norm.weight", {s.dim});
  cutter.Take("token_embd.weight", {s.vocab, s.dim});
  TakeAttention(cutter, config.num_layers, s);
  TakeFeedForward(cutter, config.num_layers, s);
  if (!config.shared_classifier) cutter.Take("output.weight", {s.vocab, s.dim});
}

}  // namespace

Llama2cFile::Llama2cFile(const std::string& path) : mapping_(path), path_(path) { Parse(mapping_.bytes()); }

Llama2cFile Llama2cFile::FromBytes(std::span<const uint8_t> bytes, std::string name) {
  Llama2cFile file;
  file.path_ = std::move(name);
  file.Parse(bytes);
  return file;
}

bool Llama2cFile::Recognize(std::span<const uint8_t> bytes) {
  if (HasMagic(bytes)) return true;
  if (bytes.size() < 28 || !IsPlausible(LoadConfig(bytes, 0, 0))) return false;
  try {
    FromBytes(bytes);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void Llama2cFile::Parse(std::span<const uint8_t> bytes) {
  size_t header_bytes = 28;
  if (HasMagic(bytes)) {
    header_bytes = kVersion1HeaderBytes;
    if (bytes.size() < header_bytes) Fail(ErrorKind::kFile, "{}: ends inside its header", path_);
    const int32_t version = LoadInt(bytes, 4);
    if (version != 1) {
      Fail(ErrorKind::kUnsupported,
           "{}: is a llama2.c checkpoint of version {}; versions 0 and 1 (F32) can be read", path_, version);
    }
    config_ = LoadConfig(bytes, 8, 1);
  } else {
    if (bytes.size() < header_bytes) {
      Fail(ErrorKind::kFile, "{}: has {} bytes, too few for a llama2.c checkpoint", path_, bytes.size());
    }
    config_ = LoadConfig(bytes, 0, 0);
  }
  if (!IsPlausible(config_)) {
    Fail(ErrorKind::kFile,
         "{}: its header (dim {}, hidden {}, layers {}, heads {}, kv heads {}, vocabulary {}, positions {}) "
         "is "
         "not that of a llama2.c checkpoint",
         path_, config_.model_dim, config_.ffn_dim, config_.num_layers, config_.num_heads,
         config_.num_kv_heads, config_.vocab_size, config_.max_positions);
  }
  Cutter cutter(bytes, header_bytes, path_, tensors_);
  if (config_.version == 0) {
    CutVersion0(cutter, config_);
  } else {
    CutVersion1(cutter, config_);
  }
  if (cutter.Left() != 0) {
    Fail(ErrorKind::kFile, "{}: {} bytes follow the last tensor: the header does not match the file", path_,
         cutter.Left());
  }
  by_name_.resize(tensors_.size());
  for (size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = static_cast<uint32_t>(i);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return tensors_[a].name < tensors_[b].name; });
}

const Llama2cTensor* Llama2cFile::FindTensor(std::string_view name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](uint32_t index, std::string_view wanted) { return tensors_[index].name < wanted; });
  return found == by_name_.end() || tensors_[*found].name != name ? nullptr : &tensors_[*found];
}

Llama2cVocabulary ParseLlama2cVocabulary(std::span<const uint8_t> bytes, const std::string& name,
                                         size_t expected_pieces) {
  if (bytes.size() < 4) Fail(ErrorKind::kFile, "{}: is too short for a llama2.c vocabulary", name);
  Llama2cVocabulary vocabulary;
  vocabulary.max_piece_bytes = LoadInt(bytes, 0);
  size_t position = 4;
  while (position < bytes.size()) {
    const size_t index = vocabulary.pieces.size();
    if (bytes.size() - position < 8) Fail(ErrorKind::kFile, "{}: ends inside piece {}", name, index);
    float score;
    std::memcpy(&score, bytes.data() + position, sizeof(score));
    const int32_t length = LoadInt(bytes, position + 4);
    position += 8;
    if (length < 0 || length > vocabulary.max_piece_bytes ||
        static_cast<size_t>(length) > bytes.size() - position) {
      Fail(ErrorKind::kFile, "{}: piece {} claims {} bytes; the longest is said to have {} and {} are left",
           name, index, length, vocabulary.max_piece_bytes, bytes.size() - position);
    }
    vocabulary.pieces.emplace_back(reinterpret_cast<const char*>(bytes.data() + position), length);
    vocabulary.scores.push_back(score);
    position += static_cast<size_t>(length);
  }
  if (expected_pieces != 0 && vocabulary.pieces.size() != expected_pieces) {
    Fail(ErrorKind::kFile, "{}: has {} pieces; the model has {}", name, vocabulary.pieces.size(),
         expected_pieces);
  }
  return vocabulary;
}

Llama2cVocabulary ReadLlama2cVocabulary(const std::string& path, size_t expected_pieces) {
  const MappedFile file(path);
  return ParseLlama2cVocabulary(file.bytes(), path, expected_pieces);
}

}  // namespace mneme
