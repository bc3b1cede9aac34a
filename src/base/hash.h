// A hash of bytes (64-bit FNV-1a), to tell whether two runs read the same content. Not against forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mneme {

constexpr uint64_t kHashStart = 14695981039346656037ULL;

// `hash`: of what came before. Thread rule: any.
uint64_t HashBytes(const void* data, size_t num_bytes, uint64_t hash = kHashStart);

// Of a file's content, read in pieces. Throws Error(kFile).
uint64_t HashFile(const std::string& path, uint64_t hash = kHashStart);

}  // namespace mneme
