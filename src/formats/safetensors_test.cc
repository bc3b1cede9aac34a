#include "formats/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"

namespace mneme {
namespace {

// A folder that goes away with the object.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& name)
      : path_(::testing::TempDir() + "/mneme_safetensors_" + std::to_string(::getpid()) + "_" + name) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  void WriteText(const std::string& name, const std::string& text) const {
    std::ofstream(File(name)) << text;
  }

 private:
  std::string path_;
};

std::vector<uint8_t> FileBytes(std::string_view header, size_t data_bytes) {
  std::vector<uint8_t> bytes(8 + header.size() + data_bytes);
  const uint64_t header_bytes = header.size();
  std::memcpy(bytes.data(), &header_bytes, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

// The error of reading such a file; empty if there is none.
std::string MessageOf(std::string_view header, size_t data_bytes) {
  try {
    SafetensorsFile::FromBytes(FileBytes(header, data_bytes));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_REFUSED(header, data_bytes, fragment)                         \
  EXPECT_NE(MessageOf(header, data_bytes).find(fragment), std::string::npos) \
      << "message: " << MessageOf(header, data_bytes)

constexpr float kValues[6] = {0, 1, 2, 3, 4, 5};

TEST(Safetensors, RoundTrip) {
  const TemporaryFolder folder("round_trip");
  SafetensorsWriter writer;
  const int8_t bytes[3] = {-1, 2, -3};
  writer.Add("small", Encoding::kI8, {3}, bytes);
  writer.Add("matrix", Encoding::kF32, {2, 3}, kValues);
  writer.Add("scalar", Encoding::kF32, {}, kValues + 4);
  writer.Add("empty", Encoding::kF16, {0, 7}, nullptr);
  writer.SetMetadata("format", "pt");
  writer.Write(folder.File("a.safetensors"));
  const SafetensorsFile file(folder.File("a.safetensors"));
  ASSERT_EQ(file.tensors().size(), 4u);
  const SafetensorsTensor* matrix = file.FindTensor("matrix");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->encoding, Encoding::kF32);
  EXPECT_EQ(matrix->dtype, "F32");
  EXPECT_EQ(matrix->shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(matrix->data) % 4, 0u);
  EXPECT_EQ(std::memcmp(matrix->data, kValues, sizeof(kValues)), 0);
  EXPECT_EQ(file.FindTensor("small")->bytes, 3u);
  EXPECT_EQ(file.FindTensor("empty")->bytes, 0u);
  EXPECT_EQ(file.FindTensor("none"), nullptr);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(Safetensors, WriterRefusesBadInput) {
  SafetensorsWriter writer;
  writer.Add("w", Encoding::kF32, {6}, kValues);
  EXPECT_THROW(writer.Add("w", Encoding::kF32, {6}, kValues), Error);
  EXPECT_THROW(writer.Add("__metadata__", Encoding::kF32, {6}, kValues), Error);
  EXPECT_THROW(writer.Add("q", Encoding::kQ8_0, {32}, kValues), Error);
  EXPECT_THROW(writer.Add("x", Encoding::kF32, {uint64_t{1} << 63, 2}, kValues), Error);
}

TEST(Safetensors, RefusesBadHeaders) {
  EXPECT_EQ(MessageOf(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "");
  EXPECT_EQ(MessageOf("{}", 0), "");
  EXPECT_REFUSED("", 0, "opening brace");
  EXPECT_REFUSED(" {}", 0, "opening brace");
  EXPECT_REFUSED("{", 0, "JSON");
  EXPECT_REFUSED(R"({"w":3})", 0, "not an object");
  EXPECT_REFUSED(R"({"w":{"shape":[2],"data_offsets":[0,8]}})", 8, "no dtype");
  EXPECT_REFUSED(R"({"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}})", 8, "F8_E4M3");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","data_offsets":[0,8]}})", 8, "shape");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "whole number");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8, "whole number");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8, "data_offsets");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "lies at bytes");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, "cut short");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "needs 12 bytes");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", 8,
                 "overflows");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9, "1 bytes follow");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "gap");
  EXPECT_REFUSED(R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                 R"("w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                 12, "overlap");
  EXPECT_REFUSED(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                 R"("w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                 8, "occurs twice");
  EXPECT_REFUSED(R"({"__metadata__":{"a":1}})", 0, "not a string");
  EXPECT_REFUSED("{\"\xFF\":1}", 0, "JSON");
  EXPECT_REFUSED("{\"w\":" + std::string(100000, '[') + "}", 0, "JSON");
}

TEST(Safetensors, RefusesHeaderLengthsBeyondTheFile) {
  std::vector<uint8_t> bytes = FileBytes("{}", 0);
  for (const uint64_t length : {uint64_t{3}, uint64_t{100'000'001}, ~uint64_t{0}}) {
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_THROW(SafetensorsFile::FromBytes(bytes), Error) << length;
  }
  EXPECT_THROW(SafetensorsFile::FromBytes({}), Error);
}

TEST(Safetensors, PrefixesAndFlippedBytes) {
  const std::vector<uint8_t> whole =
      FileBytes(R"({"__metadata__":{"a":"b"},"v":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},)"
                R"("w":{"dtype":"BOOL","shape":[8],"data_offsets":[8,16]}})",
                16);
  EXPECT_NO_THROW(SafetensorsFile::FromBytes(whole));
  for (size_t length = 0; length < whole.size(); ++length) {
    const auto prefix = std::make_unique<uint8_t[]>(length);  // so that a sanitizer sees a read past the end
    std::memcpy(prefix.get(), whole.data(), length);
    EXPECT_THROW(SafetensorsFile::FromBytes({prefix.get(), length}), Error) << length;
  }
  std::mt19937 random(3);
  for (int round = 0; round < 5000; ++round) {
    std::vector<uint8_t> bytes = whole;
    bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    try {
      SafetensorsFile::FromBytes(bytes);
    } catch (const Error&) {
    }
  }
}

class ShardedFolder : public ::testing::Test {
 protected:
  ShardedFolder() : folder_("sharded") {
    folder_.WriteText("config.json", R"({"model_type":"llama"})");
    SafetensorsWriter one, two;
    one.Add("a", Encoding::kF32, {6}, kValues);
    two.Add("b", Encoding::kF32, {2, 3}, kValues);
    one.Write(folder_.File("one.safetensors"));
    two.Write(folder_.File("two.safetensors"));
  }
  void WriteIndex(const std::string& map) const {
    folder_.WriteText("model.safetensors.index.json",
                      R"({"metadata":{"total_size":48},"weight_map":)" + map + "}");
  }
  std::string Message() const {
    try {
      SafetensorsFolder{folder_.path()};
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  TemporaryFolder folder_;
};

TEST_F(ShardedFolder, FindsTensorsInAllShards) {
  WriteIndex(R"({"a":"one.safetensors","b":"two.safetensors"})");
  const SafetensorsFolder folder(folder_.path());
  EXPECT_EQ(folder.files().size(), 2u);
  EXPECT_EQ(folder.tensors().size(), 2u);
  EXPECT_EQ(folder.FindTensor("b")->shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(folder.FindTensor("c"), nullptr);
  EXPECT_EQ(folder.config_text(), R"({"model_type":"llama"})");
  EXPECT_EQ(folder.ReadFile("config.json"), folder.config_text());
  EXPECT_EQ(folder.ReadFile("tokenizer.json"), std::nullopt);
  EXPECT_THROW(folder.ReadFile("../config.json"), Error);
}

TEST_F(ShardedFolder, RefusesBadIndexes) {
  EXPECT_NE(Message().find("neither model.safetensors"), std::string::npos) << Message();
  folder_.WriteText("pytorch_model.bin", "x");
  EXPECT_NE(Message().find("pytorch_model.bin only"), std::string::npos) << Message();
  const auto expect = [&](const std::string& map, const char* fragment) {
    WriteIndex(map);
    EXPECT_NE(Message().find(fragment), std::string::npos) << map << ": " << Message();
  };
  expect("3", "no weight_map");
  expect("{}", "no weight_map");
  expect(R"({"a":"../one.safetensors"})", "not the name of a file");
  expect(R"({"a":"/etc/passwd"})", "not the name of a file");
  expect(R"({"a":".."})", "not the name of a file");
  expect(R"({"a":7})", "not the name of a file");
  expect(R"({"a":"three.safetensors"})", "three.safetensors");
  expect(R"({"b":"one.safetensors"})", "does not hold it");
  SafetensorsWriter again;
  again.Add("a", Encoding::kF32, {6}, kValues);
  again.Add("b", Encoding::kF32, {6}, kValues);
  again.Write(folder_.File("two.safetensors"));
  expect(R"({"a":"one.safetensors","b":"two.safetensors"})", "is also in");
  std::filesystem::remove(folder_.File("config.json"));
  EXPECT_NE(Message().find("no config.json"), std::string::npos) << Message();
}

TEST(SafetensorsConformance, Fixtures) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/models/safetensors-fixtures/";
  EXPECT_EQ(SafetensorsFile(folder + "tensor-1d-int32.safetensors").tensors().at(0).encoding, Encoding::kI32);
  EXPECT_EQ(SafetensorsFile(folder + "tensor-2d-float64.safetensors").tensors().at(0).encoding,
            Encoding::kF64);
  EXPECT_EQ(SafetensorsFile(folder + "tensor-3d-float32.safetensors").tensors().at(0).shape.size(), 3u);
  EXPECT_EQ(SafetensorsFile(folder + "tensor-4d-float32.safetensors").tensors().at(0).shape.size(), 4u);
  // Five stray bytes after the last tensor.
  EXPECT_THROW(SafetensorsFile(folder + "tiny.safetensors"), Error);
  const SafetensorsFolder model(data + "/models/hf-tiny-llama-random");
  EXPECT_NE(model.FindTensor("model.embed_tokens.weight"), nullptr);
}

}  // namespace
}  // namespace mneme
