// The page of a training run, from its log.
#pragma once

#include <string>

namespace mneme::train {

// A self-contained HTML page: loss, answer loss, share of the gates, |M| and |z|, write gate, recall by
// segments between key and question. Reads log.jsonl; lines that are not JSON are skipped. Throws
// Error(kFile).
std::string TrainingPage(const std::string& log_path, const std::string& title);

}  // namespace mneme::train
