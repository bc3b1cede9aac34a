// Loading: every container and family, conversion, and files that are not what they claim.
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
#include "model/families.h"
#include "model/convert/random_model.h"
#include "model/runner.h"
#include "model/test_util.h"
#include "model/weights.h"

namespace mneme {
namespace {

using testing::EngineLogits;
using testing::LoadModel;
using testing::RelativeDifference;

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
std::string WriteTiny(const TemporaryFolder& folder, Encoding encoding = Encoding::kF32,
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
std::string Rewrite(const std::string& from, const std::string& to, const Change& change, const Keep& keep) {
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

const Change kNoChange = [](GgufWriter&) {};
const Keep kKeepAll = [](const GgufTensor&) { return true; };

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

TEST(Model, RefusesUnknownFamiliesAndParts) {
  TemporaryFolder folder;
  const std::string path = WriteTiny(folder);
  Rewrite(
      path, folder / "bad.gguf", [](GgufWriter& w) { w.Set("general.architecture", std::string("mamba")); },
      kKeepAll);
  ExpectRefused(folder / "bad.gguf", ErrorKind::kUnsupported, "'mamba'");
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
  EXPECT_EQ(LoadModel(path)->config().name, "a\\x1b]0;b\\x07\\x00c\\u{202e}");
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

// Writes a GGUF model of the conformance set as a Hugging Face folder: the inverse of what loading does, from
// the family's own description of such folders.
class FolderWriter {
 public:
  FolderWriter(const LoadedModel& model, const Family& family)
      : model_(model), family_(family), c_(model.config()) {}

  void Write(const std::string& folder, const std::string& config_json) {
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/config.json") << config_json;
    const ModelWeights& w = model_.weights();
    AddMatrix("token_embd", -1, Decode(w.token_embedding), c_.vocab_size, c_.model_dim, false);
    if (w.position_embedding.num_rows > 0) {
      AddMatrix("position_embd", -1, Decode(w.position_embedding), w.position_embedding.num_rows,
                c_.model_dim, false);
    }
    AddNorm("output_norm", -1, w.output_norm);
    if (w.output.file.data != w.token_embedding.data) {
      AddMatrix("output", -1, Decode(w.output.file), c_.vocab_size, c_.model_dim, false);
    }
    for (size_t i = 0; i < c_.num_layers; ++i) AddLayer(static_cast<int>(i), w.layers[i]);
    writer_.Write(folder + "/model.safetensors");
  }

 private:
  static std::vector<float> Decode(const WeightView& view) {
    std::vector<float> values(view.num_rows * view.num_cols);
    DecodeBlocks(view.encoding, view.data, values.size(), values.data());
    return values;
  }
  bool Has(std::string_view canonical) const {
    for (const TensorName& row : family_.folder_names) {
      if (row.canonical == canonical) return true;
    }
    return false;
  }
  // The last name of a weight in the table that fits (falcon's two norms are the later ones).
  std::string Name(std::string_view canonical, int layer, const std::string& suffix, int star = 0) const {
    for (const TensorName& row : family_.folder_names) {
      if (row.canonical != canonical) continue;
      if (canonical == "attn_norm" && two_norms_ &&
          row.folder.find("input_layernorm") != std::string_view::npos)
        continue;
      if (canonical == "ffn_up" && fused_gate_up_ && row.folder.find("gate_up") == std::string_view::npos)
        continue;
      std::string name(row.folder);
      if (name[0] == '/') return name.substr(1) + "." + suffix;
      if (const size_t at = name.find("{}"); at != std::string::npos)
        name.replace(at, 2, std::to_string(layer));
      if (const size_t at = name.find('*'); at != std::string::npos)
        name.replace(at, 1, std::to_string(star));
      return std::string(family_.folder_prefixes[0]) + name + "." + suffix;
    }
    ADD_FAILURE() << "no name for " << canonical;
    return "";
  }
  void Add(const std::string& name, std::vector<float> values, std::vector<uint64_t> shape) {
    kept_.push_back(std::make_unique<std::vector<float>>(std::move(values)));
    writer_.Add(name, Encoding::kF32, std::move(shape), kept_.back()->data());
  }
  void AddMatrix(std::string_view canonical, int layer, std::vector<float> values, size_t rows, size_t cols,
                 bool may_transpose = true) {
    if (may_transpose && family_.folder_transposed) {
      std::vector<float> turned(values.size());
      for (size_t r = 0; r < rows; ++r) {
        for (size_t k = 0; k < cols; ++k) turned[k * rows + r] = values[r * cols + k];
      }
      Add(Name(canonical, layer, "weight"), std::move(turned), {cols, rows});
    } else {
      Add(Name(canonical, layer, "weight"), std::move(values), {rows, cols});
    }
  }
  void AddBias(std::string_view canonical, int layer, const std::vector<float>& bias) {
    if (!bias.empty()) Add(Name(canonical, layer, "bias"), bias, {bias.size()});
  }
  void AddNorm(std::string_view canonical, int layer, NormWeights norm) {
    if (norm.empty()) return;
    if (family_.folder_norms_minus_one) {
      for (float& value : norm.weight) value -= 1.0f;
    }
    Add(Name(canonical, layer, "weight"), norm.weight, {norm.weight.size()});
    AddBias(canonical, layer, norm.bias);
  }
  // Rows of each head from pairs to halves.
  std::vector<float> Halves(const std::vector<float>& rows, size_t cols) const {
    if (!family_.gguf_interleaved_rope || rows.empty()) return rows;
    std::vector<float> out;
    for (size_t row = 0; row < rows.size() / cols; ++row) {
      const size_t offset = row % c_.key_dim;
      const size_t half = c_.key_dim / 2;
      const size_t from = row - offset + (offset < half ? 2 * offset : 2 * (offset - half) + 1);
      out.insert(out.end(), rows.begin() + static_cast<ptrdiff_t>(from * cols),
                 rows.begin() + static_cast<ptrdiff_t>((from + 1) * cols));
    }
    return out;
  }
  std::vector<float> Fuse(const std::vector<float> parts[3], size_t cols, size_t num_kv_heads) const {
    std::vector<float> out;
    const size_t groups = family_.folder_qkv == FusedQkv::kPerKvHead ? num_kv_heads : 1;
    for (size_t group = 0; group < groups; ++group) {
      for (int part = 0; part < 3; ++part) {
        const size_t count = parts[part].size() / groups;
        const auto first = parts[part].begin() + static_cast<ptrdiff_t>(group * count);
        out.insert(out.end(), first, first + static_cast<ptrdiff_t>(count));
      }
    }
    (void)cols;
    return out;
  }
  void AddLayer(int layer, const LayerWeights& w) {
    const size_t dim = c_.model_dim;
    const size_t index = static_cast<size_t>(layer);
    two_norms_ = c_.family == "falcon" && !w.ffn_norm.empty();
    fused_gate_up_ = c_.family == "phi3";
    AddNorm(two_norms_ ? "attn_norm_2" : "attn_norm", layer, w.attn_norm);
    AddNorm(two_norms_ ? "attn_norm" : "ffn_norm", layer, w.ffn_norm);
    AddNorm("post_attention_norm", layer, w.post_attn_norm);
    AddNorm("post_ffw_norm", layer, w.post_ffn_norm);
    AddNorm("attn_q_norm", layer, w.q_norm);
    AddNorm("attn_k_norm", layer, w.k_norm);
    const LinearLayer* const linear[3] = {&w.q, &w.k, &w.v};
    std::vector<float> parts[3], biases[3];
    for (int i = 0; i < 3; ++i) {
      parts[i] = i < 2 ? Halves(Decode(linear[i]->file), dim) : Decode(linear[i]->file);
      biases[i] = i < 2 ? Halves(linear[i]->bias, 1) : linear[i]->bias;
    }
    const bool is_fused = c_.family == "phi3" || !Has("attn_q");
    const char* const names[3] = {"attn_q", "attn_k", "attn_v"};
    if (is_fused) {
      const auto fused = Fuse(parts, dim, c_.num_kv_heads[index]);
      AddMatrix("attn_qkv", layer, fused, fused.size() / dim, dim);
      AddBias("attn_qkv", layer, Fuse(biases, 1, c_.num_kv_heads[index]));
    } else {
      for (int i = 0; i < 3; ++i) {
        AddMatrix(names[i], layer, parts[i], parts[i].size() / dim, dim);
        AddBias(names[i], layer, biases[i]);
      }
    }
    AddMatrix("attn_output", layer, Decode(w.o.file), dim, c_.num_heads * c_.value_dim);
    AddBias("attn_output", layer, w.o.bias);
    const size_t ffn = c_.ffn_dim[index];
    if (fused_gate_up_) {
      std::vector<float> both = Decode(w.gate.file);
      const std::vector<float> up = Decode(w.up.file);
      both.insert(both.end(), up.begin(), up.end());
      AddMatrix("ffn_up", layer, both, 2 * ffn, dim);
    } else {
      if (!w.gate.empty()) AddMatrix("ffn_gate", layer, Decode(w.gate.file), ffn, dim);
      AddMatrix("ffn_up", layer, Decode(w.up.file), ffn, dim);
      AddBias("ffn_up", layer, w.up.bias);
    }
    AddMatrix("ffn_down", layer, Decode(w.down.file), dim, ffn);
    AddBias("ffn_down", layer, w.down.bias);
  }

  const LoadedModel& model_;
  const Family& family_;
  const ModelConfig& c_;
  bool two_norms_ = false;
  bool fused_gate_up_ = false;
  SafetensorsWriter writer_;
  std::vector<std::unique_ptr<std::vector<float>>> kept_;
};

struct FolderCase {
  const char* file;
  const char* family;
  std::string config;
};

// What each family's config.json looks like, with the names that its models use.
std::vector<FolderCase> FolderCases() {
  const std::string sizes =
      R"("hidden_size":64,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":128,)"
      R"("max_position_embeddings":512,"vocab_size":320,"rope_theta":10000.0,)";
  const std::string gqa = sizes + R"("num_key_value_heads":2,"rms_norm_eps":1e-05,"hidden_act":"silu")";
  const std::string tanh = R"("layer_norm_eps":1e-05,"hidden_act":"gelu_new")";
  return {
      {"llama-gqa", "llama", R"({"model_type":"llama",)" + gqa + "}"},
      {"llama-linear-rope", "llama",
       R"({"model_type":"llama","rope_scaling":{"type":"linear","factor":4.0},)" + gqa + "}"},
      {"llama-yarn", "llama",
       R"({"model_type":"llama","rope_scaling":{"rope_type":"yarn","factor":4.0,)"
       R"("original_max_position_embeddings":128},)" +
           gqa + "}"},
      {"llama-gqa", "mistral", R"({"model_type":"mistral","sliding_window":null,)" + gqa + "}"},
      {"p3-fused", "phi3", R"({"model_type":"phi3","original_max_position_embeddings":512,)" + gqa + "}"},
      {"olmo2", "olmo2", R"({"model_type":"olmo2",)" + gqa + "}"},
      {"qwen3", "qwen3", R"({"model_type":"qwen3","head_dim":32,)" + gqa + "}"},
      {"stablelm", "stablelm",
       R"({"model_type":"stablelm","partial_rotary_factor":0.25,"layer_norm_eps":1e-05,"hidden_act":"silu",)" +
           sizes + R"("num_key_value_heads":4})"},
      {"gptneox-par", "gptneox",
       R"({"model_type":"gpt_neox","rotary_pct":0.25,"rotary_emb_base":10000,"use_parallel_residual":true,)" +
           sizes + tanh + "}"},
      {"gptneox-seq", "gptneox",
       R"({"model_type":"gpt_neox","rotary_pct":1.0,"use_parallel_residual":false,)" + sizes + tanh + "}"},
      {"falcon-40b", "falcon",
       R"({"model_type":"falcon","new_decoder_architecture":true,"num_kv_heads":2,"activation":"gelu_new",)"
       R"("hidden_size":64,"num_hidden_layers":3,"num_attention_heads":4,"ffn_hidden_size":128,)"
       R"("layer_norm_epsilon":1e-05,"vocab_size":320,"alibi":false})"},
      {"falcon-7b", "falcon",
       R"({"model_type":"falcon","multi_query":true,"parallel_attn":true,"num_kv_heads":4,"activation":"gelu_new",)"
       R"("hidden_size":64,"num_hidden_layers":3,"num_attention_heads":4,"ffn_hidden_size":128,)"
       R"("layer_norm_epsilon":1e-05,"vocab_size":320,"alibi":false})"},
      {"starcoder2", "starcoder2",
       R"({"model_type":"starcoder2","norm_epsilon":1e-05,"hidden_act":"gelu_pytorch_tanh",)" + sizes +
           R"("num_key_value_heads":2,"sliding_window":null})"},
      {"gpt2", "gpt2",
       R"({"model_type":"gpt2","n_embd":64,"n_layer":3,"n_head":4,"n_inner":128,"n_positions":512,)"
       R"("vocab_size":320,"layer_norm_epsilon":1e-05,"activation_function":"gelu_new"})"},
      {"mpt-clamp-8h", "mpt",
       R"({"model_type":"mpt","d_model":64,"n_layers":3,"n_heads":8,"expansion_ratio":2,"max_seq_len":512,)"
       R"("vocab_size":320,"activation":"gelu_new","attn_config":{"alibi":true,"alibi_bias_max":8,"clip_qkv":1.5}})"},
      {"gemma2", "gemma2",
       R"({"model_type":"gemma2","hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,)"
       R"("num_key_value_heads":2,"intermediate_size":128,"max_position_embeddings":512,"vocab_size":320,)"
       R"("head_dim":16,"query_pre_attn_scalar":16,"sliding_window":16,"attn_logit_softcapping":50.0,)"
       R"("final_logit_softcapping":30.0,"rms_norm_eps":1e-05,"hidden_activation":"gelu_pytorch_tanh"})"},
      {"gemma3", "gemma3",
       R"({"model_type":"gemma3_text","hidden_size":64,"num_hidden_layers":7,"num_attention_heads":4,)"
       R"("num_key_value_heads":2,"intermediate_size":128,"max_position_embeddings":512,"vocab_size":320,)"
       R"("head_dim":32,"query_pre_attn_scalar":32,"sliding_window":16,"sliding_window_pattern":6,)"
       R"("rope_theta":1000000.0,"rope_local_base_freq":10000.0,"rms_norm_eps":1e-05})"},
  };
}

// From GGUF to a folder and back again: the same logits on the way, and the same bits at the end of a second
// round. Folders have exact GELU, GGUF files of these families the half-precision one.
TEST(Model, FoldersOfEveryFamilyAndConversionBack) {
  MNEME_REQUIRE_DATA(data);
  const auto ids = testing::ReadIds(data + "/conformance/models/tokens.txt");
  CpuDevice device(1);
  NoProgress progress;
  for (const FolderCase& item : FolderCases()) {
    SCOPED_TRACE(std::string(item.file) + " as " + item.family);
    TemporaryFolder folder;
    const auto original = LoadModel(data + "/conformance/models/" + item.file + ".gguf");
    const Family* family = nullptr;
    for (const Family& row : FamilyTable()) {
      if (row.name == item.family) family = &row;
    }
    ASSERT_NE(family, nullptr);
    FolderWriter(*original, *family).Write(folder / "hf", item.config);
    const auto from_folder = LoadModel(folder / "hf");
    const auto expected = EngineLogits(*original, ids);
    const auto logits = EngineLogits(*from_folder, ids);
    EXPECT_LT(RelativeDifference(logits, expected), original->config().half_gelu ? 1e-3 : 2e-6);
    ConvertOptions options;
    options.encoding = Encoding::kF32;
    const ConvertReport report =
        ConvertModel(folder / "hf", folder / "back.gguf", options, device.pool(), progress);
    EXPECT_GT(report.num_tensors, 10u);
    const auto back = LoadModel(folder / "back.gguf");
    EXPECT_LT(RelativeDifference(EngineLogits(*back, ids), logits), 2e-6);
  }
}

TEST(Model, ConvertedEncodings) {
  MNEME_REQUIRE_DATA(data);
  TemporaryFolder folder;
  CpuDevice device(2);
  NoProgress progress;
  const auto ids = testing::ReadIds(data + "/conformance/models/tokens.txt");
  const std::string path = data + "/conformance/models/llama-256.gguf";
  const auto exact = EngineLogits(*LoadModel(path), ids);
  for (const auto& [encoding, tolerance] : std::vector<std::pair<Encoding, double>>{{Encoding::kF32, 2e-6},
                                                                                    {Encoding::kF16, 5e-3},
                                                                                    {Encoding::kBF16, 3e-2},
                                                                                    {Encoding::kQ8_0, 5e-2},
                                                                                    {Encoding::kQ6_K, 0.2},
                                                                                    {Encoding::kQ4_K, 0.6},
                                                                                    {Encoding::kQ4_0, 0.7}}) {
    ConvertOptions options;
    options.encoding = encoding;
    ConvertModel(path, folder / "out.gguf", options, device.pool(), progress);
    const auto model = LoadModel(folder / "out.gguf", PackMode::kAuto);
    const auto logits = EngineLogits(*model, ids);
    EXPECT_LE(RelativeDifference(logits, exact), tolerance) << EncodingName(encoding);
    EXPECT_EQ(model->tokenizer().vocab_size(), 320);
  }
  // Decoding a quantised file to F32 leaves the block encoding's values: the engine in float32 must then
  // agree with the twin of the quantised file.
  for (const char* name :
       {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K"}) {
    const std::string quantised = data + "/conformance/models/llama-256-" + name + ".gguf";
    ConvertOptions options;
    options.encoding = Encoding::kF32;
    ConvertModel(quantised, folder / "decoded.gguf", options, device.pool(), progress);
    const auto twin = ReferenceLogits(*LoadModel(quantised), ids);
    EXPECT_LT(RelativeDifference(EngineLogits(*LoadModel(folder / "decoded.gguf"), ids), twin), 2e-6) << name;
  }
}

TEST(Model, ConversionTakesTheTokenizerAlong) {
  MNEME_REQUIRE_DATA(data);
  TemporaryFolder folder;
  CpuDevice device(1);
  NoProgress progress;
  ConvertOptions options;
  const std::string text = "Once upon a time, there was a girl named Lily.\nShe said: h\xC3\xA9llo!";
  const auto original = LoadModel(data + "/models/derived/stories260K-hf");
  const ConvertReport report = ConvertModel(data + "/models/derived/stories260K-hf", folder / "out.gguf",
                                            options, device.pool(), progress);
  EXPECT_FALSE(report.warnings.empty());  // 172 columns do not fill blocks
  const auto converted = LoadModel(folder / "out.gguf");
  EXPECT_EQ(converted->tokenizer().Encode(text), original->tokenizer().Encode(text));
  EXPECT_EQ(converted->tokenizer().bos_id(), original->tokenizer().bos_id());
}

TEST(Model, AStopEndsAConversionAndLeavesNothing) {
  // Set by the first report of progress, in the middle of the work.
  class StopSoon : public NoProgress {
   public:
    void Update(int64_t, int64_t, std::string_view) override { stop = true; }
    std::atomic<bool> stop{false};
  };
  TemporaryFolder folder;
  CpuDevice device(1);
  const std::string path = WriteTiny(folder);
  const auto is_interrupted = [](const auto& work) {
    try {
      work();
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInterrupted;
    }
    return false;
  };
  StopSoon converting, writing;
  const std::string out = folder / "out/model.gguf";
  std::filesystem::create_directory(folder / "out");
  EXPECT_TRUE(
      is_interrupted([&] { ConvertModel(path, out, {}, device.pool(), converting, &converting.stop); }));
  EXPECT_TRUE(is_interrupted([&] {
    WriteRandomModel(ParseRandomShape("tiny"), Encoding::kQ8_0, 1, out, device.pool(), writing,
                     &writing.stop);
  }));
  EXPECT_TRUE(std::filesystem::is_empty(folder / "out"));
}

TEST(Model, ConversionRefusesWhatCannotBeEncoded) {
  TemporaryFolder folder;
  const std::string path = WriteTiny(folder);
  std::vector<float> bad(512 * 64, 0.5f);
  bad[1000] = std::nanf("");
  Rewrite(
      path, folder / "bad.gguf",
      [&](GgufWriter& w) {
        w.AddTensor("token_embd.weight", Encoding::kF32, {64, 512}, bad.data());
      },
      [](const GgufTensor& t) { return t.name != "token_embd.weight"; });
  CpuDevice device(1);
  NoProgress progress;
  try {
    ConvertModel(folder / "bad.gguf", folder / "out.gguf", {}, device.pool(), progress);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("token_embd.weight"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(FileExists(folder / "out.gguf"));
}

// The window of every layer, both bases of gemma3, the slopes of a head count between powers of two.
TEST(Model, ConfigurationsOfFamilies) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/conformance/models/";
  const auto gemma3 = LoadModel(folder + "gemma3.gguf");
  EXPECT_EQ(gemma3->config().layer_window, (std::vector<int64_t>{16, 16, 16, 16, 16, 0, 16}));
  EXPECT_EQ(gemma3->config().layer_rope, (std::vector<size_t>{1, 1, 1, 1, 1, 0, 1}));
  EXPECT_EQ(gemma3->context_shape().layers[0].layer_window, 16);
  EXPECT_NE(gemma3->context_shape().layers[0].rope.frequencies,
            gemma3->context_shape().layers[5].rope.frequencies);
  const auto mpt = LoadModel(folder + "mpt-6h.gguf");
  const std::vector<float> slopes = {0.25f, 0.0625f, 0.015625f, 0.00390625f, 0.5f, 0.125f};
  EXPECT_EQ(mpt->config().alibi_slopes, slopes);
  const auto gpt2 = LoadModel(folder + "gpt2.gguf");
  EXPECT_TRUE(gpt2->context_shape().learned_positions);
  EXPECT_EQ(gpt2->config().trained_length, 512);
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
