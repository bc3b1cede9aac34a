#include "formats/gguf.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"

namespace mneme {
namespace {

std::string TemporaryPath(const std::string& name) {
  return ::testing::TempDir() + "/mneme_gguf_" + std::to_string(::getpid()) + "_" + name;
}

struct RemovedFile {
  std::string path;
  ~RemovedFile() { std::filesystem::remove(path); }
};

// Builds files by hand, right or wrong.
class Bytes {
 public:
  template <typename T>
  Bytes& Add(T value) {
    const auto* from = reinterpret_cast<const uint8_t*>(&value);
    bytes_.insert(bytes_.end(), from, from + sizeof(T));
    return *this;
  }
  Bytes& Text(std::string_view text) {
    bytes_.insert(bytes_.end(), text.begin(), text.end());
    return *this;
  }
  Bytes& String(std::string_view text) { return Add(uint64_t{text.size()}).Text(text); }
  Bytes& Header(uint64_t num_tensors, uint64_t num_values, uint32_t version = 3) {
    return Text("GGUF").Add(version).Add(num_tensors).Add(num_values);
  }
  Bytes& U32(std::string_view key, uint32_t value) { return String(key).Add(uint32_t{4}).Add(value); }
  Bytes& Tensor(std::string_view name, std::vector<uint64_t> shape, uint32_t type, uint64_t offset) {
    String(name).Add(static_cast<uint32_t>(shape.size()));
    for (const uint64_t size : shape) Add(size);
    return Add(type).Add(offset);
  }
  Bytes& Data(size_t count) {
    bytes_.resize((bytes_.size() + 31) / 32 * 32 + count);
    return *this;
  }
  const std::vector<uint8_t>& Get() const { return bytes_; }
  // The error of reading the bytes; empty if there is none.
  std::string Message() const {
    try {
      GgufFile::FromBytes(bytes_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

 private:
  std::vector<uint8_t> bytes_;
};

#define EXPECT_REFUSED(bytes, fragment) \
  EXPECT_NE((bytes).Message().find(fragment), std::string::npos) << "message: " << (bytes).Message()

std::vector<float> CountingFloats(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i);
  return values;
}

// A small file with every kind of content; ends with the last byte of its last tensor.
std::string WriteSample(const std::string& path) {
  static const std::vector<float> weights = CountingFloats(64);
  GgufWriter writer;
  writer.Set("a.u8", uint8_t{200});
  writer.Set("a.i8", int8_t{-100});
  writer.Set("a.u16", uint16_t{60000});
  writer.Set("a.i16", int16_t{-30000});
  writer.Set("a.u32", uint32_t{4000000000u});
  writer.Set("a.i32", int32_t{-2000000000});
  writer.Set("a.u64", uint64_t{1} << 63);
  writer.Set("a.i64", -(int64_t{1} << 62));
  writer.Set("a.f32", 0.1f);
  writer.Set("a.f64", 0.1);
  writer.Set("a.bool", true);
  writer.Set("a.string", std::string("text with \0 inside", 18));
  writer.SetArray("b.strings", std::vector<std::string>{"one", "", "three"});
  writer.SetArray("b.floats", std::vector<float>{1.5f, -2.5f});
  writer.SetArray("b.ints", std::vector<int32_t>{-1, 2, -3});
  writer.SetArray("b.bytes", std::vector<uint8_t>{});
  writer.SetBoolArray("b.bools", {true, false});
  writer.AddTensor("first", Encoding::kF32, {3}, weights.data());
  writer.AddTensor("scalar", Encoding::kF32, {}, weights.data() + 7);
  writer.AddTensor("matrix", Encoding::kF32, {32, 2}, [](const GgufSink& sink) {
    for (size_t row = 0; row < 2; ++row) sink(weights.data() + 32 * row, 128);
  });
  writer.Write(path);
  return path;
}

TEST(Gguf, RoundTripOfEveryType) {
  const RemovedFile sample{WriteSample(TemporaryPath("sample"))};
  const GgufFile file(sample.path);
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.metadata().size(), 17u);
  EXPECT_EQ(file.GetUint("a.u8"), 200u);
  EXPECT_EQ(file.GetInt("a.i8"), -100);
  EXPECT_EQ(file.GetUint("a.u16"), 60000u);
  EXPECT_EQ(file.GetInt("a.i16"), -30000);
  EXPECT_EQ(file.GetUint("a.u32"), 4000000000u);
  EXPECT_EQ(file.GetInt("a.i32"), -2000000000);
  EXPECT_EQ(file.GetUint("a.u64"), uint64_t{1} << 63);
  EXPECT_EQ(file.GetInt("a.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(file.GetFloat("a.f32"), double{0.1f});
  EXPECT_EQ(file.GetFloat("a.f64"), 0.1);
  EXPECT_EQ(file.GetBool("a.bool"), true);
  EXPECT_EQ(file.GetString("a.string"), std::string_view("text with \0 inside", 18));
  EXPECT_EQ(*file.GetStringArray("b.strings"), (std::vector<std::string_view>{"one", "", "three"}));
  EXPECT_EQ(*file.GetFloatArray("b.floats"), (std::vector<float>{1.5f, -2.5f}));
  EXPECT_EQ(*file.GetIntArray("b.ints"), (std::vector<int64_t>{-1, 2, -3}));
  EXPECT_TRUE(file.GetIntArray("b.bytes")->empty());
  EXPECT_EQ(*file.GetIntArray("b.bools"), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(file.FindValue("b.ints")->ToString(2), "[i32 x 3: -1, 2, ...]");
  EXPECT_EQ(file.FindValue("b.strings")->ToString(), "[string x 3: \"one\", \"\", \"three\"]");

  ASSERT_EQ(file.tensors().size(), 3u);
  const GgufTensor* matrix = file.FindTensor("matrix");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->shape, (std::vector<uint64_t>{32, 2}));
  EXPECT_EQ(matrix->bytes, 256u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(matrix->data) % 32, 0u);
  EXPECT_EQ(std::memcmp(matrix->data, CountingFloats(64).data(), 256), 0);
  EXPECT_EQ(file.FindTensor("scalar")->num_values(), 1u);
  EXPECT_EQ(file.FindTensor("none"), nullptr);
}

TEST(Gguf, AbsentAndMistypedValues) {
  const RemovedFile sample{WriteSample(TemporaryPath("types"))};
  const GgufFile file(sample.path);
  EXPECT_FALSE(file.GetUint("none").has_value());
  EXPECT_FALSE(file.GetStringArray("none").has_value());
  EXPECT_EQ(file.GetFloat("a.u8"), 200.0);
  EXPECT_THROW(file.GetUint("a.i8"), Error);
  EXPECT_THROW(file.GetInt("a.u64"), Error);
  EXPECT_THROW(file.GetUint("a.f32"), Error);
  EXPECT_THROW(file.GetUint("b.ints"), Error);
  EXPECT_THROW(file.GetBool("a.u8"), Error);
  EXPECT_THROW(file.GetString("a.bool"), Error);
  EXPECT_THROW(file.GetStringArray("b.ints"), Error);
  EXPECT_THROW(file.GetFloatArray("b.strings"), Error);
  EXPECT_THROW(file.GetFloatArray("b.bools"), Error);
  EXPECT_THROW(file.GetIntArray("b.floats"), Error);
  EXPECT_THROW(file.GetIntArray("a.string"), Error);
}

TEST(Gguf, MovedFileKeepsItsData) {
  const RemovedFile sample{WriteSample(TemporaryPath("move"))};
  GgufFile file(sample.path);
  const GgufFile moved = std::move(file);
  EXPECT_EQ(moved.GetUint("a.u8"), 200u);
  EXPECT_EQ(moved.FindTensor("matrix")->data[4 * 1 + 3], 0x3F);  // 1.0f
}

TEST(Gguf, CopiedMetadataIsTheSame) {
  const RemovedFile sample{WriteSample(TemporaryPath("source"))};
  const RemovedFile copy{TemporaryPath("copy")};
  const GgufFile source(sample.path);
  GgufWriter writer;
  writer.Set("a.u8", uint8_t{1});
  writer.CopyAllMetadata(source);
  writer.Remove("a.f64");
  writer.Write(copy.path);
  const GgufFile file(copy.path);
  EXPECT_EQ(file.metadata().size(), 16u);
  for (const GgufValue& value : file.metadata()) {
    ASSERT_NE(source.FindValue(value.key), nullptr);
    EXPECT_EQ(value.type, source.FindValue(value.key)->type);
    if (value.key == "a.u8") continue;
    EXPECT_EQ(value.ToString(), source.FindValue(value.key)->ToString()) << value.key;
  }
  EXPECT_EQ(file.GetUint("a.u8"), 1u);
  EXPECT_TRUE(file.tensors().empty());
}

TEST(Gguf, EveryPrefixIsRefused) {
  const RemovedFile sample{WriteSample(TemporaryPath("prefix"))};
  const std::string whole = ReadWholeFile(sample.path);
  for (size_t length = 0; length <= whole.size(); ++length) {
    // A copy of its own, so that a sanitizer sees a read past the end.
    const auto prefix = std::make_unique<uint8_t[]>(length);
    std::memcpy(prefix.get(), whole.data(), length);
    const std::span<const uint8_t> bytes(prefix.get(), length);
    if (length == whole.size()) {
      EXPECT_NO_THROW(GgufFile::FromBytes(bytes));
    } else {
      EXPECT_THROW(GgufFile::FromBytes(bytes), Error) << length << " of " << whole.size() << " bytes";
    }
  }
}

TEST(Gguf, FlippedBytesNeverCrash) {
  const RemovedFile sample{WriteSample(TemporaryPath("flip"))};
  const std::string whole = ReadWholeFile(sample.path);
  std::mt19937 random(5);
  int num_refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<uint8_t> bytes(whole.begin(), whole.end());
    const int num_flips = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < num_flips; ++i) bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    try {
      const GgufFile file = GgufFile::FromBytes(bytes);
      uint64_t sum = 0;
      for (const GgufValue& value : file.metadata()) sum += value.ToString(100).size();
      for (const GgufTensor& tensor : file.tensors()) sum += tensor.data[0] + tensor.data[tensor.bytes - 1];
      EXPECT_GT(sum, 0u);
    } catch (const Error&) {
      ++num_refused;
    }
  }
  EXPECT_GT(num_refused, 1000);
}

TEST(Gguf, RefusesBadHeaders) {
  EXPECT_REFUSED(Bytes().Text("GGML").Add(uint32_t{3}), "letters GGUF");
  EXPECT_REFUSED(Bytes().Header(0, 0, 0x03000000), "big-endian");
  EXPECT_REFUSED(Bytes().Header(0, 0, 4), "version 4");
  EXPECT_REFUSED(Bytes().Header(0, 0, 0), "version 0");
  EXPECT_REFUSED(Bytes().Header(1 << 30, 0), "too many");
  EXPECT_REFUSED(Bytes().Header(0, ~uint64_t{0}), "too many");
  EXPECT_EQ(Bytes().Header(0, 0).Message(), "");
}

TEST(Gguf, RefusesBadMetadata) {
  EXPECT_REFUSED(Bytes().Header(0, 1).String("key").Add(uint32_t{13}).Add(uint64_t{0}), "unknown type 13");
  EXPECT_REFUSED(Bytes().Header(0, 1).String("").Add(uint32_t{4}).Add(uint64_t{0}), "empty key");
  EXPECT_REFUSED(Bytes().Header(0, 1).Add(~uint64_t{0}).Add(uint64_t{0}), "at most 65535");
  EXPECT_REFUSED(Bytes().Header(0, 1).String("key").Add(uint32_t{8}).Add(uint64_t{1} << 62), "bytes");
  EXPECT_REFUSED(Bytes().Header(0, 1).String("key").Add(uint32_t{7}).Add(uint64_t{2}), "has the value 2");
  EXPECT_REFUSED(Bytes().Header(0, 1).String("key").Add(uint32_t{9}).Add(uint32_t{9}).Add(uint64_t{0}),
                 "array of arrays");
  EXPECT_REFUSED(Bytes().Header(0, 1).String("key").Add(uint32_t{9}).Add(uint32_t{12}).Add(uint64_t{1} << 61),
                 "elements");
  EXPECT_REFUSED(Bytes().Header(0, 1).String("key").Add(uint32_t{9}).Add(uint32_t{8}).Add(uint64_t{1} << 61),
                 "elements");
  EXPECT_REFUSED(Bytes().Header(0, 2).U32("key", 1).U32("key", 2), "occurs twice");
  EXPECT_REFUSED(Bytes().Header(0, 1).U32("general.alignment", 48), "alignment is 48");
  EXPECT_REFUSED(Bytes().Header(0, 1).U32("general.alignment", 0), "alignment is 0");
  EXPECT_REFUSED(Bytes().Header(0, 1).U32("general.alignment", 4), "alignment is 4");
  EXPECT_EQ(Bytes().Header(0, 1).U32("general.alignment", 64).Message(), "");
}

TEST(Gguf, RefusesBadTensors) {
  const auto one = [](std::vector<uint64_t> shape, uint32_t type, uint64_t offset) {
    return Bytes().Header(1, 0).Tensor("w", std::move(shape), type, offset).Data(1024);
  };
  EXPECT_EQ(one({256}, 0, 0).Message(), "");
  EXPECT_REFUSED(one({257}, 0, 0), "cut short");
  EXPECT_REFUSED(one({256}, 0, 32), "cut short");
  EXPECT_REFUSED(one({8}, 0, ~uint64_t{31}), "cut short");
  EXPECT_REFUSED(one({8}, 0, 16), "multiple of the alignment");
  EXPECT_REFUSED(one({8, 0}, 0, 0), "dimension of 0");
  EXPECT_REFUSED(one({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), "dimension of");
  EXPECT_REFUSED(one({1, 1, 1, 1, 1}, 0, 0), "5 dimensions");
  EXPECT_REFUSED(one({48}, 2, 0), "multiple of the 32");
  EXPECT_REFUSED(one({128, 2}, 12, 0), "multiple of the 256");
  EXPECT_REFUSED(one({256}, 17, 0), "17 (IQ2_XS)");
  EXPECT_REFUSED(one({256}, 40, 0), "40 (NVFP4)");
  EXPECT_REFUSED(one({256}, 99, 0), "99 (unknown)");
  EXPECT_REFUSED(Bytes().Header(1, 0).Tensor("", {8}, 0, 0).Data(32), "no name");
  EXPECT_REFUSED(Bytes().Header(2, 0).Tensor("w", {8}, 0, 0).Tensor("w", {8}, 0, 32).Data(64),
                 "occurs twice");
  EXPECT_REFUSED(Bytes().Header(2, 0).Tensor("v", {16}, 0, 0).Tensor("w", {8}, 0, 32).Data(64), "overlap");
  EXPECT_EQ(Bytes().Header(2, 0).Tensor("v", {8}, 0, 32).Tensor("w", {8}, 0, 0).Data(64).Message(), "");
}

TEST(GgufWriter, RefusesBadInputAndLeavesThePathAlone) {
  const RemovedFile target{TemporaryPath("target")};
  GgufWriter writer;
  EXPECT_THROW(writer.Set("", uint8_t{1}), Error);
  EXPECT_THROW(writer.Set("general.alignment", uint32_t{64}), Error);
  const float values[8] = {};
  EXPECT_THROW(writer.AddTensor("", Encoding::kF32, {8}, values), Error);
  EXPECT_THROW(writer.AddTensor("w", Encoding::kQ4_0, {8}, values), Error);
  EXPECT_THROW(writer.AddTensor("w", Encoding::kF32, {0}, values), Error);
  EXPECT_THROW(writer.AddTensor("w", Encoding::kF32, {1, 1, 1, 1, 1}, values), Error);
  writer.AddTensor("w", Encoding::kF32, {8}, values);
  EXPECT_THROW(writer.AddTensor("w", Encoding::kF32, {8}, values), Error);
  writer.Write(target.path);
  const std::string before = ReadWholeFile(target.path);
  for (const size_t wrong : {size_t{28}, size_t{36}}) {
    GgufWriter bad;
    bad.AddTensor("w", Encoding::kF32, {8}, [&](const GgufSink& sink) {
      const char bytes[64] = {};
      sink(bytes, wrong);
    });
    EXPECT_THROW(bad.Write(target.path), Error);
    EXPECT_EQ(ReadWholeFile(target.path), before);
  }
}

TEST(GgufConformance, ReadsVersion1AndItsVersion3Twin) {
  MNEME_REQUIRE_DATA(data);
  const GgufFile one(data + "/models/stories260K-ggufv1/tinyllamas-stories-260k-f32.gguf");
  const GgufFile three(data + "/models/stories260K/stories260K.gguf");
  EXPECT_EQ(one.version(), 1u);
  EXPECT_EQ(three.version(), 3u);
  EXPECT_EQ(one.GetUint("llama.block_count"), 5u);
  EXPECT_EQ(*one.GetStringArray("tokenizer.ggml.tokens"), *three.GetStringArray("tokenizer.ggml.tokens"));
  EXPECT_EQ(*one.GetFloatArray("tokenizer.ggml.scores"), *three.GetFloatArray("tokenizer.ggml.scores"));
  ASSERT_FALSE(one.tensors().empty());
  for (const GgufTensor& tensor : one.tensors()) {
    const GgufTensor* twin = three.FindTensor(tensor.name);
    ASSERT_NE(twin, nullptr) << tensor.name;
    EXPECT_EQ(tensor.shape, twin->shape);
    ASSERT_EQ(tensor.bytes, twin->bytes);
    EXPECT_EQ(std::memcmp(tensor.data, twin->data, tensor.bytes), 0) << tensor.name;
  }
  // Strings of version 1 have short lengths; a copy must not.
  const RemovedFile copy{TemporaryPath("from_v1")};
  GgufWriter writer;
  writer.CopyAllMetadata(one);
  writer.Write(copy.path);
  EXPECT_EQ(*GgufFile(copy.path).GetStringArray("tokenizer.ggml.tokens"),
            *one.GetStringArray("tokenizer.ggml.tokens"));
}

TEST(GgufConformance, ReadsEveryConformanceModel) {
  MNEME_REQUIRE_DATA(data);
  int num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data + "/conformance/models")) {
    if (entry.path().extension() != ".gguf") continue;
    const GgufFile file(entry.path().string());
    EXPECT_TRUE(file.GetString("general.architecture").has_value()) << entry.path();
    EXPECT_NE(file.FindTensor("token_embd.weight"), nullptr) << entry.path();
    ++num_files;
  }
  EXPECT_GT(num_files, 20);
}

}  // namespace
}  // namespace mneme
