#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/text/json.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference library's limit
constexpr int kMaxJsonDepth = 8;                   // a header has 3, an index 2
constexpr std::string_view kMetadataKey = "__metadata__";

struct DtypeRow {
  std::string_view name;
  size_t bytes;
  std::optional<Encoding> encoding;
};

constexpr DtypeRow kDtypes[] = {
    {"F32", 4, Encoding::kF32}, {"F16", 2, Encoding::kF16}, {"BF16", 2, Encoding::kBF16},
    {"F64", 8, Encoding::kF64}, {"I8", 1, Encoding::kI8},   {"I16", 2, Encoding::kI16},
    {"I32", 4, Encoding::kI32}, {"I64", 8, Encoding::kI64}, {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt},
};

const DtypeRow* FindDtype(std::string_view name) {
  for (const DtypeRow& row : kDtypes) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

struct Placed {
  SafetensorsTensor tensor;
  uint64_t begin;
  uint64_t end;
};

// An array of exactly `count` (any number if negative) unsigned integers.
std::vector<uint64_t> ReadIntegers(const Json& entry, const char* field, int count, const std::string& path,
                                   const std::string& name) {
  const auto found = entry.find(field);
  if (found == entry.end() || !found->is_array() ||
      (count >= 0 && found->size() != static_cast<size_t>(count))) {
    Fail(ErrorKind::kFile, "{}: tensor {} has no proper {}", path, name, field);
  }
  std::vector<uint64_t> integers;
  for (const Json& item : *found) {
    if (!item.is_number_unsigned()) {
      Fail(ErrorKind::kFile, "{}: {} of tensor {} holds something that is not a whole number", path, field,
           name);
    }
    integers.push_back(item.get<uint64_t>());
  }
  return integers;
}

Placed ReadTensor(const std::string& name, const Json& entry, std::span<const uint8_t> data,
                  const std::string& path) {
  if (!entry.is_object()) Fail(ErrorKind::kFile, "{}: the entry of tensor {} is not an object", path, name);
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) {
    Fail(ErrorKind::kFile, "{}: tensor {} has no dtype", path, name);
  }
  Placed placed{};
  placed.tensor.name = name;
  placed.tensor.dtype = dtype->get<std::string>();
  const DtypeRow* row = FindDtype(placed.tensor.dtype);
  if (row == nullptr) {
    Fail(ErrorKind::kUnsupported,
         "{}: tensor {} has dtype {}; F64, F32, F16, BF16, I8 to I64, U8 and BOOL can be read", path, name,
         placed.tensor.dtype);
  }
  placed.tensor.encoding = row->encoding;
  placed.tensor.shape = ReadIntegers(entry, "shape", -1, path, name);
  const std::vector<uint64_t> offsets = ReadIntegers(entry, "data_offsets", 2, path, name);
  placed.begin = offsets[0];
  placed.end = offsets[1];
  if (placed.begin > placed.end || placed.end > data.size()) {
    Fail(ErrorKind::kFile,
         "{}: tensor {} lies at bytes {} to {} of {} bytes of data; the file may be cut short", path, name,
         placed.begin, placed.end, data.size());
  }
  uint64_t bytes = row->bytes;
  for (const uint64_t size : placed.tensor.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      Fail(ErrorKind::kFile, "{}: the shape of tensor {} overflows", path, name);
    }
  }
  if (bytes != placed.end - placed.begin) {
    Fail(ErrorKind::kFile, "{}: the shape of tensor {} needs {} bytes and its offsets span {}", path, name,
         bytes, placed.end - placed.begin);
  }
  placed.tensor.data = data.data() + placed.begin;
  placed.tensor.bytes = bytes;
  return placed;
}

// The tensors, in file order, must cover the data from the first byte to the last.
void CheckCover(std::vector<Placed>& placed, uint64_t data_bytes, const std::string& path) {
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const Placed& item : placed) {
    if (item.begin != covered) {
      Fail(ErrorKind::kFile, "{}: tensor {} starts at byte {} of the data and the one before ends at {}: {}",
           path, item.tensor.name, item.begin, covered,
           item.begin < covered ? "they overlap" : "there is a gap");
    }
    covered = item.end;
  }
  if (covered != data_bytes) {
    Fail(ErrorKind::kFile,
         "{}: {} bytes follow the last tensor; a safetensors file ends with its last tensor, so this one is "
         "damaged or was not written by a correct program",
         path, data_bytes - covered);
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : mapping_(path), path_(path) {
  Parse(mapping_.bytes());
}

SafetensorsFile SafetensorsFile::FromBytes(std::span<const uint8_t> bytes, std::string name) {
  SafetensorsFile file;
  file.path_ = std::move(name);
  file.Parse(bytes);
  return file;
}

void SafetensorsFile::Parse(std::span<const uint8_t> bytes) {
  if (bytes.size() < 8) {
    Fail(ErrorKind::kFile, "{}: has {} bytes; a safetensors file has at least 10", path_, bytes.size());
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - 8) {
    Fail(ErrorKind::kFile,
         "{}: claims a header of {} bytes; the file has {} and the limit is {}; it is cut short or not a "
         "safetensors file",
         path_, header_bytes, bytes.size(), kMaxHeaderBytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data() + 8), header_bytes);
  if (text.empty() || text[0] != '{') {
    Fail(ErrorKind::kFile, "{}: its header does not start with an opening brace", path_);
  }
  const Json header = ParseStrictJson(text, path_, kMaxJsonDepth);
  const std::span<const uint8_t> data = bytes.subspan(8 + header_bytes);
  std::vector<Placed> placed;
  for (const auto& [name, entry] : header.items()) {
    if (name != kMetadataKey) {
      placed.push_back(ReadTensor(name, entry, data, path_));
      continue;
    }
    if (!entry.is_object()) Fail(ErrorKind::kFile, "{}: {} is not an object", path_, kMetadataKey);
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) Fail(ErrorKind::kFile, "{}: metadata {} is not a string", path_, key);
      metadata_[key] = value.get<std::string>();
    }
  }
  CheckCover(placed, data.size(), path_);
  for (Placed& item : placed) {
    by_name_[item.tensor.name] = tensors_.size();
    tensors_.push_back(std::move(item.tensor));
  }
}

const SafetensorsTensor* SafetensorsFile::FindTensor(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

namespace {

// Whether the name stays inside the folder it is looked up in.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace

SafetensorsFolder::SafetensorsFolder(const std::string& folder) : path_(folder) {
  if (!IsDirectory(folder)) Fail(ErrorKind::kFile, "{}: is not a folder", folder);
  const std::string config = folder + "/config.json";
  if (!FileExists(config)) {
    Fail(ErrorKind::kFile, "{}: has no config.json, so it is not a Hugging Face model folder", folder);
  }
  config_text_ = ReadWholeFile(config, kMaxHeaderBytes);
  const std::string single = folder + "/model.safetensors";
  const std::string index = folder + "/model.safetensors.index.json";
  if (FileExists(single)) {
    files_.emplace_back(single);
  } else if (FileExists(index)) {
    OpenShards(index);
  } else if (FileExists(folder + "/pytorch_model.bin") ||
             FileExists(folder + "/pytorch_model.bin.index.json")) {
    Fail(ErrorKind::kUnsupported,
         "{}: holds pytorch_model.bin only; save the model as safetensors (save_pretrained with "
         "safe_serialization) and try again",
         folder);
  } else {
    Fail(ErrorKind::kFile, "{}: has neither model.safetensors nor model.safetensors.index.json", folder);
  }
}

void SafetensorsFolder::OpenShards(const std::string& index_path) {
  const Json index = ParseStrictJson(ReadWholeFile(index_path, kMaxHeaderBytes), index_path, kMaxJsonDepth);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object() || map->empty()) {
    Fail(ErrorKind::kFile, "{}: has no weight_map", index_path);
  }
  std::map<std::string, size_t> shards;  // file name to index in files_
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get<std::string>())) {
      Fail(ErrorKind::kFile, "{}: the weight_map of tensor {} is not the name of a file in the folder",
           index_path, tensor);
    }
    const std::string name = shard.get<std::string>();
    const auto [found, is_new] = shards.try_emplace(name, files_.size());
    if (is_new) files_.emplace_back(path_ + "/" + name);
    if (files_[found->second].FindTensor(tensor) == nullptr) {
      Fail(ErrorKind::kFile, "{}: names tensor {} in {}, which does not hold it", index_path, tensor, name);
    }
  }
  std::map<std::string_view, const SafetensorsFile*> owners;
  for (const SafetensorsFile& file : files_) {
    for (const SafetensorsTensor& tensor : file.tensors()) {
      const auto [found, is_new] = owners.try_emplace(tensor.name, &file);
      if (!is_new) {
        Fail(ErrorKind::kFile, "{}: tensor {} is also in {}", file.path(), tensor.name,
             found->second->path());
      }
    }
  }
}

std::optional<std::string> SafetensorsFolder::ReadFile(std::string_view name) const {
  if (!IsPlainFileName(name)) Fail(ErrorKind::kInput, "{} is not the name of a file in {}", name, path_);
  const std::string path = path_ + "/" + std::string(name);
  if (!FileExists(path)) return std::nullopt;
  return ReadWholeFile(path, kMaxTokenizerBytes);
}

std::vector<const SafetensorsTensor*> SafetensorsFolder::tensors() const {
  std::vector<const SafetensorsTensor*> all;
  for (const SafetensorsFile& file : files_) {
    for (const SafetensorsTensor& tensor : file.tensors()) all.push_back(&tensor);
  }
  return all;
}

const SafetensorsTensor* SafetensorsFolder::FindTensor(std::string_view name) const {
  for (const SafetensorsFile& file : files_) {
    if (const SafetensorsTensor* tensor = file.FindTensor(name)) return tensor;
  }
  return nullptr;
}

void SafetensorsWriter::Add(std::string name, Encoding encoding, std::vector<uint64_t> shape,
                            const void* data) {
  if (EncodingBlockValues(encoding) != 1) {
    Fail(ErrorKind::kUnsupported, "tensor {} has encoding {}, which safetensors files cannot hold", name,
         EncodingName(encoding));
  }
  const bool exists =
      std::any_of(tensors_.begin(), tensors_.end(), [&](const Tensor& t) { return t.name == name; });
  if (exists || name == kMetadataKey) {
    Fail(ErrorKind::kInput, "tensor name {} is {}", name, exists ? "used twice" : "reserved");
  }
  uint64_t bytes = EncodingBlockBytes(encoding);
  for (const uint64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      Fail(ErrorKind::kInput, "the shape of tensor {} overflows", name);
    }
  }
  tensors_.push_back({std::move(name), encoding, std::move(shape), data, bytes});
}

void SafetensorsWriter::SetMetadata(std::string key, std::string value) {
  metadata_[std::move(key)] = std::move(value);
}

void SafetensorsWriter::Write(const std::string& path) const {
  // Widest numbers first: with the header padded to 8 bytes every tensor is then aligned to its numbers.
  std::vector<const Tensor*> order;
  for (const Tensor& tensor : tensors_) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const Tensor* a, const Tensor* b) {
    return EncodingBlockBytes(a->encoding) > EncodingBlockBytes(b->encoding);
  });
  Json header = Json::object();
  if (!metadata_.empty()) header[std::string(kMetadataKey)] = metadata_;
  uint64_t offset = 0;
  for (const Tensor* tensor : order) {
    const auto row = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                  [&](const DtypeRow& r) { return r.encoding == tensor->encoding; });
    header[tensor->name] = {{"dtype", std::string(row->name)},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + tensor->bytes}}};
    offset += tensor->bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception& error) {
    Fail(ErrorKind::kInput, "{}: a tensor name or metadata is not valid UTF-8: {}", path, JsonReason(error));
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeaderBytes) {
    Fail(ErrorKind::kInput, "{}: the header would have {} bytes; the limit is {}", path, text.size(),
         kMaxHeaderBytes);
  }
  AtomicFileWriter file(path);
  const uint64_t header_bytes = text.size();
  file.Write(&header_bytes, sizeof(header_bytes));
  file.Write(text);
  for (const Tensor* tensor : order) file.Write(tensor->data, tensor->bytes);
  file.Commit();
}

}  // namespace mneme
