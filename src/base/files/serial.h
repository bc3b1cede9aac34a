// Plain bytes in and out, for state files: little-endian, no padding, every read bounds-checked.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace mneme {

static_assert(std::endian::native == std::endian::little, "state files are written as they lie in memory");

class StateWriter {
 public:
  virtual ~StateWriter() = default;
  // Appends. Throws Error(kFile) if the destination cannot take it.
  virtual void Write(const void* data, size_t bytes) = 0;

  template <typename T>
  void Put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
    Write(&value, sizeof(value));
  }
  void PutString(std::string_view text) {
    Put<uint64_t>(text.size());
    Write(text.data(), text.size());
  }
  template <typename T>
  void PutVector(const std::vector<T>& values) {
    Put<uint64_t>(values.size());
    Write(values.data(), values.size() * sizeof(T));
  }
};

class StateReader {
 public:
  virtual ~StateReader() = default;
  // Throws Error(kFile) if fewer bytes are left.
  virtual void Read(void* data, size_t bytes) = 0;
  virtual size_t remaining_bytes() const = 0;

  template <typename T>
  T Get() {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
    T value;
    Read(&value, sizeof(value));
    return value;
  }
  std::string GetString() {
    std::string text(Length(1), '\0');
    Read(text.data(), text.size());
    return text;
  }
  template <typename T>
  std::vector<T> GetVector() {
    std::vector<T> values(Length(sizeof(T)));
    Read(values.data(), values.size() * sizeof(T));
    return values;
  }

 private:
  // A count that the rest of the file can hold, so that a hostile one allocates nothing.
  size_t Length(size_t item_bytes) {
    const uint64_t count = Get<uint64_t>();
    if (count > remaining_bytes() / item_bytes) {
      Fail(ErrorKind::kFile, "state: a list of {} items does not fit into the {} bytes that are left", count,
           remaining_bytes());
    }
    return static_cast<size_t>(count);
  }
};

// In memory: clones, tests.
class BufferWriter : public StateWriter {
 public:
  void Write(const void* data, size_t bytes) override {
    buffer_.append(static_cast<const char*>(data), bytes);
  }
  std::string& buffer() { return buffer_; }

 private:
  std::string buffer_;
};

class BufferReader : public StateReader {
 public:
  explicit BufferReader(std::string_view bytes) : bytes_(bytes) {}
  void Read(void* data, size_t bytes) override {
    if (bytes > bytes_.size()) {
      Fail(ErrorKind::kFile, "state: ends {} bytes too early", bytes - bytes_.size());
    }
    bytes_.copy(static_cast<char*>(data), bytes);
    bytes_.remove_prefix(bytes);
  }
  size_t remaining_bytes() const override { return bytes_.size(); }

 private:
  std::string_view bytes_;
};

}  // namespace mneme
