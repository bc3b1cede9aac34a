#include "eval/tasks/ruler.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/text/recall_text.h"
#include "eval/tasks/draw.h"
#include "eval/tasks/needle.h"
#include "eval/tasks/ruler_documents.h"

namespace mneme {
namespace {

// ---- needles and variables

NeedleOptions NeedleOptionsOf(std::string_view name, const RulerOptions& options) {
  NeedleOptions needle;
  needle.lengths = options.lengths;
  needle.depths = options.depths;
  needle.num_trials = options.num_trials;
  needle.seed = options.seed;
  needle.num_candidates = 2;
  needle.num_pairs = {1};
  if (name == "vt") {
    needle.format = "variables";
    return needle;
  }
  if (name == "niah_single_3" || name == "niah_multikey_3") needle.values = "uuids";
  if (name == "niah_multikey_1" || name == "niah_multiquery") needle.num_pairs = {4};
  if (name == "niah_multikey_3") needle.keys = "uuids";
  if (name == "niah_multivalue") needle.values_per_key = 4;
  if (name == "niah_multiquery") needle.num_queries = 4;
  return needle;
}

// ---- words

// Made-up words of `syllables` syllables, another for every index.
std::string MadeUpWord(size_t index, size_t syllables) {
  constexpr std::string_view kConsonants = "bcdfghjklmnpqrstvwxz", kVowels = "aeiou";
  std::string word;
  for (size_t i = 0; i < syllables; ++i) {
    word += kConsonants[index % kConsonants.size()];
    index /= kConsonants.size();
    word += kVowels[index % kVowels.size()];
    index /= kVowels.size();
  }
  return word;
}
constexpr size_t kSyllables = 3;
constexpr size_t kNumWords = 1000000;  // of three syllables

void Shuffle(std::vector<std::string>* words, Random& random) {
  for (size_t i = words->size(); i > 1; --i) std::swap((*words)[i - 1], (*words)[random.Below(i)]);
}

// A text of some size and what is asked of it.
struct WordTask {
  std::string text;
  std::vector<std::string> answers;
};

// 10 words that appear often and `size` that appear 3 times.
WordTask CommonWords(size_t size, int64_t length, uint64_t seed) {
  constexpr size_t kNumCommon = 10, kUncommonTimes = 3;
  const size_t common_times = length < 4096 ? 10 : 30;
  Random random(seed);
  const size_t first = random.Below(kNumWords);
  // Steps that have no factor in common with the number of words meet each of them once.
  const auto word = [&](size_t i) { return MadeUpWord((first + i * 7919) % kNumWords, kSyllables); };
  WordTask task;
  std::vector<std::string> words;
  for (size_t i = 0; i < kNumCommon; ++i) {
    task.answers.push_back(word(i));
    words.insert(words.end(), common_times, task.answers.back());
  }
  for (size_t i = 0; i < size; ++i) words.insert(words.end(), kUncommonTimes, word(kNumCommon + i));
  Shuffle(&words, random);
  for (size_t i = 0; i < words.size(); ++i)
    task.text += fmt::format("{}{}. {}", i == 0 ? "" : " ", i + 1, words[i]);
  return task;
}

// `size` words, the one of rank r as often as Zipf's law with exponent 2 says; the first rank is dots.
WordTask FrequentWords(size_t size, uint64_t seed) {
  constexpr double kZeta2 = 1.6449340668482264;
  constexpr size_t kNumRanks = 2000, kNumAsked = 3;
  Random random(seed);
  const size_t first = random.Below(kNumWords);
  const auto word = [&](size_t rank) {
    return rank == 0 ? "..." : MadeUpWord((first + rank * 7919) % kNumWords, kSyllables);
  };
  WordTask task;
  std::vector<std::string> words;
  for (size_t rank = 0; rank < kNumRanks; ++rank) {
    const double share = 1 / (kZeta2 * static_cast<double>((rank + 1) * (rank + 1)));
    const auto count = static_cast<size_t>(std::llround(share * static_cast<double>(size)));
    if (count == 0) break;
    words.insert(words.end(), count, word(rank));
  }
  for (size_t rank = 1; rank <= kNumAsked; ++rank) task.answers.push_back(word(rank));
  Shuffle(&words, random);
  task.text = fmt::format("{}", fmt::join(words, " "));
  return task;
}

// ---- texts that are made to a length

constexpr std::string_view kQaInstruction =
    "Answer the question based on the given documents. Only give me the answer and do not output any other "
    "words.";

struct Wording {
  std::string head;
  std::string tail;  // with the answer's beginning
  int64_t max_tokens = 0;
};

Wording WordingOf(std::string_view name) {
  if (name == "cwe") {
    return {
        .head =
            "Below is a numbered list of words. In these words, some appear more often than others. Memorize "
            "the ones that appear most often.\n",
        .tail =
            "Question: What are the 10 most common words in the above list? Answer: The top 10 words that "
            "appear most often in the list are:",
        .max_tokens = 120};
  }
  if (name == "fwe") {
    return {
        .head =
            "Read the following coded text and track the frequency of each coded word. Find the three most "
            "frequently appeared coded words. ",
        .tail =
            "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three "
            "most "
            "frequently appeared words in the above coded text? Answer: According to the coded text above, "
            "the "
            "three most frequently appeared words are:",
        .max_tokens = 50};
  }
  return {.head = fmt::format("{}\n\nThe following are given documents.\n\n", kQaInstruction),
          .tail = fmt::format("\n{}\n\nQuestion: {{}} Answer:", kQaInstruction),
          .max_tokens = 32};
}

// The largest size whose text takes at most `room` tokens.
template <class MakeText>
size_t LargestThatFits(const Tokenizer& tokenizer, size_t least, size_t most, int64_t room,
                       std::string_view name, const MakeText& make_text) {
  const auto fits = [&](size_t size) {
    return static_cast<int64_t>(tokenizer.Encode(make_text(size)).size()) <= room;
  };
  if (!fits(least)) {
    Fail(ErrorKind::kInput, "ruler: {} cannot be made so short as {} tokens beside its question", name,
         std::max<int64_t>(room, 0));
  }
  size_t low = least, high = least;
  while (high < most && fits(high)) {
    low = high;
    high = std::min(most, high * 2);
  }
  if (high == most && fits(most)) return most;
  while (high - low > std::max<size_t>(1, low / 64)) {
    const size_t middle = (low + high) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

RecallQuestion QuestionOf(const Wording& wording, std::string tail, const std::vector<std::string>& answers,
                          AnswerRule rule) {
  RecallQuestion question;
  question.tail = std::move(tail);
  question.answers = answers;
  question.rule = rule;
  question.max_tokens = wording.max_tokens;
  // Only what the model writes is scored; where its answer begins is seen from two that differ.
  question.candidates = {fmt::format("{}", fmt::join(answers, ", ")), answers.front()[0] == '~' ? "-" : "~"};
  return question;
}

int64_t RoomFor(const Tokenizer& tokenizer, const Wording& wording, const std::string& tail, int64_t length) {
  constexpr int64_t kEdges = 16;  // tokens at the borders of parts, and before the first
  return length - kEdges - static_cast<int64_t>(tokenizer.Encode(wording.head).size()) -
         static_cast<int64_t>(tokenizer.Encode(tail).size());
}

RecallTrial WordTrial(std::string_view name, const Wording& wording, int64_t length, uint64_t seed,
                      const Tokenizer& tokenizer) {
  const auto make = [&](size_t size) {
    return name == "cwe" ? CommonWords(size, length, seed) : FrequentWords(size, seed);
  };
  const int64_t room = RoomFor(tokenizer, wording, wording.tail, length);
  const size_t least = name == "cwe" ? 10 : 100;
  const size_t size = LargestThatFits(tokenizer, least, kNumWords / 2, room, name,
                                      [&](size_t count) { return make(count).text; });
  const WordTask task = make(size);
  return {.statements = {{0, task.text}},
          .questions = {QuestionOf(wording, wording.tail, task.answers, AnswerRule::kContains)}};
}

RecallTrial QaTrial(std::string_view name, const Wording& wording, int64_t length, uint64_t seed,
                    const RulerDocuments& documents, const Tokenizer& tokenizer) {
  Random random(seed);
  const RulerDocuments::Question& question = documents.questions[random.Below(documents.questions.size())];
  std::vector<size_t> others = ChooseIndices(documents.texts.size(), documents.texts.size(), random);
  std::erase_if(others, [&](size_t text) {
    return std::find(question.documents.begin(), question.documents.end(), text) != question.documents.end();
  });
  const uint64_t order_seed = random.Next();
  const auto make = [&](size_t count) {
    std::vector<size_t> chosen = question.documents;
    for (size_t i = 0; chosen.size() < count && i < others.size(); ++i) chosen.push_back(others[i]);
    Random order(order_seed);
    std::string text;
    const std::vector<size_t> places = ChooseIndices(chosen.size(), chosen.size(), order);
    for (size_t i = 0; i < places.size(); ++i)
      text +=
          fmt::format("{}Document {}:\n{}", i == 0 ? "" : "\n\n", i + 1, documents.texts[chosen[places[i]]]);
    return text;
  };
  const std::string tail = fmt::format(fmt::runtime(wording.tail), question.text);
  const size_t count = LargestThatFits(tokenizer, question.documents.size(), documents.texts.size(),
                                       RoomFor(tokenizer, wording, tail, length), name, make);
  return {.statements = {{0, make(count)}},
          .questions = {QuestionOf(wording, tail, question.answers, AnswerRule::kContainsAny)}};
}

bool IsNeedleTask(std::string_view name) { return name.starts_with("niah") || name == "vt"; }

const std::string& FileOf(std::string_view name, const RulerOptions& options) {
  static const std::string none;
  return name == "qa_1" ? options.squad_path : name == "qa_2" ? options.hotpot_path : none;
}

}  // namespace

const std::vector<RulerTask>& RulerTasks() {
  using enum RulerHaystack;
  static const std::vector<RulerTask> tasks = {
      {"niah_single_1", kNoise, "one number in filler"},
      {"niah_single_2", kEssay, "one number in a text"},
      {"niah_single_3", kEssay, "one UUID in a text"},
      {"niah_multikey_1", kEssay, "one of four numbers in a text"},
      {"niah_multikey_2", kWordNeedles, "one number among nothing but others"},
      {"niah_multikey_3", kUuidNeedles, "one UUID among nothing but others, by a UUID"},
      {"niah_multivalue", kEssay, "four numbers of one key"},
      {"niah_multiquery", kEssay, "four keys at once"},
      {"vt", kNoise, "variables that hold one value, over four hops"},
      {"cwe", kNoise, "the ten most common words of a list"},
      {"fwe", kNoise, "the three most frequent words of a coded text"},
      {"qa_1", kNoise, "SQuAD: a question over one of many documents; needs --squad FILE"},
      {"qa_2", kNoise, "HotpotQA: a question over two of many documents; needs --hotpot FILE"},
  };
  return tasks;
}

std::vector<RulerTask> ChosenRulerTasks(const RulerOptions& options) {
  std::vector<RulerTask> chosen;
  for (const RulerTask& task : RulerTasks()) {
    const bool is_named =
        std::find(options.tasks.begin(), options.tasks.end(), task.name) != options.tasks.end();
    const bool needs_file = task.name.starts_with("qa");
    if (needs_file && FileOf(task.name, options).empty()) {
      if (is_named) Fail(ErrorKind::kInput, "ruler: {} is {}", task.name, task.help);
      continue;
    }
    if (options.tasks.empty() || is_named) chosen.push_back(task);
  }
  for (const std::string& name : options.tasks) {
    const auto found =
        std::find_if(chosen.begin(), chosen.end(), [&](const auto& t) { return t.name == name; });
    if (found != chosen.end()) continue;
    std::string names;
    for (const RulerTask& task : RulerTasks()) names += (names.empty() ? "" : ", ") + std::string(task.name);
    Fail(ErrorKind::kInput, "ruler: the task '{}' is not known; known are {}", name, names);
  }
  return chosen;
}

std::vector<RecallCell> RulerCells(const RulerTask& task, const RulerOptions& options,
                                   const Tokenizer& tokenizer) {
  CheckTrials("ruler", options.lengths, options.num_trials, 2);
  std::vector<RecallCell> cells;
  if (IsNeedleTask(task.name)) {
    cells = NeedleCells(NeedleOptionsOf(task.name, options));
  } else {
    const Wording wording = WordingOf(task.name);
    RulerDocuments documents;
    if (task.name == "qa_1") documents = ReadSquad(options.squad_path);
    if (task.name == "qa_2") documents = ReadHotpot(options.hotpot_path);
    for (const int64_t length : options.lengths) {
      RecallCell cell;
      cell.row.length = length;
      cell.layout.head = wording.head;
      cell.layout.has_filler = false;
      for (int64_t trial = 0; trial < options.num_trials; ++trial) {
        const uint64_t seed = TrialSeed(options.seed, trial);
        cell.trials.push_back(documents.questions.empty()
                                  ? WordTrial(task.name, wording, length, seed, tokenizer)
                                  : QaTrial(task.name, wording, length, seed, documents, tokenizer));
      }
      cells.push_back(std::move(cell));
    }
  }
  for (RecallCell& cell : cells) {
    cell.row.task = "ruler";
    cell.row.labels = {{"task", std::string(task.name)}};
    cell.row.numbers.clear();
  }
  return cells;
}

Haystack RulerHaystackOf(RulerHaystack kind, uint64_t seed) {
  MNEME_CHECK(kind != RulerHaystack::kEssay);
  // Of as many needles, which then come again: more than a text of 100,000 tokens has.
  constexpr size_t kNumNeedles = 4096;
  if (kind == RulerHaystack::kNoise) return Haystack::Grass(1, " ");
  Random random(seed ^ 0x6E6565646C65);
  std::vector<std::string> needles;
  for (size_t i = 0; i < kNumNeedles; ++i) {
    if (kind == RulerHaystack::kUuidNeedles) {
      needles.push_back(
          fmt::format("One of the special magic uuids for {} is: {}.", DrawUuid(random), DrawUuid(random)));
    } else {
      // Keys that no asked needle has: those are pairs of known words.
      needles.push_back(fmt::format("One of the special magic numbers for {}-{} is: {}.",
                                    MadeUpWord(random.Below(kNumWords), kSyllables),
                                    MadeUpWord(random.Below(kNumWords), kSyllables),
                                    1000000 + random.Below(9000000)));
    }
  }
  return Haystack::Sentences("other needles", std::move(needles), "\n");
}

RulerSummary SummarizeRuler(const std::vector<EvalRow>& rows, double threshold) {
  std::vector<std::string> contexts;
  std::map<std::pair<std::string, int64_t>, std::vector<const EvalRow*>> cells;
  std::map<std::string, std::set<std::string>> tasks;  // that a context was measured in at all
  for (const EvalRow& row : rows) {
    const auto name = row.labels.find("task");
    if (row.task != "ruler" || row.trials == 0 || name == row.labels.end()) continue;
    if (std::find(contexts.begin(), contexts.end(), row.context) == contexts.end())
      contexts.push_back(row.context);
    cells[{row.context, row.length}].push_back(&row);
    tasks[row.context].insert(name->second);
  }
  RulerSummary summary;
  for (const std::string& context : contexts) {
    int64_t effective = 0;
    bool is_good = true;
    for (const auto& [key, measured] : cells) {
      if (key.first != context) continue;
      std::map<std::string, std::pair<double, int>> of_task;  // over depths
      for (const EvalRow* row : measured) {
        auto& [sum, count] = of_task[row->labels.at("task")];
        sum += row->accuracy;
        ++count;
      }
      EvalRow mean;
      mean.task = "ruler";
      mean.context = context;
      mean.length = key.second;
      mean.labels = {{"task", fmt::format("mean of {}", of_task.size())}};
      for (const auto& [name, sum] : of_task) {
        mean.accuracy += sum.first / sum.second / static_cast<double>(of_task.size());
      }
      for (const EvalRow* row : measured) mean.trials += row->trials;
      // A mean over some of the tasks says nothing of the length.
      is_good = is_good && of_task.size() == tasks[context].size() && mean.accuracy >= threshold;
      if (is_good) effective = key.second;
      summary.means.push_back(std::move(mean));
    }
    summary.effective_lengths.emplace_back(context, effective);
  }
  return summary;
}

}  // namespace mneme
