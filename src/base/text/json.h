// JSON of untrusted origin, and what is wrong with it in words of our own.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace mneme {

// "this is not JSON from byte 17 on", "key 'text' not found": what the library says, without its own prefix
// and without pieces of the file.
std::string JsonReason(const nlohmann::json::exception& error);

// At most max_depth objects and arrays inside each other, no key twice in one object (parsers differ on which
// one wins). Throws Error(kFile), naming `name`.
nlohmann::json ParseStrictJson(std::string_view text, const std::string& name, int max_depth);
// The same, with the keys of objects in the order of the text.
nlohmann::ordered_json ParseStrictOrderedJson(std::string_view text, const std::string& name, int max_depth);

}  // namespace mneme
