// The documents and questions of RULER's two question tasks, out of the files that their authors publish.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace mneme {

struct RulerDocuments {
  struct Question {
    std::string text;
    std::vector<std::string> answers;  // any of them is right
    std::vector<size_t> documents;     // the texts that it needs
  };
  std::vector<std::string> texts;  // each once
  std::vector<Question> questions;
};

// SQuAD 2.0 (dev-v2.0.json); questions without an answer are left out. HotpotQA
// (hotpot_dev_distractor_v1.json). Throw Error(kFile) for files that cannot be read, or are something else:
// what is missing is named.
RulerDocuments ReadSquad(const std::string& path);
RulerDocuments ReadHotpot(const std::string& path);

}  // namespace mneme
