// A model whose weights are set by hand: two layers that copy what followed the last occurrence of the last
// four tokens. It answers recall questions exactly where its context lets it see the answer.
#pragma once

#include <fmt/core.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "formats/gguf.h"
#include "mneme/model.h"

namespace mneme::testing {

// Layer 0: head h attends to the token h + 1 before, by rotation alone, and puts its code into slot h + 1.
// Layer 1: the codes of this token and the three before are the query; those of the four before a token are
// its key; what it finds is the token that followed, and the head of the vocabulary reads that code.
class InductionModel {
 public:
  static constexpr size_t kCode = 32;    // dimensions of a token's code
  static constexpr size_t kSlots = 4;    // tokens that must agree
  static constexpr size_t kRotary = 32;  // rotated dimensions of a head: the distances of layer 0
  static constexpr size_t kHeadDim = kRotary + kSlots * kCode;
  static constexpr size_t kConstant = kCode * (kSlots + 2);  // after the token, the slots, and the result
  static constexpr size_t kModelDim = 224;
  static constexpr size_t kFfnDim = 32;
  static constexpr double kConstantValue = 2;

  // words: all that texts consist of, beside digits, newline, '.' and '?'.
  explicit InductionModel(const std::vector<std::string>& words) {
    tokens_ = {"<pad>", "</s>", "<unk>", "\xE2\x96\x81", "\n", ".", "?", ",", "\"", ":", "-"};
    for (char digit = '0'; digit <= '9'; ++digit) tokens_.emplace_back(1, digit);
    for (const std::string& word : words) {
      tokens_.push_back(word);
      tokens_.push_back("\xE2\x96\x81" + word);
    }
    DrawCodes();
    path_ = ::testing::TempDir() + fmt::format("mneme_induction_{}.gguf", getpid());
    WriteFile();
  }
  ~InductionModel() { std::remove(path_.c_str()); }

  const std::string& path() const { return path_; }

 private:
  using Matrix = std::vector<float>;

  // Codes of +-1 / sqrt(kCode) that agree with each other by 3/8 at most.
  void DrawCodes() {
    Random random(1);
    while (codes_.size() < tokens_.size()) {
      std::vector<int> code(kCode);
      for (int& value : code) value = random.Below(2) == 0 ? -1 : 1;
      bool is_far = true;
      for (const auto& other : codes_) {
        int product = 0;
        for (size_t i = 0; i < kCode; ++i) product += code[i] * other[i];
        is_far = is_far && std::abs(product) <= static_cast<int>(kCode) * 3 / 8;
      }
      if (is_far) codes_.push_back(code);
    }
  }

  static float& At(Matrix& matrix, size_t row, size_t col) { return matrix[row * kModelDim + col]; }

  // What the norm multiplies a residual of this squared length with.
  static double Gain(double squares) { return std::sqrt(static_cast<double>(kModelDim) / squares); }

  Matrix Embedding(double scale, bool with_constant, size_t column) const {
    Matrix matrix(tokens_.size() * kModelDim);
    for (size_t token = 0; token < tokens_.size(); ++token) {
      for (size_t i = 0; i < kCode; ++i)
        At(matrix, token, column + i) = static_cast<float>(scale * codes_[token][i] / std::sqrt(kCode));
      if (with_constant) At(matrix, token, kConstant) = kConstantValue;
    }
    return matrix;
  }

  void Layer0(Matrix& q, Matrix& k, Matrix& v, Matrix& o) const {
    constexpr double kSharpness = 400;
    const double gain = Gain(1 + kConstantValue * kConstantValue);
    const double from_constant = 1 / (gain * kConstantValue);
    for (size_t f = 0; f < kRotary / 2; ++f) {
      const double frequency = std::pow(100.0, -2.0 * static_cast<double>(f) / kRotary);
      At(k, 2 * f, kConstant) = static_cast<float>(from_constant);
      for (size_t head = 0; head < kSlots; ++head) {
        const double angle = frequency * static_cast<double>(head + 1);
        At(q, head * kHeadDim + 2 * f, kConstant) =
            static_cast<float>(kSharpness * from_constant * std::cos(angle));
        At(q, head * kHeadDim + 2 * f + 1, kConstant) =
            static_cast<float>(-kSharpness * from_constant * std::sin(angle));
      }
    }
    for (size_t i = 0; i < kCode; ++i) {
      At(v, i, i) = static_cast<float>(1 / gain);
      for (size_t head = 0; head < kSlots; ++head)
        o[(kCode * (head + 1) + i) * (kSlots * kHeadDim) + head * kHeadDim + i] = 1;
    }
  }

  void Layer1(Matrix& q, Matrix& k, Matrix& v, Matrix& o) const {
    constexpr double kSharpness = 700;
    const double gain = Gain(1 + kSlots + kConstantValue * kConstantValue);
    for (size_t i = 0; i < kSlots * kCode; ++i) {
      At(q, kRotary + i, i) = static_cast<float>(kSharpness / gain);
      At(k, kRotary + i, kCode + i) = static_cast<float>(1 / gain);
    }
    for (size_t i = 0; i < kCode; ++i) {
      At(v, i, i) = static_cast<float>(1 / gain);
      o[(kCode * (kSlots + 1) + i) * (kSlots * kHeadDim) + i] = 1;
    }
  }

  void WriteFile() const {
    GgufWriter writer;
    writer.Set("general.architecture", std::string("llama"));
    writer.Set("general.name", std::string("induction by hand"));
    writer.Set("llama.block_count", uint32_t{2});
    writer.Set("llama.embedding_length", uint32_t{kModelDim});
    writer.Set("llama.feed_forward_length", uint32_t{kFfnDim});
    writer.Set("llama.attention.head_count", uint32_t{kSlots});
    writer.Set("llama.attention.head_count_kv", uint32_t{1});
    writer.Set("llama.attention.key_length", uint32_t{kHeadDim});
    writer.Set("llama.attention.value_length", uint32_t{kHeadDim});
    writer.Set("llama.attention.layer_norm_rms_epsilon", 1e-9f);
    writer.Set("llama.context_length", uint32_t{4096});
    writer.Set("llama.rope.dimension_count", uint32_t{kRotary});
    writer.Set("llama.rope.freq_base", 100.0f);
    writer.Set("llama.vocab_size", static_cast<uint32_t>(tokens_.size()));
    std::vector<int32_t> types(tokens_.size(), 1);
    types[0] = types[1] = 3;
    types[2] = 2;
    writer.Set("tokenizer.ggml.model", std::string("t5"));
    writer.SetArray("tokenizer.ggml.tokens", tokens_);
    writer.SetArray("tokenizer.ggml.scores", std::vector<float>(tokens_.size(), -1.0f));
    writer.SetArray("tokenizer.ggml.token_type", types);
    writer.Set("tokenizer.ggml.add_space_prefix", false);
    writer.Set("tokenizer.ggml.add_eos_token", false);
    writer.Set("tokenizer.ggml.add_bos_token", false);

    const size_t q_rows = kSlots * kHeadDim;
    const Matrix norm(kModelDim, 1.0f), no_ffn(kFfnDim * kModelDim);
    const Matrix embedding = Embedding(1, true, 0), output = Embedding(40, false, kCode * (kSlots + 1));
    const auto add = [&](const std::string& name, size_t cols, size_t rows, const Matrix& values) {
      std::vector<uint64_t> shape = {cols};
      if (rows > 0) shape.push_back(rows);
      writer.AddTensor(name, Encoding::kF32, shape, values.data());
    };
    add("token_embd.weight", kModelDim, tokens_.size(), embedding);
    add("output.weight", kModelDim, tokens_.size(), output);
    add("output_norm.weight", kModelDim, 0, norm);
    std::vector<Matrix> kept;
    kept.reserve(8);
    for (size_t layer = 0; layer < 2; ++layer) {
      Matrix q(q_rows * kModelDim), k(kHeadDim * kModelDim), v(kHeadDim * kModelDim), o(kModelDim * q_rows);
      layer == 0 ? Layer0(q, k, v, o) : Layer1(q, k, v, o);
      const auto name = [&](const char* part) { return fmt::format("blk.{}.{}.weight", layer, part); };
      const auto keep = [&](Matrix matrix) -> const Matrix& { return kept.emplace_back(std::move(matrix)); };
      add(name("attn_norm"), kModelDim, 0, norm);
      add(name("ffn_norm"), kModelDim, 0, norm);
      add(name("attn_q"), kModelDim, q_rows, keep(std::move(q)));
      add(name("attn_k"), kModelDim, kHeadDim, keep(std::move(k)));
      add(name("attn_v"), kModelDim, kHeadDim, keep(std::move(v)));
      add(name("attn_output"), q_rows, kModelDim, keep(std::move(o)));
      add(name("ffn_gate"), kModelDim, kFfnDim, no_ffn);
      add(name("ffn_up"), kModelDim, kFfnDim, no_ffn);
      add(name("ffn_down"), kFfnDim, kModelDim, no_ffn);
    }
    writer.Write(path_);
  }

  std::vector<std::string> tokens_;
  std::vector<std::vector<int>> codes_;
  std::string path_;
};

}  // namespace mneme::testing
