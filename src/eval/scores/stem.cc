#include "eval/scores/stem.h"

#include <libstemmer.h>

#include <memory>
#include <new>

namespace mneme {
namespace {

struct Free {
  void operator()(sb_stemmer* stemmer) const { sb_stemmer_delete(stemmer); }
};

}  // namespace

std::string PorterStem(std::string_view word) {
  if (word.size() < 3) return std::string(word);
  // A stemmer holds the word it works on.
  thread_local const std::unique_ptr<sb_stemmer, Free> stemmer(sb_stemmer_new("porter", "UTF_8"));
  if (stemmer == nullptr) throw std::bad_alloc();
  const sb_symbol* stem = sb_stemmer_stem(stemmer.get(), reinterpret_cast<const sb_symbol*>(word.data()),
                                          static_cast<int>(word.size()));
  if (stem == nullptr) throw std::bad_alloc();
  return {reinterpret_cast<const char*>(stem), static_cast<size_t>(sb_stemmer_length(stemmer.get()))};
}

}  // namespace mneme
