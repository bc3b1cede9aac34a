// What a model file says of itself under the names of its container, for the settings that only some families
// have: metadata of a GGUF, or config.json. Remembers what was asked for, so that what nobody asked for and
// changes the computation can be refused, and what a folder said can be written into a GGUF. Copies share the
// file. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/gguf.h"

namespace mneme {

// Names: `gguf` without the architecture before it ("expert_count"); `json` a path ("text.a"), or several
// with
// '|' between them, of which the first counts that is there and not null. Either may be empty: the container
// has no such name. A list of equal numbers is one Uint. Functions throw Error(kFile), naming the key, for a
// value of another type.
class Settings {
 public:
  // Keeps a pointer to the file.
  Settings(const GgufFile& file, std::string architecture);
  // path: for messages.
  Settings(nlohmann::json config, std::string path);
  Settings() = default;  // nothing is set

  std::optional<uint64_t> Uint(std::string_view gguf, std::string_view json) const;
  std::optional<double> Float(std::string_view gguf, std::string_view json) const;
  std::optional<bool> Bool(std::string_view gguf, std::string_view json) const;
  std::optional<std::string> Text(std::string_view gguf, std::string_view json) const;
  // A list, or one value, which is a list of one; empty if there is none.
  std::vector<uint64_t> Uints(std::string_view gguf, std::string_view json) const;
  std::vector<std::string> Texts(std::string_view json) const;

  // config.json, or null.
  const nlohmann::json* json() const { return json_.get(); }
  // The value at a path, marked as read; null where it is absent or null.
  const nlohmann::json* Find(std::string_view path) const;
  // Throws Error(kUnsupported) for a setting of config.json that is known to change what a model computes,
  // has a value that does so, and was not asked for.
  void RefuseUnread() const;
  // Another setting for a GGUF, in place of one of the same name.
  void SetForGguf(std::string_view gguf, GgufScalar value);
  // What Uint, Float and Bool found in config.json, under the names of GGUF.
  const std::vector<std::pair<std::string, GgufScalar>>& for_gguf() const { return for_gguf_; }

 private:
  const nlohmann::json* FindFirst(std::string_view paths, std::string* found) const;
  void Keep(std::string_view gguf, GgufScalar value) const;
  std::string Key(std::string_view gguf) const;

  const GgufFile* file_ = nullptr;
  std::string architecture_;
  std::shared_ptr<const nlohmann::json> json_;
  std::string path_;
  mutable std::set<std::string, std::less<>> read_;
  mutable std::vector<std::pair<std::string, GgufScalar>> for_gguf_;
};

}  // namespace mneme
