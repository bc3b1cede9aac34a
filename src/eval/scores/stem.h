// Porter's stems of English words, as ROUGE counts them: libstemmer's algorithm "porter".
#pragma once

#include <string>
#include <string_view>

namespace mneme {

// Stem of a word in lower case (M. F. Porter, Program 14(3), 1980): "relational" -> "relat". Words of fewer
// than three letters stay, as in the paper's own program. One word in sixty thousand of our books is not what
// that program gives: Snowball takes back only doubled b, d, f, g, m, n, p, r and t before "-ed" and "-ing",
// so "trekking" -> "trekk". Throws std::bad_alloc. Thread rule: any.
std::string PorterStem(std::string_view word);

}  // namespace mneme
