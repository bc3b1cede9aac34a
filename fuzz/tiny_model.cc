#include "fuzz/tiny_model.h"

#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/files/file.h"
#include "base/random.h"
#include "formats/quant.h"
#include "formats/safetensors.h"

namespace mneme::fuzz {
namespace {

constexpr uint32_t kLayers = 2;
constexpr uint32_t kDim = 32;
constexpr uint32_t kHeads = 2;
constexpr uint32_t kKvHeads = 1;
constexpr uint32_t kFfn = 32;

const std::vector<std::string>& Pieces() {
  static const std::vector<std::string> pieces = {"<unk>",
                                                  "<s>",
                                                  "</s>",
                                                  "\xE2\x96\x81",
                                                  "a",
                                                  "b",
                                                  "c",
                                                  "d",
                                                  "e",
                                                  "t",
                                                  "h",
                                                  "ab",
                                                  "abc",
                                                  "th",
                                                  "the",
                                                  "\xE2\x96\x81the",
                                                  "\xE2\x96\x81"
                                                  "a",
                                                  "\n",
                                                  "\xC3\xA9",
                                                  "\xF0\x9F\x98\x80",
                                                  ".",
                                                  ",",
                                                  "ed",
                                                  "at"};
  return pieces;
}

struct Shape {
  std::string gguf_name;
  std::string folder_name;
  uint64_t rows;
  uint64_t cols;  // 0: a vector of `rows`
};

std::vector<Shape> Shapes() {
  const uint64_t head = kDim / kHeads;
  std::vector<Shape> shapes = {{"token_embd.weight", "model.embed_tokens.weight", kTinyVocab, kDim},
                               {"output_norm.weight", "model.norm.weight", kDim, 0},
                               {"output.weight", "lm_head.weight", kTinyVocab, kDim}};
  for (uint32_t i = 0; i < kLayers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    shapes.push_back({blk + "attn_norm.weight", layer + "input_layernorm.weight", kDim, 0});
    shapes.push_back({blk + "attn_q.weight", layer + "self_attn.q_proj.weight", kDim, kDim});
    shapes.push_back({blk + "attn_k.weight", layer + "self_attn.k_proj.weight", kKvHeads * head, kDim});
    shapes.push_back({blk + "attn_v.weight", layer + "self_attn.v_proj.weight", kKvHeads * head, kDim});
    shapes.push_back({blk + "attn_output.weight", layer + "self_attn.o_proj.weight", kDim, kDim});
    shapes.push_back({blk + "ffn_norm.weight", layer + "post_attention_layernorm.weight", kDim, 0});
    shapes.push_back({blk + "ffn_gate.weight", layer + "mlp.gate_proj.weight", kFfn, kDim});
    shapes.push_back({blk + "ffn_up.weight", layer + "mlp.up_proj.weight", kFfn, kDim});
    shapes.push_back({blk + "ffn_down.weight", layer + "mlp.down_proj.weight", kDim, kFfn});
  }
  return shapes;
}

std::vector<float> Values(const Shape& shape, Random& random) {
  std::vector<float> values(shape.rows * (shape.cols == 0 ? 1 : shape.cols));
  for (float& value : values) {
    value = shape.cols == 0 ? 1.0f : static_cast<float>(random.Normal() * 0.2);
  }
  return values;
}

// Protobuf, as little of it as a SentencePiece model needs.
void PutVarint(std::string* out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}
void PutField(std::string* out, int field, std::string_view bytes) {
  PutVarint(out, static_cast<uint64_t>(field) << 3 | 2);
  PutVarint(out, bytes.size());
  out->append(bytes);
}
void PutField(std::string* out, int field, uint64_t value) {
  PutVarint(out, static_cast<uint64_t>(field) << 3);
  PutVarint(out, value);
}
void PutField(std::string* out, int field, float value) {
  PutVarint(out, static_cast<uint64_t>(field) << 3 | 5);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) out->push_back(static_cast<char>(bits >> shift));
}

std::string Base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j) {
      text.push_back(i + j > bytes.size() ? '=' : kAlphabet[group >> (18 - 6 * j) & 63]);
    }
  }
  return text;
}

// UTF-8 of a character below U+0800.
std::string Utf8(uint32_t character) {
  if (character < 0x80) return {static_cast<char>(character)};
  return {static_cast<char>(0xC0 | character >> 6), static_cast<char>(0x80 | (character & 63))};
}

// The printable alphabet of byte-level BPE (GPT-2).
std::vector<std::string> ByteAlphabet() {
  std::vector<std::string> alphabet;
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    alphabet.push_back(Utf8(printable ? byte : next++));
  }
  return alphabet;
}

std::string JsonString(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    char name[] = "/tmp/mneme-fuzz-XXXXXX";
    MNEME_CHECK(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() {
    unlink(File().c_str());
    rmdir(path_.c_str());
  }
  std::string File() const { return path_ + "/file"; }

 private:
  std::string path_;
};

}  // namespace

GgufWriter TinyGguf(Encoding encoding) {
  GgufWriter writer;
  writer.Set("general.architecture", std::string("llama"));
  writer.Set("general.name", std::string("tiny"));
  writer.Set("llama.block_count", kLayers);
  writer.Set("llama.context_length", uint32_t{64});
  writer.Set("llama.embedding_length", kDim);
  writer.Set("llama.feed_forward_length", kFfn);
  writer.Set("llama.attention.head_count", kHeads);
  writer.Set("llama.attention.head_count_kv", kKvHeads);
  writer.Set("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  writer.Set("llama.rope.dimension_count", kDim / kHeads);
  writer.Set("llama.rope.freq_base", 10000.0f);
  writer.Set("llama.vocab_size", kTinyVocab);
  writer.Set("tokenizer.ggml.model", std::string("llama"));
  MNEME_CHECK(Pieces().size() == kTinyVocab);
  writer.SetArray("tokenizer.ggml.tokens", Pieces());
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (uint32_t id = 0; id < kTinyVocab; ++id) {
    scores.push_back(-static_cast<float>(id));
    types.push_back(id == 0 ? 2 : id < 3 ? 3 : 1);
  }
  writer.SetArray("tokenizer.ggml.scores", scores);
  writer.SetArray("tokenizer.ggml.token_type", types);
  writer.Set("tokenizer.ggml.bos_token_id", uint32_t{1});
  writer.Set("tokenizer.ggml.eos_token_id", uint32_t{2});
  writer.Set("tokenizer.ggml.unknown_token_id", uint32_t{0});
  Random random(1);
  for (const Shape& shape : Shapes()) {
    const std::vector<float> values = Values(shape, random);
    const Encoding stored = shape.cols == 0 ? Encoding::kF32 : encoding;
    std::string bytes(EncodedBytes(stored, values.size()), '\0');
    EncodeBlocks(stored, values.data(), values.size(), bytes.data());
    std::vector<uint64_t> sizes = {shape.rows};
    if (shape.cols != 0) sizes = {shape.cols, shape.rows};
    writer.AddTensor(shape.gguf_name, stored, sizes,
                     [bytes](const GgufSink& sink) { sink(bytes.data(), bytes.size()); });
  }
  return writer;
}

std::string GgufBytes(const GgufWriter& writer) {
  const TemporaryFolder folder;
  writer.Write(folder.File());
  return ReadWholeFile(folder.File());
}

std::string TinyConfigJson() {
  return R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":32,"intermediate_size":32,)"
         R"("num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":64,)"
         R"("rms_norm_eps":1e-5,"rope_theta":10000.0,"vocab_size":24,"hidden_act":"silu",)"
         R"("tie_word_embeddings":false,"torch_dtype":"float32"})";
}

std::string TinySafetensors() {
  const TemporaryFolder folder;
  Random random(1);
  std::vector<std::vector<float>> kept;
  SafetensorsWriter writer;
  for (const Shape& shape : Shapes()) {
    kept.push_back(Values(shape, random));
    std::vector<uint64_t> sizes = {shape.rows};
    if (shape.cols != 0) sizes.push_back(shape.cols);
    writer.Add(shape.folder_name, Encoding::kF32, sizes, kept.back().data());
  }
  writer.SetMetadata("format", "pt");
  writer.Write(folder.File());
  return ReadWholeFile(folder.File());
}

std::string TinyTokenizerJson() {
  const std::vector<std::string> alphabet = ByteAlphabet();
  const std::string space = alphabet[' '];
  std::string vocab, merges;
  int id = 0;
  const auto add = [&](const std::string& piece) {
    vocab += (id == 0 ? "" : ",") + JsonString(piece) + ":" + std::to_string(id);
    ++id;
  };
  const auto merge = [&](const std::string& a, const std::string& b) {
    merges += (merges.empty() ? "" : ",") + JsonString(a + " " + b);
    add(a + b);
  };
  for (const std::string& piece : alphabet) add(piece);
  merge("t", "h");
  merge("th", "e");
  merge(space, "the");
  merge(space, "a");
  merge("a", "n");
  merge("1", "2");
  merge(alphabet[0xC3], alphabet[0xA9]);
  merge(space, space);
  const std::string end = std::to_string(id);
  return R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":)" + end +
         R"(,"content":"<|end|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,)"
         R"("special":true}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,)"
         R"("trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel",)"
         R"("add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,)"
         R"("unk_token":null,"continuing_subword_prefix":"","end_of_word_suffix":"","fuse_unk":false,)"
         R"("byte_fallback":false,"vocab":{)" +
         vocab + R"(},"merges":[)" + merges + "]}}";
}

std::string TinySentencePiece(int model_type) {
  std::string model;
  const auto add = [&](std::string_view text, float score, uint64_t type) {
    std::string piece;
    PutField(&piece, 1, text);
    PutField(&piece, 2, score);
    if (type != 1) PutField(&piece, 3, type);
    PutField(&model, 1, std::string_view(piece));
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  add("<user>", 0, 4);
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    add(name, 0, 6);
  }
  float score = -1;
  for (size_t i = 3; i < Pieces().size(); ++i) add(Pieces()[i], score -= 0.5f, 1);
  std::string trainer, normalizer;
  PutField(&trainer, 3, static_cast<uint64_t>(model_type));
  PutField(&trainer, 35, uint64_t{1});  // byte_fallback
  PutField(&model, 2, std::string_view(trainer));
  PutField(&normalizer, 1, std::string_view("identity"));
  PutField(&normalizer, 3, uint64_t{1});                // add_dummy_prefix
  PutField(&normalizer, 4, uint64_t{model_type == 1});  // remove_extra_whitespaces
  PutField(&model, 3, std::string_view(normalizer));
  return model;
}

std::string TinyRanks() {
  std::string ranks;
  int rank = 0;
  const auto add = [&](std::string_view bytes) {
    ranks += Base64(bytes) + " " + std::to_string(rank++) + "\n";
  };
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    add(std::string_view(&c, 1));
  }
  for (const std::string_view piece :
       {"th", "he",       "the",      " the",         " a",  "an", "in",  "12", "  ",   "\n\n",
        "'s", "\xC3\xA9", "\xE4\xB8", "\xE4\xB8\xAD", "The", "ed", "123", " (", "\r\n", "AB"}) {
    add(piece);
  }
  return ranks;
}

}  // namespace mneme::fuzz
