#include "formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.h"

static_assert(std::endian::native == std::endian::little, "files are little-endian and are read in place");

namespace mneme {
namespace {

constexpr size_t kMaxNameBytes = 65535;  // the format's own limit for keys
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMinAlignment = 8;

struct TensorTypeRow {
  uint32_t number;
  Encoding encoding;
};

constexpr TensorTypeRow kTensorTypes[] = {
    {0, Encoding::kF32},    {1, Encoding::kF16},   {2, Encoding::kQ4_0},    {3, Encoding::kQ4_1},
    {6, Encoding::kQ5_0},   {7, Encoding::kQ5_1},  {8, Encoding::kQ8_0},    {10, Encoding::kQ2_K},
    {11, Encoding::kQ3_K},  {12, Encoding::kQ4_K}, {13, Encoding::kQ5_K},   {14, Encoding::kQ6_K},
    {24, Encoding::kI8},    {25, Encoding::kI16},  {26, Encoding::kI32},    {27, Encoding::kI64},
    {28, Encoding::kF64},   {30, Encoding::kBF16}, {20, Encoding::kIQ4_NL}, {23, Encoding::kIQ4_XS},
    {39, Encoding::kMXFP4},
};

// Types of ggml that exist and that we do not decode, so that a message can name them.
struct ForeignTypeRow {
  uint32_t number;
  std::string_view name;
};

constexpr ForeignTypeRow kForeignTypes[] = {
    {4, "Q4_2"},    {5, "Q4_3"},        {9, "Q8_1"},        {15, "Q8_K"},       {16, "IQ2_XXS"},
    {17, "IQ2_XS"}, {18, "IQ3_XXS"},    {19, "IQ1_S"},      {21, "IQ3_S"},      {22, "IQ2_S"},
    {29, "IQ1_M"},  {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"},   {34, "TQ1_0"},
    {35, "TQ2_0"},  {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {40, "NVFP4"},
};

std::string ForeignTypeName(uint32_t number) {
  for (const ForeignTypeRow& row : kForeignTypes) {
    if (row.number == number) return fmt::format("{} ({})", number, row.name);
  }
  return fmt::format("{} (unknown)", number);
}

// Bytes of one value of a fixed-size type; 0 for strings and arrays.
size_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

template <typename T>
T Load(const uint8_t* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

using ScalarValue = std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray>;

ScalarValue LoadScalar(GgufType type, const uint8_t* data) {
  switch (type) {
    case GgufType::kU8:
      return uint64_t{Load<uint8_t>(data)};
    case GgufType::kI8:
      return int64_t{Load<int8_t>(data)};
    case GgufType::kU16:
      return uint64_t{Load<uint16_t>(data)};
    case GgufType::kI16:
      return int64_t{Load<int16_t>(data)};
    case GgufType::kU32:
      return uint64_t{Load<uint32_t>(data)};
    case GgufType::kI32:
      return int64_t{Load<int32_t>(data)};
    case GgufType::kF32:
      return double{Load<float>(data)};
    case GgufType::kBool:
      return Load<uint8_t>(data) != 0;
    case GgufType::kU64:
      return Load<uint64_t>(data);
    case GgufType::kI64:
      return Load<int64_t>(data);
    case GgufType::kF64:
      return Load<double>(data);
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  MNEME_CHECK(false);
}

std::string ScalarText(const ScalarValue& value) {
  if (const auto* number = std::get_if<uint64_t>(&value)) return fmt::format("{}", *number);
  if (const auto* number = std::get_if<int64_t>(&value)) return fmt::format("{}", *number);
  if (const auto* number = std::get_if<double>(&value)) return fmt::format("{:.9g}", *number);
  if (const auto* truth = std::get_if<bool>(&value)) return *truth ? "true" : "false";
  if (const auto* text = std::get_if<std::string_view>(&value)) return std::string(*text);
  return "";
}

std::optional<uint64_t> AsUint(const ScalarValue& value) {
  if (const auto* number = std::get_if<uint64_t>(&value)) return *number;
  if (const auto* number = std::get_if<int64_t>(&value)) {
    if (*number >= 0) return static_cast<uint64_t>(*number);
  }
  return std::nullopt;
}

std::optional<int64_t> AsInt(const ScalarValue& value) {
  if (const auto* number = std::get_if<int64_t>(&value)) return *number;
  if (const auto* number = std::get_if<uint64_t>(&value)) {
    if (*number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return static_cast<int64_t>(*number);
    }
  }
  return std::nullopt;
}

std::optional<double> AsFloat(const ScalarValue& value) {
  if (const auto* number = std::get_if<double>(&value)) return *number;
  if (const auto* number = std::get_if<uint64_t>(&value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<int64_t>(&value)) return static_cast<double>(*number);
  return std::nullopt;
}

// Calls use(i, value) for each element of a fixed-size array.
template <typename Use>
void ForEachScalar(const GgufArray& array, uint64_t max_count, Use use) {
  const size_t size = ScalarBytes(array.type);
  for (uint64_t i = 0; i < std::min(array.count, max_count); ++i) {
    use(i, LoadScalar(array.type, array.data + i * size));
  }
}

}  // namespace

std::string_view GgufTypeName(GgufType type) {
  static constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                "bool", "string", "array", "u64", "i64", "f64"};
  const auto index = static_cast<size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

uint32_t GgufTensorTypeNumber(Encoding encoding) {
  for (const TensorTypeRow& row : kTensorTypes) {
    if (row.encoding == encoding) return row.number;
  }
  MNEME_CHECK(false);
}

std::optional<Encoding> EncodingOfGgufTensorType(uint32_t type) {
  for (const TensorTypeRow& row : kTensorTypes) {
    if (row.number == type) return row.encoding;
  }
  return std::nullopt;
}

// The parser has walked the array before: lengths are known to be good.
std::vector<std::string_view> GgufValue::Strings(uint64_t max_count) const {
  const auto* array = std::get_if<GgufArray>(&value);
  MNEME_CHECK(array != nullptr && array->type == GgufType::kString);
  std::vector<std::string_view> strings;
  const uint64_t count = std::min(array->count, max_count);
  strings.reserve(count);
  const uint8_t* at = array->data;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t length = string_length_bytes == 4 ? Load<uint32_t>(at) : Load<uint64_t>(at);
    strings.emplace_back(reinterpret_cast<const char*>(at + string_length_bytes), length);
    at += string_length_bytes + length;
  }
  return strings;
}

std::string GgufValue::ToString(size_t max_elements) const {
  const auto* array = std::get_if<GgufArray>(&value);
  if (array == nullptr) return ScalarText(value);
  std::string text = fmt::format("[{} x {}:", GgufTypeName(array->type), array->count);
  if (array->type == GgufType::kString) {
    bool first = true;
    for (const std::string_view piece : Strings(max_elements)) {
      text += fmt::format("{} \"{}\"", first ? "" : ",", piece);
      first = false;
    }
  } else {
    ForEachScalar(*array, max_elements, [&](uint64_t i, const ScalarValue& element) {
      text += (i == 0 ? " " : ", ") + ScalarText(element);
    });
  }
  text += array->count > max_elements ? ", ...]" : "]";
  return text;
}

uint64_t GgufTensor::num_values() const {
  uint64_t count = 1;
  for (const uint64_t size : shape) count *= size;
  return count;
}

// Walks the header once. Every read checks what is left of the file first, so that a wrong count or length
// ends in a message and not in memory that is not there.
class GgufParser {
 public:
  GgufParser(GgufFile& file, std::span<const uint8_t> bytes) : file_(file), bytes_(bytes) {}

  void Parse() {
    ParseHeader();
    for (uint64_t i = 0; i < num_values_; ++i) ParseValue(i);
    SortKeys();
    ReadAlignment();
    for (uint64_t i = 0; i < num_tensors_; ++i) ParseTensor(i);
    PlaceTensors();
  }

 private:
  template <typename... Args>
  [[noreturn]] void FailAt(fmt::format_string<Args...> format, Args&&... args) const {
    Fail(ErrorKind::kFile, "{}: not a valid GGUF file: {} (at byte {})", file_.path_,
         fmt::format(format, std::forward<Args>(args)...), position_);
  }

  uint64_t Left() const { return bytes_.size() - position_; }

  template <typename T>
  T Read(std::string_view what) {
    if (Left() < sizeof(T)) FailAt("the file ends inside {}", what);
    const T value = Load<T>(bytes_.data() + position_);
    position_ += sizeof(T);
    return value;
  }

  // Counts, lengths and dimensions: 32 bits in version 1, 64 since.
  uint64_t ReadCount(std::string_view what) {
    return file_.version_ == 1 ? uint64_t{Read<uint32_t>(what)} : Read<uint64_t>(what);
  }
  size_t CountBytes() const { return file_.version_ == 1 ? 4 : 8; }

  std::string_view ReadString(std::string_view what, uint64_t max_bytes) {
    const uint64_t length = ReadCount(what);
    if (length > max_bytes) FailAt("{} has {} bytes; at most {} are allowed", what, length, max_bytes);
    if (length > Left()) FailAt("{} claims {} bytes and the file has {} left", what, length, Left());
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + position_), length);
    position_ += length;
    return text;
  }

  void ParseHeader() {
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) {
      FailAt("it does not start with the letters GGUF");
    }
    position_ = 4;
    const auto version = Read<uint32_t>("the version");
    if (version != 0 && (version & 0xFFFFu) == 0) {
      Fail(ErrorKind::kUnsupported,
           "{}: is a big-endian GGUF file; convert it to little-endian (gguf_convert_endian of the gguf "
           "Python package does that)",
           file_.path_);
    }
    if (version < 1 || version > 3) {
      Fail(ErrorKind::kUnsupported, "{}: is GGUF version {}; versions 1 to 3 can be read", file_.path_,
           version);
    }
    file_.version_ = version;
    num_tensors_ = ReadCount("the number of tensors");
    num_values_ = ReadCount("the number of metadata values");
    // A tensor needs a name, a rank, a type and an offset; a value needs a key, a type and one byte.
    const uint64_t min_tensor_bytes = CountBytes() + 1 + 16;
    const uint64_t min_value_bytes = CountBytes() + 1 + 5;
    if (num_tensors_ > Left() / min_tensor_bytes || num_values_ > Left() / min_value_bytes) {
      FailAt("it claims {} tensors and {} metadata values, too many for {} bytes", num_tensors_, num_values_,
             bytes_.size());
    }
  }

  GgufType ReadType(std::string_view key) {
    const auto type = Read<uint32_t>("a value's type");
    if (type > static_cast<uint32_t>(GgufType::kF64)) FailAt("value {} has the unknown type {}", key, type);
    return static_cast<GgufType>(type);
  }

  void ParseValue(uint64_t index) {
    GgufValue entry{};
    entry.key = ReadString("a metadata key", kMaxNameBytes);
    if (entry.key.empty()) FailAt("metadata value {} has an empty key", index);
    entry.string_length_bytes = static_cast<uint8_t>(CountBytes());
    entry.type = ReadType(entry.key);
    entry.data = bytes_.data() + position_;
    if (entry.type == GgufType::kString) {
      entry.value = ReadString(entry.key, Left());
    } else if (entry.type == GgufType::kArray) {
      entry.value = ParseArray(entry.key);
    } else {
      const size_t size = ScalarBytes(entry.type);
      if (Left() < size) FailAt("the file ends inside value {}", entry.key);
      CheckBools(entry.type, bytes_.subspan(position_, size), entry.key);
      entry.value = LoadScalar(entry.type, bytes_.data() + position_);
      position_ += size;
    }
    entry.bytes = static_cast<size_t>(bytes_.data() + position_ - entry.data);
    file_.metadata_.push_back(std::move(entry));
  }

  GgufArray ParseArray(std::string_view key) {
    const GgufType type = ReadType(key);
    if (type == GgufType::kArray) FailAt("value {} is an array of arrays, which is not supported", key);
    const uint64_t count = ReadCount("an array's length");
    GgufArray array{type, count, bytes_.data() + position_, 0};
    const size_t start = position_;
    const size_t element_bytes = type == GgufType::kString ? CountBytes() : ScalarBytes(type);
    if (count > Left() / element_bytes) {
      FailAt("array {} claims {} elements, too many for the {} bytes left", key, count, Left());
    }
    if (type == GgufType::kString) {
      for (uint64_t i = 0; i < count; ++i) ReadString(key, Left());
    } else {
      CheckBools(type, bytes_.subspan(position_, count * element_bytes), key);
      position_ += count * element_bytes;
    }
    array.bytes = position_ - start;
    return array;
  }

  void CheckBools(GgufType type, std::span<const uint8_t> values, std::string_view key) const {
    if (type != GgufType::kBool) return;
    for (const uint8_t value : values) {
      if (value > 1) FailAt("boolean {} has the value {}", key, value);
    }
  }

  void SortKeys() {
    auto& order = file_.metadata_by_key_;
    order.resize(file_.metadata_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
    const auto key = [&](uint32_t i) { return file_.metadata_[i].key; };
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
    for (size_t i = 1; i < order.size(); ++i) {
      if (key(order[i - 1]) == key(order[i])) FailAt("metadata key {} occurs twice", key(order[i]));
    }
  }

  void ReadAlignment() {
    const std::optional<uint64_t> alignment = file_.GetUint("general.alignment");
    if (!alignment) return;
    if (!std::has_single_bit(*alignment) || *alignment < kMinAlignment || *alignment > (uint64_t{1} << 31)) {
      FailAt("general.alignment is {}; it must be a power of two from {} on", *alignment, kMinAlignment);
    }
    file_.alignment_ = *alignment;
  }

  void ParseTensor(uint64_t index) {
    GgufTensor tensor{};
    tensor.name = ReadString("a tensor's name", kMaxNameBytes);
    if (tensor.name.empty()) FailAt("tensor {} has no name", index);
    const auto rank = Read<uint32_t>("a tensor's rank");
    if (rank > kMaxDimensions) {
      FailAt("tensor {} has {} dimensions; at most {} are allowed", tensor.name, rank, kMaxDimensions);
    }
    uint64_t values = 1;
    for (uint32_t i = 0; i < rank; ++i) {
      const uint64_t size = ReadCount("a tensor's shape");
      // 2^60 values leave room to multiply by the bytes of any block.
      if (size == 0 || size > (uint64_t{1} << 60) / values) {
        FailAt("tensor {} has a dimension of {}", tensor.name, size);
      }
      values *= size;
      tensor.shape.push_back(size);
    }
    const auto type = Read<uint32_t>("a tensor's type");
    const std::optional<Encoding> encoding = EncodingOfGgufTensorType(type);
    if (!encoding) {
      Fail(
          ErrorKind::kUnsupported,
          "{}: tensor {} has type {}, which cannot be decoded here; use a file of type F32, F16, BF16, Q8_0, "
          "Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, MXFP4, IQ4_NL or IQ4_XS",
          file_.path_, tensor.name, ForeignTypeName(type));
    }
    tensor.encoding = *encoding;
    const uint64_t row = tensor.shape.empty() ? 1 : tensor.shape[0];
    if (row % EncodingBlockValues(*encoding) != 0) {
      FailAt("tensor {} has rows of {} values, not a multiple of the {} in a block of {}", tensor.name, row,
             EncodingBlockValues(*encoding), EncodingName(*encoding));
    }
    tensor.bytes = EncodedBytes(*encoding, values);
    offsets_.push_back(Read<uint64_t>("a tensor's offset"));
    if (offsets_.back() % file_.alignment_ != 0) {
      FailAt("tensor {} starts at {}, which is not a multiple of the alignment {}", tensor.name,
             offsets_.back(), file_.alignment_);
    }
    file_.tensors_.push_back(std::move(tensor));
  }

  // Turns offsets into pointers; the data area begins at the first aligned byte after the table.
  void PlaceTensors() {
    SortNames();
    if (file_.tensors_.empty()) return;
    const uint64_t mask = file_.alignment_ - 1;
    const uint64_t begin = (position_ + mask) & ~mask;
    if (begin > bytes_.size()) FailAt("the file ends before its tensor data");
    const uint64_t data_bytes = bytes_.size() - begin;
    std::vector<uint32_t> order(file_.tensors_.size());
    for (size_t i = 0; i < order.size(); ++i) {
      order[i] = static_cast<uint32_t>(i);
      GgufTensor& tensor = file_.tensors_[i];
      if (offsets_[i] > data_bytes || tensor.bytes > data_bytes - offsets_[i]) {
        FailAt(
            "tensor {} needs {} bytes at offset {} of the data, which has {} bytes; the file may be cut "
            "short",
            tensor.name, tensor.bytes, offsets_[i], data_bytes);
      }
      tensor.data = bytes_.data() + begin + offsets_[i];
    }
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return offsets_[a] < offsets_[b]; });
    for (size_t i = 1; i < order.size(); ++i) {
      const GgufTensor& before = file_.tensors_[order[i - 1]];
      const GgufTensor& after = file_.tensors_[order[i]];
      if (offsets_[order[i]] - offsets_[order[i - 1]] < before.bytes) {
        FailAt("tensors {} and {} overlap", before.name, after.name);
      }
    }
  }

  void SortNames() {
    auto& order = file_.tensors_by_name_;
    order.resize(file_.tensors_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
    const auto name = [&](uint32_t i) -> const std::string& { return file_.tensors_[i].name; };
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return name(a) < name(b); });
    for (size_t i = 1; i < order.size(); ++i) {
      if (name(order[i - 1]) == name(order[i])) FailAt("tensor {} occurs twice", name(order[i]));
    }
  }

  GgufFile& file_;
  std::span<const uint8_t> bytes_;
  size_t position_ = 0;
  uint64_t num_tensors_ = 0;
  uint64_t num_values_ = 0;
  std::vector<uint64_t> offsets_;
};

GgufFile::GgufFile(const std::string& path) : mapping_(path), path_(path) { Parse(mapping_.bytes()); }

GgufFile GgufFile::FromBytes(std::span<const uint8_t> bytes, std::string name) {
  GgufFile file;
  file.path_ = std::move(name);
  file.Parse(bytes);
  return file;
}

void GgufFile::Parse(std::span<const uint8_t> bytes) { GgufParser(*this, bytes).Parse(); }

const GgufValue* GgufFile::FindValue(std::string_view key) const {
  const auto found = std::lower_bound(
      metadata_by_key_.begin(), metadata_by_key_.end(), key,
      [&](uint32_t index, std::string_view wanted) { return metadata_[index].key < wanted; });
  if (found == metadata_by_key_.end() || metadata_[*found].key != key) return nullptr;
  return &metadata_[*found];
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors_by_name_.begin(), tensors_by_name_.end(), name,
      [&](uint32_t index, std::string_view wanted) { return tensors_[index].name < wanted; });
  if (found == tensors_by_name_.end() || tensors_[*found].name != name) return nullptr;
  return &tensors_[*found];
}

namespace {

[[noreturn]] void FailType(const GgufFile& file, const GgufValue& value, std::string_view wanted) {
  Fail(ErrorKind::kFile, "{}: metadata {} is {} {}; {} is expected there", file.path(), value.key,
       GgufTypeName(value.type), value.ToString(4).substr(0, 100), wanted);
}

const GgufArray& RequireArray(const GgufFile& file, const GgufValue& value, std::string_view wanted) {
  const auto* array = std::get_if<GgufArray>(&value.value);
  if (array == nullptr) FailType(file, value, wanted);
  return *array;
}

}  // namespace

std::optional<uint64_t> GgufFile::GetUint(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<uint64_t> number = AsUint(value->value);
  if (!number) FailType(*this, *value, "an integer of at least 0");
  return number;
}

std::optional<int64_t> GgufFile::GetInt(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = AsInt(value->value);
  if (!number) FailType(*this, *value, "an integer below 2^63");
  return number;
}

std::optional<double> GgufFile::GetFloat(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<double> number = AsFloat(value->value);
  if (!number) FailType(*this, *value, "a number");
  return number;
}

std::optional<bool> GgufFile::GetBool(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  const auto* truth = std::get_if<bool>(&value->value);
  if (truth == nullptr) FailType(*this, *value, "a boolean");
  return *truth;
}

std::optional<std::string_view> GgufFile::GetString(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  const auto* text = std::get_if<std::string_view>(&value->value);
  if (text == nullptr) FailType(*this, *value, "a string");
  return *text;
}

std::optional<std::vector<std::string_view>> GgufFile::GetStringArray(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  const GgufArray& array = RequireArray(*this, *value, "an array of strings");
  if (array.type != GgufType::kString) FailType(*this, *value, "an array of strings");
  return value->Strings(array.count);
}

std::optional<std::vector<float>> GgufFile::GetFloatArray(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  const GgufArray& array = RequireArray(*this, *value, "an array of numbers");
  if (array.type == GgufType::kString) FailType(*this, *value, "an array of numbers");
  std::vector<float> numbers(array.count);
  ForEachScalar(array, array.count, [&](uint64_t i, const ScalarValue& element) {
    const std::optional<double> number = AsFloat(element);
    if (!number) FailType(*this, *value, "an array of numbers");
    numbers[i] = static_cast<float>(*number);
  });
  return numbers;
}

std::optional<std::vector<int64_t>> GgufFile::GetIntArray(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (value == nullptr) return std::nullopt;
  const GgufArray& array = RequireArray(*this, *value, "an array of integers");
  if (array.type == GgufType::kString) FailType(*this, *value, "an array of integers");
  std::vector<int64_t> numbers(array.count);
  ForEachScalar(array, array.count, [&](uint64_t i, const ScalarValue& element) {
    if (const auto* truth = std::get_if<bool>(&element)) {
      numbers[i] = *truth ? 1 : 0;
      return;
    }
    const std::optional<int64_t> number = AsInt(element);
    if (!number) FailType(*this, *value, "an array of integers below 2^63");
    numbers[i] = *number;
  });
  return numbers;
}

}  // namespace mneme
