// The passkey task: a number in a long text that means nothing, asked for at its end. In the wordings of
// Landmark Attention (arXiv 2305.16300), LM-Infinite (2308.16137, also that of Infini-attention, 2404.07143)
// and InfiniteBench (2402.13718), and in the one that `mneme train` trains on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/tasks/recall.h"

namespace mneme {

struct PasskeyFormat {
  std::string_view name;
  std::string_view help;
};
// "mneme", "landmark", "lm-infinite", "infini-attention", "infinitebench".
const std::vector<PasskeyFormat>& PasskeyFormats();

struct PasskeyOptions {
  std::string format = "mneme";
  std::vector<int64_t> lengths;  // tokens
  std::vector<double> depths;    // 0..1
  int64_t num_trials = 20;
  uint64_t seed = 0;
  size_t num_candidates = 10;  // of likelihood scoring, the right one included
};

// The papers' filler as this format writes it. Throws Error(kInput) for an unknown format.
Haystack PasskeyFiller(const std::string& format);

// One cell per length and depth. The key of a trial depends on seed and trial alone, so that cells and
// contexts differ in nothing else. Throws Error(kInput) for options that make no sense, naming them.
std::vector<RecallCell> PasskeyCells(const PasskeyOptions& options);

}  // namespace mneme
