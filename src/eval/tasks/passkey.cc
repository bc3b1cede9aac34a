#include "eval/tasks/passkey.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/error.h"
#include "base/text/recall_text.h"
#include "eval/tasks/draw.h"

namespace mneme {
namespace {

constexpr std::string_view kQuestion = "What is the pass key?";

std::string JoinedIntroduction(std::string_view pronoun) {
  return fmt::format(
      "There is an important info hidden inside a lot of irrelevant text. Find it and memorize {}. I will "
      "quiz "
      "you about the important information there.",
      pronoun);
}

// InfiniteBench's template for this task.
RecallLayout InfiniteBenchLayout() {
  RecallLayout layout;
  layout.head = JoinedIntroduction("it") + "\n\n";
  return layout;
}

RecallLayout LayoutOf(const std::string& format) {
  RecallLayout layout;
  layout.head = PasskeyIntroduction();
  if (format == "landmark") layout.last_cut = FillerCut::kCharacters;
  if (format == "lm-infinite" || format == "infini-attention") {
    layout.head = JoinedIntroduction("it") + " ";
    layout.after_filler = layout.after_statement = " ";
  }
  if (format == "infinitebench") layout = InfiniteBenchLayout();
  return layout;
}

std::string TailOf(const std::string& format) {
  if (format == "infinitebench") return fmt::format("\n{}\n\nThe pass key is", kQuestion);
  return PasskeyQuestion();
}

std::string KeyOf(const std::string& format, Random& random) {
  if (format == "landmark") return std::to_string(1 + random.Below(50000));
  if (format == "lm-infinite") return std::to_string(1 + random.Below(9999999));
  return DrawDigits(random);
}

void Check(const PasskeyOptions& options) {
  const auto& formats = PasskeyFormats();
  const bool known = std::any_of(formats.begin(), formats.end(),
                                 [&](const PasskeyFormat& f) { return f.name == options.format; });
  if (!known) {
    std::string names;
    for (const PasskeyFormat& format : formats)
      names += (names.empty() ? "" : ", ") + std::string(format.name);
    Fail(ErrorKind::kInput, "passkey: the format '{}' is not known; known are {}", options.format, names);
  }
  if (options.lengths.empty() || options.depths.empty())
    Fail(ErrorKind::kInput, "passkey: at least one length and one depth are needed");
  for (const double depth : options.depths) {
    if (!(depth >= 0 && depth <= 1))
      Fail(ErrorKind::kInput, "passkey: the depth {} is outside 0 .. 1", depth);
  }
  CheckTrials("passkey", options.lengths, options.num_trials, options.num_candidates);
}

}  // namespace

const std::vector<PasskeyFormat>& PasskeyFormats() {
  static const std::vector<PasskeyFormat> formats = {
      {"mneme", "what `mneme train` trains on: lines of sentences, 5 digits"},
      {"landmark", "Landmark Attention: five lines, filler cut by characters, 1 to 50000"},
      {"lm-infinite", "LM-Infinite: one line, 1 to 9999999"},
      {"infini-attention", "Infini-attention: as LM-Infinite, 5 digits"},
      {"infinitebench", "InfiniteBench: a line per group of sentences, 5 digits"},
  };
  return formats;
}

Haystack PasskeyFiller(const std::string& format) {
  PasskeyOptions options;
  options.format = format;
  options.lengths = {1};
  options.depths = {0};
  Check(options);
  if (format == "infinitebench") return Haystack::Grass(5, "\n");
  return Haystack::Grass(1, " ");
}

std::vector<RecallCell> PasskeyCells(const PasskeyOptions& options) {
  Check(options);
  std::vector<std::pair<std::string, RecallQuestion>> drawn;
  for (int64_t trial = 0; trial < options.num_trials; ++trial) {
    Random random(TrialSeed(options.seed, trial));
    RecallQuestion question;
    question.tail = TailOf(options.format);
    const std::string key = KeyOf(options.format, random);
    question.answers = {key};
    question.candidates =
        DrawCandidates(key, options.num_candidates, [&] { return DigitsLike(key, random); });
    drawn.emplace_back(PasskeyStatement(key), std::move(question));
  }
  std::vector<RecallCell> cells;
  for (const int64_t length : options.lengths) {
    for (const double depth : options.depths) {
      RecallCell cell;
      cell.row.task = "passkey";
      cell.row.length = length;
      cell.row.depth = depth;
      cell.row.labels["format"] = options.format;
      cell.layout = LayoutOf(options.format);
      for (const auto& [statement, question] : drawn)
        cell.trials.push_back({{{depth, statement}}, {question}});
      cell.row.numbers["chance"] = ChanceOf(cell.trials);
      cells.push_back(std::move(cell));
    }
  }
  return cells;
}

}  // namespace mneme
