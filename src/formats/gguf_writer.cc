#include <algorithm>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "formats/gguf.h"

namespace mneme {
namespace {

constexpr size_t kMaxNameBytes = 65535;
constexpr uint64_t kAlignment = 32;
constexpr std::string_view kAlignmentKey = "general.alignment";

template <typename T>
void Append(std::string& out, T value) {
  static_assert(std::is_arithmetic_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void AppendString(std::string& out, std::string_view text) {
  Append(out, uint64_t{text.size()});
  out.append(text);
}

void AppendType(std::string& out, GgufType type) { Append(out, static_cast<uint32_t>(type)); }

template <typename T>
constexpr GgufType TypeOf() {
  if constexpr (std::is_same_v<T, uint8_t>) return GgufType::kU8;
  if constexpr (std::is_same_v<T, int8_t>) return GgufType::kI8;
  if constexpr (std::is_same_v<T, uint16_t>) return GgufType::kU16;
  if constexpr (std::is_same_v<T, int16_t>) return GgufType::kI16;
  if constexpr (std::is_same_v<T, uint32_t>) return GgufType::kU32;
  if constexpr (std::is_same_v<T, int32_t>) return GgufType::kI32;
  if constexpr (std::is_same_v<T, uint64_t>) return GgufType::kU64;
  if constexpr (std::is_same_v<T, int64_t>) return GgufType::kI64;
  if constexpr (std::is_same_v<T, float>) return GgufType::kF32;
  if constexpr (std::is_same_v<T, double>) return GgufType::kF64;
  if constexpr (std::is_same_v<T, bool>) return GgufType::kBool;
  return GgufType::kString;
}

// The next multiple of the alignment.
uint64_t PadTo(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

void WriteZeros(AtomicFileWriter& file, uint64_t count) {
  static constexpr char kZeros[kAlignment] = {};
  MNEME_CHECK(count < kAlignment);
  file.Write(kZeros, count);
}

}  // namespace

void GgufWriter::SetEncoded(std::string_view key, std::string encoded) {
  if (key.empty() || key.size() > kMaxNameBytes) {
    Fail(ErrorKind::kInput, "a GGUF metadata key has 1 to {} bytes; this one has {}", kMaxNameBytes,
         key.size());
  }
  if (key == kAlignmentKey) {
    Fail(ErrorKind::kInput, "{} is the writer's own and always {}", kAlignmentKey, kAlignment);
  }
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  if (found != entries_.end()) {
    found->encoded = std::move(encoded);
  } else {
    entries_.push_back({std::string(key), std::move(encoded)});
  }
}

void GgufWriter::Set(std::string_view key, GgufScalar value) {
  std::string encoded;
  std::visit(
      [&](const auto& alternative) {
        using T = std::decay_t<decltype(alternative)>;
        AppendType(encoded, TypeOf<T>());
        if constexpr (std::is_same_v<T, std::string>) {
          AppendString(encoded, alternative);
        } else {
          Append(encoded, alternative);
        }
      },
      value);
  SetEncoded(key, std::move(encoded));
}

template <typename T>
void GgufWriter::SetArray(std::string_view key, std::span<const T> values) {
  std::string encoded;
  AppendType(encoded, GgufType::kArray);
  AppendType(encoded, TypeOf<T>());
  Append(encoded, uint64_t{values.size()});
  for (const T& value : values) {
    if constexpr (std::is_arithmetic_v<T>) {
      Append(encoded, value);
    } else {
      AppendString(encoded, value);
    }
  }
  SetEncoded(key, std::move(encoded));
}

template void GgufWriter::SetArray(std::string_view, std::span<const uint8_t>);
template void GgufWriter::SetArray(std::string_view, std::span<const int8_t>);
template void GgufWriter::SetArray(std::string_view, std::span<const uint16_t>);
template void GgufWriter::SetArray(std::string_view, std::span<const int16_t>);
template void GgufWriter::SetArray(std::string_view, std::span<const uint32_t>);
template void GgufWriter::SetArray(std::string_view, std::span<const int32_t>);
template void GgufWriter::SetArray(std::string_view, std::span<const uint64_t>);
template void GgufWriter::SetArray(std::string_view, std::span<const int64_t>);
template void GgufWriter::SetArray(std::string_view, std::span<const float>);
template void GgufWriter::SetArray(std::string_view, std::span<const double>);
template void GgufWriter::SetArray(std::string_view, std::span<const std::string>);
template void GgufWriter::SetArray(std::string_view, std::span<const std::string_view>);

void GgufWriter::SetBoolArray(std::string_view key, const std::vector<bool>& values) {
  std::string encoded;
  AppendType(encoded, GgufType::kArray);
  AppendType(encoded, GgufType::kBool);
  Append(encoded, uint64_t{values.size()});
  for (const bool value : values) Append(encoded, value);
  SetEncoded(key, std::move(encoded));
}

void GgufWriter::CopyValue(const GgufValue& value) {
  std::string encoded;
  AppendType(encoded, value.type);
  if (const auto* array = std::get_if<GgufArray>(&value.value)) {
    AppendType(encoded, array->type);
    Append(encoded, array->count);
    const char* bytes = reinterpret_cast<const char*>(array->data);
    if (array->type == GgufType::kString && value.string_length_bytes == 4) {
      // Version 1 has 32-bit lengths; version 3 wants 64.
      for (const std::string_view text : value.Strings(array->count)) AppendString(encoded, text);
    } else {
      encoded.append(bytes, array->bytes);
    }
  } else if (const auto* text = std::get_if<std::string_view>(&value.value)) {
    AppendString(encoded, *text);
  } else {
    // The scalar's own bytes lie in the file right after the key and the type tag.
    encoded.append(reinterpret_cast<const char*>(value.data), value.bytes);
  }
  SetEncoded(value.key, std::move(encoded));
}

void GgufWriter::CopyAllMetadata(const GgufFile& source) {
  for (const GgufValue& value : source.metadata()) {
    if (value.key != kAlignmentKey && !Has(value.key)) CopyValue(value);
  }
}

bool GgufWriter::Has(std::string_view key) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
}

void GgufWriter::Remove(std::string_view key) {
  std::erase_if(entries_, [&](const Entry& e) { return e.key == key; });
}

void GgufWriter::AddTensor(std::string name, Encoding encoding, std::vector<uint64_t> shape,
                           GgufProducer producer) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    Fail(ErrorKind::kInput, "a GGUF tensor name has 1 to {} bytes; this one has {}", kMaxNameBytes,
         name.size());
  }
  if (std::any_of(tensors_.begin(), tensors_.end(), [&](const Tensor& t) { return t.name == name; })) {
    Fail(ErrorKind::kInput, "tensor {} is written twice", name);
  }
  if (shape.size() > 4) {
    Fail(ErrorKind::kInput, "tensor {} has {} dimensions; GGUF holds at most 4", name, shape.size());
  }
  uint64_t values = 1;
  for (const uint64_t size : shape) {
    if (size == 0 || size > (uint64_t{1} << 60) / values) {
      Fail(ErrorKind::kInput, "tensor {} has a dimension of {}", name, size);
    }
    values *= size;
  }
  const uint64_t row = shape.empty() ? 1 : shape[0];
  if (row % EncodingBlockValues(encoding) != 0) {
    Fail(ErrorKind::kInput, "tensor {} has rows of {} values, not a multiple of the {} in a block of {}",
         name, row, EncodingBlockValues(encoding), EncodingName(encoding));
  }
  const size_t bytes = EncodedBytes(encoding, values);
  tensors_.push_back({std::move(name), encoding, std::move(shape), bytes, std::move(producer)});
}

void GgufWriter::AddTensor(std::string name, Encoding encoding, std::vector<uint64_t> shape,
                           const void* data) {
  AddTensor(std::move(name), encoding, std::move(shape), GgufProducer());
  Tensor& tensor = tensors_.back();
  tensor.producer = [data, bytes = tensor.bytes](const GgufSink& sink) { sink(data, bytes); };
}

void GgufWriter::Write(const std::string& path) const {
  std::string header = "GGUF";
  Append(header, uint32_t{3});
  Append(header, uint64_t{tensors_.size()});
  Append(header, uint64_t{entries_.size()});
  for (const Entry& entry : entries_) {
    AppendString(header, entry.key);
    header += entry.encoded;
  }
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    AppendString(header, tensor.name);
    Append(header, static_cast<uint32_t>(tensor.shape.size()));
    for (const uint64_t size : tensor.shape) Append(header, size);
    Append(header, GgufTensorTypeNumber(tensor.encoding));
    Append(header, offset);
    offset += PadTo(tensor.bytes);
  }
  AtomicFileWriter file(path);
  file.Write(header);
  WriteZeros(file, PadTo(header.size()) - header.size());
  for (const Tensor& tensor : tensors_) {
    uint64_t written = 0;
    tensor.producer([&](const void* data, size_t bytes) {
      if (bytes > tensor.bytes - written) {
        Fail(ErrorKind::kInput, "tensor {} was given more than its {} bytes", tensor.name, tensor.bytes);
      }
      file.Write(data, bytes);
      written += bytes;
    });
    if (written != tensor.bytes) {
      Fail(ErrorKind::kInput, "tensor {} was given {} bytes instead of {}", tensor.name, written,
           tensor.bytes);
    }
    WriteZeros(file, PadTo(tensor.bytes) - tensor.bytes);
  }
  file.Commit();
}

}  // namespace mneme
