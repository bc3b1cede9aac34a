#include "eval/tasks/ruler_documents.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

// A file of questions is 5 to 50 MB.
constexpr size_t kMaxFileBytes = size_t{1} << 30;

class DocumentReader {
 public:
  // Adds a text that may be there already; returns its index.
  size_t Add(const std::string& text) {
    const auto [found, is_new] = index_.try_emplace(text, result_.texts.size());
    if (is_new) result_.texts.push_back(text);
    return found->second;
  }
  void Add(RulerDocuments::Question question) { result_.questions.push_back(std::move(question)); }
  RulerDocuments Finish() { return std::move(result_); }

 private:
  std::map<std::string, size_t> index_;
  RulerDocuments result_;
};

template <class Fill>
RulerDocuments Read(const std::string& path, const char* kind, const Fill& fill) {
  DocumentReader reader;
  try {
    fill(Json::parse(ReadWholeFile(path, kMaxFileBytes)), reader);
  } catch (const Json::exception& error) {
    Fail(ErrorKind::kFile, "{}: is not {}: {}", path, kind, error.what());
  }
  RulerDocuments result = reader.Finish();
  if (result.questions.empty())
    Fail(ErrorKind::kFile, "{}: has no question of {} that has an answer", path, kind);
  return result;
}

}  // namespace

RulerDocuments ReadSquad(const std::string& path) {
  return Read(path, "SQuAD 2.0's JSON", [](const Json& file, DocumentReader& reader) {
    for (const Json& article : file.at("data")) {
      for (const Json& paragraph : article.at("paragraphs")) {
        const size_t text = reader.Add(paragraph.at("context").get<std::string>());
        for (const Json& asked : paragraph.at("qas")) {
          if (asked.value("is_impossible", false)) continue;
          RulerDocuments::Question question{
              .text = asked.at("question").get<std::string>(), .answers = {}, .documents = {text}};
          for (const Json& answer : asked.at("answers")) {
            auto words = answer.at("text").get<std::string>();
            auto& all = question.answers;
            if (!words.empty() && std::find(all.begin(), all.end(), words) == all.end())
              all.push_back(std::move(words));
          }
          if (!question.answers.empty()) reader.Add(std::move(question));
        }
      }
    }
  });
}

RulerDocuments ReadHotpot(const std::string& path) {
  return Read(path, "HotpotQA's JSON", [](const Json& file, DocumentReader& reader) {
    if (!file.is_array()) (void)file.at(0);  // says what it is instead
    for (const Json& asked : file) {
      RulerDocuments::Question question{.text = asked.at("question").get<std::string>(),
                                        .answers = {asked.at("answer").get<std::string>()},
                                        .documents = {}};
      for (const Json& document : asked.at("context")) {
        std::string text = document.at(0).get<std::string>() + "\n";
        for (const Json& sentence : document.at(1)) text += sentence.get<std::string>();
        question.documents.push_back(reader.Add(text));
      }
      if (!question.answers[0].empty() && !question.documents.empty()) reader.Add(std::move(question));
    }
  });
}

}  // namespace mneme
