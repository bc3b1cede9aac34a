#include "eval/tasks/needle.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/text/recall_text.h"
#include "eval/tasks/draw.h"

namespace mneme {
namespace {

const NeedleFormat& FormatOf(const NeedleOptions& options) {
  std::string names;
  for (const NeedleFormat& format : NeedleFormats()) {
    if (format.name == options.format) return format;
    names += (names.empty() ? "" : ", ") + std::string(format.name);
  }
  Fail(ErrorKind::kInput, "needle: the format '{}' is not known; known are {}", options.format, names);
}

void Check(const NeedleOptions& options) {
  const NeedleFormat& format = FormatOf(options);
  if (options.values != "numbers" && options.values != "uuids")
    Fail(ErrorKind::kInput, "needle: values are numbers or uuids, not '{}'", options.values);
  if (options.keys != "words" && options.keys != "uuids")
    Fail(ErrorKind::kInput, "needle: keys are words or uuids, not '{}'", options.keys);
  if (options.lengths.empty() || options.num_pairs.empty())
    Fail(ErrorKind::kInput, "needle: at least one length and one number of pairs are needed");
  for (const int64_t count : options.num_pairs) {
    if (count < 1 || count > format.most_pairs)
      Fail(ErrorKind::kInput, "needle: {} pairs; the format '{}' takes 1 to {}", count, format.name,
           format.most_pairs);
  }
  for (const double depth : options.depths) {
    if (!(depth >= 0 && depth <= 1)) Fail(ErrorKind::kInput, "needle: the depth {} is outside 0 .. 1", depth);
  }
  const auto in_range = [](std::string_view what, int64_t value, int64_t high) {
    if (value < 1 || value > high)
      Fail(ErrorKind::kInput, "needle: {} {}; 1 to {} are possible", value, what, high);
  };
  in_range("queries", options.num_queries, 256);
  in_range("values per key", options.values_per_key, 16);
  in_range("hops", options.num_hops, 64);
  CheckTrials("needle", options.lengths, options.num_trials, options.num_candidates);
}

// A key and what is said of it.
struct Needle {
  std::vector<std::string> statements;  // one, but for several values and for chains
  RecallQuestion question;              // of formats that ask key by key
  std::string key;
  std::vector<std::string> values;
};

std::string WordPair(size_t index) {
  const auto words = RecallWords();
  return fmt::format("{}-{}", words[index / words.size()], words[index % words.size()]);
}

std::string DrawValue(const NeedleOptions& options, Random& random) {
  return options.values == "uuids" ? DrawUuid(random) : std::to_string(1000000 + random.Below(9000000));
}

std::vector<Needle> RulerNeedles(const NeedleOptions& options, int64_t count, Random& random) {
  const auto num_words = RecallWords().size();
  std::vector<Needle> needles;
  for (const size_t index : ChooseIndices(static_cast<size_t>(count), num_words * num_words, random)) {
    Needle needle;
    needle.key = options.keys == "uuids" ? DrawUuid(random) : WordPair(index);
    for (int64_t i = 0; i < options.values_per_key; ++i) {
      needle.values.push_back(DrawValue(options, random));
      needle.statements.push_back(fmt::format("One of the special magic {} for {} is: {}.", options.values,
                                              needle.key, needle.values.back()));
    }
    needles.push_back(std::move(needle));
  }
  return needles;
}

// All asked keys in one question, as RULER asks.
RecallQuestion RulerQuestion(const NeedleOptions& options, const std::vector<Needle>& asked, Random& random) {
  RecallQuestion question;
  std::string keys;
  for (size_t i = 0; i < asked.size(); ++i) {
    if (i > 0) keys += i + 1 == asked.size() ? ", and " : ", ";
    keys += asked[i].key;
    question.answers.insert(question.answers.end(), asked[i].values.begin(), asked[i].values.end());
  }
  const bool single = question.answers.size() == 1;
  const std::string type = single ? options.values.substr(0, options.values.size() - 1) : options.values;
  question.tail =
      single ? fmt::format(
                   "What is the special magic {0} for {1} mentioned in the provided text? The special "
                   "magic {0} for {1} mentioned in the provided text is",
                   type, keys)
             : fmt::format(
                   "What are all the special magic {0} for {1} mentioned in the provided text? The "
                   "special magic {0} for {1} mentioned in the provided text are",
                   type, keys);
  question.rule = AnswerRule::kContains;
  const size_t num_answers = question.answers.size();
  // RULER writes 128 tokens; a small vocabulary needs more for a UUID.
  question.max_tokens = 128 + (options.values == "uuids" ? 32 : 0) * static_cast<int64_t>(num_answers);
  question.candidates =
      DrawCandidates(fmt::format("{}", fmt::join(question.answers, ", ")), options.num_candidates, [&] {
        std::vector<std::string> others;
        for (size_t i = 0; i < num_answers; ++i) others.push_back(DrawValue(options, random));
        return fmt::format("{}", fmt::join(others, ", "));
      });
  return question;
}

std::string DrawName(Random& random) {
  std::string name;
  for (int i = 0; i < 5; ++i) name += static_cast<char>('A' + random.Below(26));
  return name;
}

// Chains as RULER writes them: VAR A = 12345, VAR B = VAR A, ...
std::vector<Needle> Chains(const NeedleOptions& options, int64_t count, Random& random) {
  std::vector<Needle> needles;
  for (int64_t chain = 0; chain < count; ++chain) {
    Needle needle;
    needle.key = DrawDigits(random);
    for (int64_t hop = 0; hop <= options.num_hops; ++hop) {
      std::string name = DrawName(random);
      needle.statements.push_back(hop == 0 ? fmt::format("VAR {} = {}", name, needle.key)
                                           : fmt::format("VAR {} = VAR {}", name, needle.values.back()));
      needle.values.push_back(std::move(name));
    }
    needle.question.tail = fmt::format(
        "Question: Find all variables that are assigned the value {0} in the text above. Answer: According "
        "to "
        "the chain(s) of variable assignment in the text above, {1} variables are assigned the value {0}, "
        "they are:",
        needle.key, options.num_hops + 1);
    needle.question.answers = needle.values;
    needle.question.rule = AnswerRule::kContains;
    needle.question.max_tokens = 30 * (options.num_hops + 1);
    needle.question.candidates =
        DrawCandidates(fmt::format("{}", fmt::join(needle.values, " ")), options.num_candidates, [&] {
          std::vector<std::string> others;
          for (int64_t i = 0; i <= options.num_hops; ++i) others.push_back(DrawName(random));
          return fmt::format("{}", fmt::join(others, " "));
        });
    needles.push_back(std::move(needle));
  }
  return needles;
}

// Pairs of UUIDs as in the key-value task of InfiniteBench.
std::vector<Needle> UuidPairs(const NeedleOptions& options, int64_t count, Random& random) {
  std::vector<Needle> needles;
  for (int64_t i = 0; i < count; ++i) {
    Needle needle;
    needle.key = DrawUuid(random);
    needle.values = {DrawUuid(random)};
    needle.statements = {fmt::format("\"{}\": \"{}\",", needle.key, needle.values[0])};
    needle.question.tail =
        fmt::format("Key: \"{}\"\nThe value associated with the specified key is:", needle.key);
    needle.question.answers = needle.values;
    needle.question.rule = AnswerRule::kContains;
    needle.question.max_tokens = 64;
    needle.question.candidates =
        DrawCandidates(needle.values[0], options.num_candidates, [&] { return DrawUuid(random); });
    needles.push_back(std::move(needle));
  }
  return needles;
}

std::vector<Needle> NamedKeys(const NeedleOptions& options, int64_t count, Random& random) {
  std::vector<Needle> needles;
  for (const size_t index : ChooseIndices(static_cast<size_t>(count), RecallWords().size(), random)) {
    Needle needle;
    needle.key = RecallWords()[index];
    needle.values = {DrawDigits(random)};
    needle.statements = {NamedKeyStatement(needle.key, needle.values[0])};
    needle.question.tail = NamedKeyQuestion(needle.key);
    needle.question.answers = needle.values;
    needle.question.candidates = DrawCandidates(needle.values[0], options.num_candidates,
                                                [&] { return DigitsLike(needle.values[0], random); });
    needles.push_back(std::move(needle));
  }
  return needles;
}

std::vector<Needle> WordPairs(const NeedleOptions& options, int64_t count, Random& random) {
  const auto words = RecallWords();
  std::vector<Needle> needles;
  for (const size_t index : ChooseIndices(static_cast<size_t>(count), words.size(), random)) {
    Needle needle;
    needle.key = words[index];
    needle.values = {std::string(words[random.Below(words.size())])};
    needle.statements = {PairStatement(needle.key, needle.values[0])};
    needle.question.tail = fmt::format("{}\n{}", PairsHeading(), PairQuestion(needle.key));
    needle.question.answers = needle.values;
    needle.question.rule = AnswerRule::kStart;
    needle.question.candidates =
        DrawCandidates(needle.values[0], std::min(options.num_candidates, words.size()),
                       [&] { return std::string(words[random.Below(words.size())]); });
    needles.push_back(std::move(needle));
  }
  return needles;
}

std::vector<Needle> DrawNeedles(const NeedleOptions& options, int64_t count, Random& random) {
  if (options.format == "ruler") return RulerNeedles(options, count, random);
  if (options.format == "variables") return Chains(options, count, random);
  if (options.format == "uuid-pairs") return UuidPairs(options, count, random);
  if (options.format == "named-keys") return NamedKeys(options, count, random);
  return WordPairs(options, count, random);
}

RecallLayout LayoutOf(const NeedleOptions& options) {
  RecallLayout layout;
  if (options.format == "ruler") {
    layout.head = fmt::format(
        "Some special magic {0} are hidden within the following text. Make sure to memorize it. I will quiz "
        "you about the {0} afterwards.\n",
        options.values);
  } else if (options.format == "variables") {
    layout.head = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";
  } else if (options.format == "uuid-pairs") {
    layout.head = "Extract the value corresponding to the specified key in the text below.\n\n";
  } else if (options.format == "named-keys") {
    layout.head = PasskeyIntroduction();
  }
  return layout;
}

RecallTrial DrawTrial(const NeedleOptions& options, int64_t count, std::optional<double> depth,
                      Random& random) {
  const std::vector<Needle> needles = DrawNeedles(options, count, random);
  RecallTrial trial;
  const auto num_asked = static_cast<size_t>(std::min(count, options.num_queries));
  if (options.format == "ruler") {
    const std::vector<Needle> asked(needles.begin(), needles.begin() + static_cast<ptrdiff_t>(num_asked));
    trial.questions.push_back(RulerQuestion(options, asked, random));
  } else {
    for (size_t i = 0; i < num_asked; ++i) trial.questions.push_back(needles[i].question);
  }
  for (size_t i = 0; i < needles.size(); ++i) {
    // Statements of one needle keep their order: a variable is set before it is read. With a depth the first
    // one is there, and the others are behind it.
    const double front = i == 0 ? depth.value_or(0) : 0;
    std::vector<double> places;
    for (size_t j = 0; j < needles[i].statements.size(); ++j)
      places.push_back(i == 0 && j == 0 && depth ? front : front + (1 - front) * random.Uniform());
    std::sort(places.begin(), places.end());
    for (size_t j = 0; j < places.size(); ++j)
      trial.statements.push_back({places[j], needles[i].statements[j]});
  }
  std::stable_sort(trial.statements.begin(), trial.statements.end(),
                   [](const auto& a, const auto& b) { return a.place < b.place; });
  return trial;
}

}  // namespace

const std::vector<NeedleFormat>& NeedleFormats() {
  static const std::vector<NeedleFormat> formats = {
      {"ruler", "RULER: special magic numbers or UUIDs for made-up keys; several queries and values", 256},
      {"variables", "RULER: chains of variables that hold one value", 256},
      {"uuid-pairs", "InfiniteBench: pairs of UUIDs", 256},
      {"named-keys", "what `mneme train` trains on: pass keys with names", 64},
      {"pairs", "what `mneme train` trains on: who has what", 64},
  };
  return formats;
}

std::vector<RecallCell> NeedleCells(const NeedleOptions& options) {
  Check(options);
  std::vector<std::optional<double>> depths(options.depths.begin(), options.depths.end());
  if (depths.empty()) depths.push_back(std::nullopt);
  std::vector<RecallCell> cells;
  for (const int64_t length : options.lengths) {
    for (const int64_t count : options.num_pairs) {
      for (const std::optional<double>& depth : depths) {
        RecallCell cell;
        cell.row.task = "needle";
        cell.row.length = length;
        cell.row.depth = depth;
        cell.row.labels["format"] = options.format;
        cell.row.labels["pairs"] = std::to_string(count);
        cell.layout = LayoutOf(options);
        for (int64_t trial = 0; trial < options.num_trials; ++trial) {
          Random random(TrialSeed(options.seed + static_cast<uint64_t>(count) * 7919, trial));
          cell.trials.push_back(DrawTrial(options, count, depth, random));
        }
        cell.row.numbers["chance"] = ChanceOf(cell.trials);
        cells.push_back(std::move(cell));
      }
    }
  }
  return cells;
}

}  // namespace mneme
