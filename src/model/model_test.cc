// Loading: every container, and files that are not what they claim.
#include "reference/model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "formats/quant.h"
#include "formats/safetensors.h"
#include "kernels/cpu_device.h"
#include "kernels/pointwise/elementwise.h"
#include "model/convert/convert.h"
#include "model/convert/random_model.h"
#include "model/families/family.h"
#include "model/runner.h"
#include "model/test_util.h"
#include "model/weights.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

void ExpectRefused(const std::string& path, ErrorKind kind, const std::string& part) {
  try {
    LoadModel(path);
    ADD_FAILURE() << "was loaded; expected a message with: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Model, RandomModelsRunAndAreReproducible) {
  TemporaryFolder folder;
  const std::vector<TokenId> ids = {1, 300, 5, 77, 511, 0};
  for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kQ8_0, Encoding::kQ4_0}) {
    const auto model = LoadModel(WriteTiny(folder, encoding), PackMode::kAuto);
    const uint64_t fingerprint = model->fingerprint();
    const auto logits = EngineLogits(*model, ids);
    double square = 0;
    for (const float value : logits) square += static_cast<double>(value) * static_cast<double>(value);
    EXPECT_TRUE(std::isfinite(square));
    EXPECT_GT(square, 1.0);
    EXPECT_LT(RelativeDifference(logits, ReferenceLogits(*model, ids)),
              encoding == Encoding::kF32 ? 1e-5 : 3e-2);
    EXPECT_EQ(model->tokenizer().vocab_size(), 512);
    EXPECT_FALSE(model->tokenizer().Encode("hello there").empty());
    CpuDevice device(2);
    NoProgress progress;
    WriteRandomModel(ParseRandomShape("tiny"), encoding, 7, folder / "again.gguf", device.pool(), progress);
    EXPECT_EQ(LoadModel(folder / "again.gguf")->fingerprint(), fingerprint);
    WriteRandomModel(ParseRandomShape("tiny"), encoding, 8, folder / "other.gguf", device.pool(), progress);
    EXPECT_NE(LoadModel(folder / "other.gguf")->fingerprint(), fingerprint);
  }
  EXPECT_THROW(ParseRandomShape("gpt5"), Error);
  EXPECT_THROW(ParseRandomShape("layers=2,dim=65"), Error);
  EXPECT_THROW(ParseRandomShape("experts=4"), Error);
  EXPECT_THROW(ParseRandomShape("experts=4,used=5"), Error);
  EXPECT_EQ(ParseRandomShape("experts=4,used=2").num_used_experts, 2u);
  EXPECT_THROW(ParseRandomShape("layers=2,width=64"), Error);
}

// Rounding both sides of every product to 8 significant bits moves logits by about 2^-9 times the square root
// of the number of products between the input and the logits: here 2 layers of 4 and the output, say 0.6%.
TEST(Model, BFloat16ProductsStayNearFloat32) {
  TemporaryFolder folder;
  const std::vector<TokenId> ids = {1, 300, 5, 77, 511, 0, 9, 12, 400, 33, 2, 8, 90, 14, 15};
  for (const Encoding encoding : {Encoding::kF32, Encoding::kF16}) {
    const std::string path = WriteTiny(folder, encoding);
    const auto exact = LoadModel(path, PackMode::kFloat32);
    const auto rounded = LoadModel(path, PackMode::kBFloat16);
    const double difference = RelativeDifference(EngineLogits(*rounded, ids), EngineLogits(*exact, ids));
    EXPECT_LT(difference, 2e-2);
    EXPECT_GT(difference, 1e-5) << "nothing was rounded";
    EXPECT_EQ(rounded->fingerprint(), exact->fingerprint());
    if (encoding == Encoding::kF32) {
      EXPECT_LT(rounded->read_bytes_per_token(), exact->read_bytes_per_token());
    }
  }
  // Integer weights do not know the difference.
  const std::string path = WriteTiny(folder, Encoding::kQ8_0);
  EXPECT_EQ(EngineLogits(*LoadModel(path, PackMode::kBFloat16), ids),
            EngineLogits(*LoadModel(path, PackMode::kAuto), ids));
}

// The same with 14 bits, a scale for each block beside them.
TEST(Model, Int16ProductsStayNearerToFloat32) {
  TemporaryFolder folder;
  const std::vector<TokenId> ids = {1, 300, 5, 77, 511, 0, 9, 12, 400, 33, 2, 8, 90, 14, 15};
  for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kBF16}) {
    const std::string path = WriteTiny(folder, encoding);
    const std::vector<float> exact = EngineLogits(*LoadModel(path, PackMode::kFloat32), ids);
    const std::vector<float> rounded = EngineLogits(*LoadModel(path, PackMode::kInt16), ids);
    EXPECT_LT(RelativeDifference(rounded, exact), 1e-3);
    EXPECT_GT(RelativeDifference(rounded, exact), 1e-6) << "nothing was rounded";
    const bool takes_int16 = encoding != Encoding::kF32 && HasFastInt16Products();
    EXPECT_EQ(EngineLogits(*LoadModel(path, PackMode::kAlways), ids), takes_int16 ? rounded : exact);
  }
}

// Matrices that read the same activations in different forms: float32, 14-bit and 8-bit integers.
TEST(Model, LayersMayMixEncodings) {
  TemporaryFolder folder;
  const GgufFile quantised(WriteTiny(folder, Encoding::kQ8_0));
  const std::string integers = folder / "integers.gguf";
  std::filesystem::rename(folder / "tiny.gguf", integers);
  const GgufFile halves(WriteTiny(folder, Encoding::kF16));
  GgufWriter writer;
  writer.CopyAllMetadata(halves);
  for (const GgufTensor& tensor : halves.tensors()) {
    const auto is = [&](const char* part) { return tensor.name.find(part) != std::string::npos; };
    const bool quantise = is("attn_k.") || is("ffn_up") || is("1.attn_output") || is("0.ffn_down");
    const GgufTensor& from = quantise ? *quantised.FindTensor(tensor.name) : tensor;
    writer.AddTensor(from.name, from.encoding, from.shape, from.data);
  }
  const std::string path = folder / "mixed.gguf";
  writer.Write(path);
  const std::vector<TokenId> ids = {1, 300, 5, 77, 511, 0, 9, 12, 400, 33, 2, 8, 90, 14, 15};
  for (const PackMode pack : {PackMode::kNever, PackMode::kFloat32, PackMode::kInt16, PackMode::kBFloat16}) {
    const auto model = LoadModel(path, pack);
    const std::vector<float> logits = EngineLogits(*model, ids);
    EXPECT_LT(RelativeDifference(logits, ReferenceLogits(*model, ids)), 3e-2);
    EXPECT_EQ(EngineLogits(*model, ids, 1), logits);
  }
}

TEST(Model, RefusesMissingAndMisshapenTensors) {
  TemporaryFolder folder;
  const std::string path = WriteTiny(folder);
  for (const std::string name : {"token_embd.weight", "blk.1.attn_q.weight", "blk.0.ffn_norm.weight",
                                 "output_norm.weight", "blk.1.ffn_down.weight"}) {
    Rewrite(path, folder / "bad.gguf", kNoChange, [&](const GgufTensor& t) { return t.name != name; });
    ExpectRefused(folder / "bad.gguf", ErrorKind::kFile, "'" + name + "'");
  }
  // More heads than the tensors have rows for, and other sizes that contradict them.
  const auto with = [&](const char* key, uint32_t value, const std::string& part,
                        ErrorKind kind = ErrorKind::kFile) {
    SCOPED_TRACE(key);
    Rewrite(
        path, folder / "bad.gguf", [&](GgufWriter& w) { w.Set(key, value); }, kKeepAll);
    ExpectRefused(folder / "bad.gguf", kind, part);
  };
  with("llama.attention.head_count_kv", 4, "'blk.0.attn_k.weight' has the shape [32, 64]");
  with("llama.feed_forward_length", 256, "ffn_gate.weight' has the shape [128, 64]");
  with("llama.embedding_length", 128, "has the shape [512, 64]");
  with("llama.block_count", 3, "'blk.2.attn_norm.weight'");
  with("llama.block_count", 1, "'blk.1.", ErrorKind::kUnsupported);
  with("llama.vocab_size", 511, "'token_embd.weight' has the shape [512, 64]");
  with("llama.block_count", 0, "number of layers is 0");
  with("llama.block_count", 4000000000u, "number of layers");
  with("llama.attention.head_count", 0, "number of heads is 0");
  with("llama.attention.head_count", 3, "heads");
  with("llama.attention.head_count_kv", 3, "cannot share 3 KV heads");
  with("llama.rope.dimension_count", 17, "rotated dimensions");
  with("llama.rope.dimension_count", 64, "rotated dimensions");
  with("llama.embedding_length", 0, "model dimension is 0");
  Rewrite(
      path, folder / "bad.gguf", [](GgufWriter& w) { w.Set("llama.rope.freq_base", -1.0f); }, kKeepAll);
  ExpectRefused(folder / "bad.gguf", ErrorKind::kFile, "rope base");
  Rewrite(
      path, folder / "bad.gguf", [](GgufWriter& w) { w.Set("llama.block_count", std::string("two")); },
      kKeepAll);
  ExpectRefused(folder / "bad.gguf", ErrorKind::kFile, "llama.block_count");
  Rewrite(
      path, folder / "bad.gguf",
      [](GgufWriter& w) { w.Set("llama.rope.scaling.type", std::string("spiral")); }, kKeepAll);
  ExpectRefused(folder / "bad.gguf", ErrorKind::kUnsupported, "'spiral'");
}

TEST(Model, WhatIsPassedOverIsNamed) {
  TemporaryFolder folder;
  const std::string path = WriteTiny(folder);
  EXPECT_TRUE(LoadModel(path)->notes().empty());
  const std::vector<float> values(32, 0.0f);
  Rewrite(
      path, folder / "more.gguf",
      [&](GgufWriter& w) {
        w.AddTensor("model.visual.patch.weight", Encoding::kF32, {32}, values.data());
        w.AddTensor("model.visual.norm.weight", Encoding::kF32, {32}, values.data());
        w.AddTensor("mtp.fc.weight", Encoding::kF32, {32}, values.data());
      },
      kKeepAll);
  const std::vector<std::string> notes = LoadModel(folder / "more.gguf")->notes();
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("model.visual (2 tensors, 256 B), mtp (1 tensor, 128 B)"), std::string::npos)
      << notes[0];
}

TEST(Model, RefusesUnknownFamiliesAndParts) {
  TemporaryFolder folder;
  const std::string path = WriteTiny(folder);
  Rewrite(
      path, folder / "bad.gguf",
      [](GgufWriter& w) { w.Set("general.architecture", std::string("no-such-model")); }, kKeepAll);
  ExpectRefused(folder / "bad.gguf", ErrorKind::kUnsupported, "'no-such-model'");
  // A mixture of experts under the llama name: its parts must not be dropped in silence.
  const std::vector<float> gate(64 * 4, 1.0f);
  Rewrite(
      path, folder / "bad.gguf",
      [&](GgufWriter& w) {
        w.AddTensor("blk.0.ffn_gate_inp.weight", Encoding::kF32, {64, 4}, gate.data());
      },
      kKeepAll);
  ExpectRefused(folder / "bad.gguf", ErrorKind::kUnsupported, "blk.0.ffn_gate_inp.weight");
  const std::vector<int32_t> integers(64, 1);
  Rewrite(
      path, folder / "bad.gguf",
      [&](GgufWriter& w) { w.AddTensor("output_norm.weight", Encoding::kI32, {64}, integers.data()); },
      [](const GgufTensor& t) { return t.name != "output_norm.weight"; });
  ExpectRefused(folder / "bad.gguf", ErrorKind::kUnsupported, "i32");
}

// A token of a mixture reads the experts that it uses.
TEST(Model, RandomMixturesAreComputed) {
  TemporaryFolder folder;
  const std::string path = folder / "m.gguf";
  CpuDevice device(2);
  NoProgress progress;
  WriteRandomModel(ParseRandomShape("experts=8,used=2"), Encoding::kQ8_0, 7, path, device.pool(), progress);
  const auto model = LoadModel(path);
  const std::vector<TokenId> ids = {1, 300, 301, 302};
  EXPECT_LT(RelativeDifference(EngineLogits(*model, ids), ReferenceLogits(*model, ids)), 3e-2);
  const size_t of_expert = EncodedBytes(Encoding::kQ8_0, 3 * 64 * 128);
  EXPECT_LT(model->read_bytes_per_token(), model->weight_bytes() - 2 * 5 * of_expert);
}

TEST(Model, RefusesAnOversizedTokenizer) {
  TemporaryFolder folder;
  const std::string path = WriteTiny(folder);
  const std::string small = folder / "small.gguf";
  CpuDevice device(1);
  NoProgress progress;
  WriteRandomModel(ParseRandomShape("layers=1,vocab=300"), Encoding::kF32, 1, small, device.pool(), progress);
  try {
    LoadModel(small, PackMode::kNever, 1, path);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kMismatch);
  }
}

// A few rows without a piece are padding: such an id has no text. So many that it cannot be are another
// model's tokenizer.
TEST(Model, MissingPiecesArePaddingOrRefused) {
  TemporaryFolder folder;
  const std::string path = WriteTiny(folder);  // 512 rows
  const std::string other = folder / "other.gguf";
  CpuDevice device(1);
  NoProgress progress;
  WriteRandomModel(ParseRandomShape("layers=1,vocab=500"), Encoding::kF32, 1, other, device.pool(), progress);
  const auto model = LoadModel(path, PackMode::kNever, 1, other);
  const Tokenizer& tokenizer = model->tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 512);
  EXPECT_EQ(tokenizer.num_pieces(), 500);
  const std::vector<TokenId> letters = tokenizer.Encode("b");
  std::vector<TokenId> ids = letters;
  ids.insert(ids.begin(), 511);
  ids.push_back(500);
  EXPECT_EQ(tokenizer.Decode(ids), tokenizer.Decode(letters));
  EXPECT_EQ(tokenizer.Piece(511), "");
  EXPECT_TRUE(tokenizer.is_special(511));
  EXPECT_THROW(tokenizer.Decode(std::vector<TokenId>{512}), Error);

  const std::string large = folder / "large.gguf";
  WriteRandomModel(ParseRandomShape("layers=1,vocab=800"), Encoding::kF32, 1, large, device.pool(), progress);
  try {
    LoadModel(large, PackMode::kNever, 1, path);
    FAIL() << "512 pieces for 800 rows were taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kMismatch);
    EXPECT_NE(std::string(error.what()).find("another model"), std::string::npos) << error.what();
  }
  ConvertOptions options;
  options.tokenizer = path;
  EXPECT_THROW(ConvertModel(large, folder / "converted.gguf", options, device.pool(), progress), Error);
}

// What a file calls its model reaches terminals and pages; convert keeps it as it is.
TEST(Model, NamesAreCleanedWhereTheyAreShown) {
  TemporaryFolder folder;
  const std::string name("a\x1b]0;b\x07\0c\xE2\x80\xAE", 12);
  const std::string path = Rewrite(
      WriteTiny(folder), folder / "named.gguf", [&](GgufWriter& w) { w.Set("general.name", name); },
      kKeepAll);
  EXPECT_EQ(LoadModel(path)->plan().name, "a\\x1b]0;b\\x07\\x00c\\u{202e}");
  CpuDevice device(1);
  NoProgress progress;
  ConvertModel(path, folder / "converted.gguf", {}, device.pool(), progress);
  EXPECT_EQ(GgufFile(folder / "converted.gguf").GetString("general.name"), name);
}

class ThrowingContext : public Context {
 public:
  std::string Describe() const override { return "throwing"; }
  void Begin(std::span<const TokenId>) override {
    ++begun;
    if (fails_in_begin) Fail(ErrorKind::kBudget, "no room");
  }
  AttendCall Plan(size_t layer, const float*, const float*, const float*, float*) override {
    if (layer == 1) Fail(ErrorKind::kBudget, "no room in layer 1");
    return {.shape = {.layout = {.num_kv_heads = 1}}};  // no rows
  }
  void Commit() override { ++committed; }
  void Abort() override { ++aborted; }
  int64_t MaxRewind() const override { return 0; }
  void Rewind(int64_t) override {}
  void Save(StateWriter&) const override {}
  void Restore(StateReader&) override {}
  std::unique_ptr<Context> Fork() const override { return nullptr; }
  std::vector<LedgerRange> Ledger() const override { return {}; }
  bool fails_in_begin = false;
  int begun = 0, committed = 0, aborted = 0;
};

TEST(Runner, ErrorsLeaveEveryContextAsItWas) {
  TemporaryFolder folder;
  const auto model = LoadModel(WriteTiny(folder));
  CpuDevice device(1);
  Budget budget;
  Runner runner(*model, 8, device, budget);
  const std::vector<TokenId> ids = {1, 2, 3};
  const auto good = testing::DenseContext(*model, budget, 1);
  ThrowingContext bad;
  std::vector<ForwardChunk> chunks(2);
  chunks[0].context = good.get();
  chunks[0].tokens = ids;
  chunks[1].context = &bad;
  chunks[1].tokens = ids;
  const auto ignore = [](size_t, size_t, std::span<const float>) {};
  EXPECT_THROW(runner.Forward(chunks, ignore), Error);
  EXPECT_EQ(good->num_tokens(), 0);
  EXPECT_EQ(bad.aborted, 1);
  bad.fails_in_begin = true;
  EXPECT_THROW(runner.Forward(chunks, ignore), Error);
  EXPECT_EQ(bad.begun, 2);
  EXPECT_EQ(bad.aborted, 1);  // its own Begin failed, so there is nothing to abort
  EXPECT_EQ(good->num_tokens(), 0);
  // An error of the caller's own function.
  EXPECT_THROW(
      runner.Forward({chunks.data(), 1},
                     [](size_t, size_t, std::span<const float>) { Fail(ErrorKind::kInput, "enough"); }),
      Error);
  EXPECT_EQ(good->num_tokens(), 0);
  const std::vector<TokenId> outside = {512};
  chunks[0].tokens = outside;
  EXPECT_THROW(runner.Forward({chunks.data(), 1}, ignore), Error);
  const std::vector<TokenId> many(9, 1);
  chunks[0].tokens = many;
  EXPECT_THROW(runner.Forward({chunks.data(), 1}, ignore), Error);
  // And it still works, as if nothing had happened.
  chunks[0].tokens = ids;
  std::vector<float> last;
  runner.Forward({chunks.data(), 1},
                 [&](size_t, size_t, std::span<const float> row) { last.assign(row.begin(), row.end()); });
  const auto expected = EngineLogits(*model, ids);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), expected.end() - 512));
}

TEST(Runner, ReservesBeforeItAllocates) {
  TemporaryFolder folder;
  const auto model = LoadModel(WriteTiny(folder));
  CpuDevice device(1);
  const size_t bytes = Runner::ScratchBytes(*model, 64, 1);
  Budget enough(bytes);
  EXPECT_NO_THROW(Runner(*model, 64, device, enough));
  Budget small(bytes - 1);
  EXPECT_THROW(Runner(*model, 64, device, small), Error);
  EXPECT_EQ(small.used_bytes(), 0u);
}

// The window of every layer, both bases of gemma3, the slopes of a head count between powers of two.
TEST(Model, ConfigurationsOfFamilies) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/conformance/models/";
  const auto gemma3 = LoadModel(folder + "gemma3.gguf");
  std::vector<int64_t> windows;
  std::vector<size_t> ropes;
  ForEachAttention(gemma3->plan(), [&](const AttentionPlan& attention) {
    windows.push_back(attention.window);
    ropes.push_back(attention.rope);
  });
  EXPECT_EQ(windows, (std::vector<int64_t>{16, 16, 16, 16, 16, 0, 16}));
  EXPECT_EQ(ropes, (std::vector<size_t>{0, 0, 0, 0, 0, 1, 0}));
  EXPECT_EQ(gemma3->context_shape().layers[0].layer_window, 16);
  EXPECT_NE(gemma3->context_shape().layers[0].rope.frequencies,
            gemma3->context_shape().layers[5].rope.frequencies);
  const auto mpt = LoadModel(folder + "mpt-6h.gguf");
  const std::vector<float> slopes = {0.25f, 0.0625f, 0.015625f, 0.00390625f, 0.5f, 0.125f};
  EXPECT_EQ(mpt->plan().alibi_slopes, slopes);
  const auto gpt2 = LoadModel(folder + "gpt2.gguf");
  EXPECT_TRUE(gpt2->context_shape().learned_positions);
  EXPECT_EQ(gpt2->plan().trained_length, 512);
}

// The file with a sink logit per head in every layer (0: none), or with the metadata that says
// softmax-off-by-one.
std::string WithSinks(const std::string& path, const std::string& out, std::optional<float> logit) {
  const GgufFile file(path);
  GgufWriter writer;
  writer.CopyAllMetadata(file);
  if (!logit) writer.Set("mneme.attention.softmax_off_by_one", true);
  for (const GgufTensor& tensor : file.tensors()) {
    writer.AddTensor(tensor.name, tensor.encoding, tensor.shape, tensor.data);
  }
  const size_t num_heads = *file.GetUint("llama.attention.head_count");
  const std::vector<float> logits(num_heads, logit.value_or(0.0f));
  const size_t num_layers = logit ? *file.GetUint("llama.block_count") : 0;
  for (size_t layer = 0; layer < num_layers; ++layer) {
    writer.AddTensor("blk." + std::to_string(layer) + ".attn_sinks.weight", Encoding::kF32, {num_heads},
                     logits.data());
  }
  writer.Write(out);
  return out;
}

TEST(Model, LearnedSinkLogitsAndSoftmaxOffByOne) {  // T2, through a whole model
  MNEME_REQUIRE_DATA(data);
  const std::string path = data + "/conformance/models/llama-gqa.gguf";
  const auto ids = testing::ReadIds(data + "/conformance/models/tokens.txt");
  const std::string out = ::testing::TempDir() + "/sinks.gguf";
  const std::vector<float> plain = EngineLogits(*LoadModel(path), ids);
  // A logit so low that it takes no mass changes nothing; a logit of 0 is softmax-off-by-one; both come from
  // the file.
  EXPECT_EQ(EngineLogits(*LoadModel(WithSinks(path, out, -1e30f)), ids), plain);
  const std::vector<float> learned = EngineLogits(*LoadModel(WithSinks(path, out, 0.0f)), ids);
  const std::vector<float> off_by_one = EngineLogits(*LoadModel(WithSinks(path, out, std::nullopt)), ids);
  EXPECT_EQ(learned, off_by_one);
  EXPECT_GT(RelativeDifference(learned, plain), 1e-2);
}

}  // namespace
}  // namespace mneme
