// Recall of many things: pairs of keys and values hidden in a haystack, and variables that hold each other's
// values. In the wordings of RULER (arXiv 2404.06654) and of `mneme train`; all drawn from a seed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/tasks/recall.h"

namespace mneme {

struct NeedleFormat {
  std::string_view name;
  std::string_view help;
  int64_t most_pairs;
};
// "ruler", "variables", "uuid-pairs", "named-keys", "pairs".
const std::vector<NeedleFormat>& NeedleFormats();

struct NeedleOptions {
  std::string format = "ruler";
  std::string values = "numbers";  // of "ruler": numbers or uuids
  std::string keys = "words";      // of "ruler": made of two words, or uuids
  std::vector<int64_t> lengths;    // tokens
  std::vector<double> depths;      // of the first key that is asked; empty: anywhere
  std::vector<int64_t> num_pairs;  // 1 .. most_pairs of the format; of "variables": chains
  int64_t num_queries = 1;         // keys asked of one text, at most as many as there are pairs
  int64_t values_per_key = 1;      // of "ruler"
  int64_t num_hops = 4;            // of "variables": names beside the first
  int64_t num_trials = 20;
  uint64_t seed = 0;
  size_t num_candidates = 10;
};

// One cell per length, number of pairs and depth. A trial depends on seed, number of pairs and its own number
// alone. "ruler" asks for all queries and values at once, and scores the share that is found; the others ask
// key by key. Throws Error(kInput) for options that make no sense, naming them.
std::vector<RecallCell> NeedleCells(const NeedleOptions& options);

}  // namespace mneme
