#include "train/data/tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"
#include "base/text/recall_text.h"

namespace mneme::train {
namespace {

const std::span<const std::string_view> kWords = RecallWords();

// `count` different indices below `bound`, in random order.
std::vector<size_t> Choose(size_t count, size_t bound, Random& random) {
  std::vector<size_t> all(bound);
  for (size_t i = 0; i < bound; ++i) all[i] = i;
  for (size_t i = 0; i < count; ++i) std::swap(all[i], all[i + random.Below(bound - i)]);
  all.resize(count);
  return all;
}

void Answer(std::string_view answer, TaskText* task) {
  const size_t begin = task->text.size();
  task->text += answer;
  task->answers.emplace_back(begin, task->text.size());
}

// Statements spread over the filler at random places, in order.
std::string Spread(const std::vector<std::string>& statements, size_t num_bytes, const FillerSource& filler,
                   Random& random) {
  std::vector<double> places;
  for (size_t i = 0; i < statements.size(); ++i) places.push_back(random.Uniform());
  std::sort(places.begin(), places.end());
  std::string text;
  double last = 0;
  for (size_t i = 0; i < statements.size(); ++i) {
    const auto bytes = static_cast<size_t>((places[i] - last) * static_cast<double>(num_bytes));
    last = places[i];
    if (bytes > 0) text += filler(bytes, random) + "\n";
    text += statements[i] + "\n";
  }
  const auto rest = static_cast<size_t>((1 - last) * static_cast<double>(num_bytes));
  if (rest > 0) text += filler(rest, random) + "\n";
  return text;
}

size_t DrawItems(const SourceSettings& source, size_t num_bytes, size_t item_bytes, size_t most,
                 Random& random) {
  const auto low = static_cast<size_t>(source.min_items);
  const double room =
      source.max_statements_share * static_cast<double>(num_bytes) / static_cast<double>(item_bytes);
  const size_t high = std::clamp(static_cast<size_t>(room), low, static_cast<size_t>(source.max_items));
  return std::min(most, low + random.Below(high - low + 1));
}

// Keys of even digits rarely hold a doubled one, the case that a reader by pairs of digits gets wrong.
std::string DrawKey(double digit_repeats, Random& random) {
  std::string key = DrawDigits(random);
  for (size_t i = 1; i < key.size() && digit_repeats > 0; ++i) {
    if (random.Uniform() < digit_repeats) key[i] = key[i - 1];
  }
  return key;
}

TaskText NamedKeys(const SourceSettings& source, size_t num_bytes, const FillerSource& filler,
                   Random& random) {
  constexpr size_t kItemBytes = 150;  // a statement and its question
  const size_t count = DrawItems(source, num_bytes, kItemBytes, kWords.size(), random);
  const std::vector<size_t> names = Choose(count, kWords.size(), random);
  std::vector<std::string> statements, keys;
  for (size_t i = 0; i < count; ++i) {
    keys.push_back(DrawKey(source.digit_repeats, random));
    statements.push_back(NamedKeyStatement(kWords[names[i]], keys[i]));
  }
  const size_t taken = count * kItemBytes;
  TaskText task;
  task.text = PasskeyIntroduction();
  task.text += Spread(statements, num_bytes > taken ? num_bytes - taken : 0, filler, random);
  for (const size_t i : Choose(count, count, random)) {
    task.text += NamedKeyQuestion(kWords[names[i]]) + " ";
    Answer(keys[i], &task);
    task.text += ".\n";
  }
  return task;
}

TaskText Pairs(const SourceSettings& source, size_t num_bytes, const FillerSource& filler, Random& random) {
  constexpr size_t kItemBytes = 48;
  const size_t count = DrawItems(source, num_bytes, kItemBytes, kWords.size(), random);
  const std::vector<size_t> keys = Choose(count, kWords.size(), random);
  std::vector<std::string> statements;
  std::vector<size_t> values;
  for (size_t i = 0; i < count; ++i) {
    values.push_back(random.Below(kWords.size()));
    statements.push_back(PairStatement(kWords[keys[i]], kWords[values[i]]));
  }
  const size_t taken = count * kItemBytes;
  TaskText task;
  task.text = Spread(statements, num_bytes > taken ? num_bytes - taken : 0, filler, random);
  task.text += PairsHeading();
  task.text += '\n';
  for (const size_t i : Choose(count, count, random)) {
    task.text += PairQuestion(kWords[keys[i]]) + " ";
    Answer(kWords[values[i]], &task);
    task.text += ".\n";
  }
  return task;
}

TaskText Copy(const SourceSettings& source, size_t num_bytes, const FillerSource& filler, Random& random) {
  std::string line;
  const auto count = static_cast<size_t>(source.min_items) +
                     random.Below(static_cast<uint64_t>(source.max_items - source.min_items + 1));
  for (size_t i = 0; i < count; ++i) {
    line += (i > 0 ? " " : "") + std::string(kWords[random.Below(kWords.size())]);
  }
  TaskText task;
  const size_t taken = 2 * line.size() + 16;
  task.text = "Copy: " + line + "\n";
  if (num_bytes > taken) task.text += filler(num_bytes - taken, random) + "\n";
  task.text += "Copy: ";
  Answer(line, &task);
  task.text += "\n";
  return task;
}

}  // namespace

std::string GrassFiller(size_t num_bytes, Random& random) {
  const auto sentences = GrassSentences();
  std::string text;
  for (size_t i = random.Below(sentences.size()); text.size() < num_bytes; ++i) {
    if (!text.empty()) text += ' ';
    text += sentences[i % sentences.size()];
  }
  return text;
}

TaskText PasskeyText(size_t num_bytes, double depth, const FillerSource& filler, Random& random,
                     double digit_repeats) {
  const std::string key = DrawKey(digit_repeats, random);
  const auto front = static_cast<size_t>(depth * static_cast<double>(num_bytes));
  TaskText task;
  task.text = PasskeyIntroduction();
  if (front > 0) task.text += filler(front, random) + "\n";
  task.text += PasskeyStatement(key) + "\n";
  if (num_bytes > front) task.text += filler(num_bytes - front, random) + "\n";
  task.text += PasskeyQuestion() + " ";
  Answer(key, &task);
  task.text += ".\n";
  return task;
}

TaskText MakeTask(const SourceSettings& source, size_t num_bytes, const FillerSource& filler,
                  Random& random) {
  if (source.kind == "passkey")
    return PasskeyText(num_bytes, random.Uniform(), filler, random, source.digit_repeats);
  if (source.kind == "named-keys" || source.kind == "needle")
    return NamedKeys(source, num_bytes, filler, random);
  if (source.kind == "pairs") return Pairs(source, num_bytes, filler, random);
  MNEME_CHECK(source.kind == "copy");
  return Copy(source, num_bytes, filler, random);
}

std::vector<std::string> TaskVocabularyLines(Random& random, size_t num_lines) {
  constexpr size_t kWordsPerLine = 40;
  std::vector<std::string> lines;
  SourceSettings source;
  source.max_items = 8;
  for (size_t i = 0; lines.size() < num_lines; ++i) {
    source.kind = std::array{"named-keys", "passkey", "pairs", "copy"}[i % 4];
    const std::string text = MakeTask(source, 1000, GrassFiller, random).text;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      if (end > begin) lines.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
    // Names in such numbers that each becomes one piece: a name of several is much harder to learn as a key.
    std::string words;
    for (size_t j = 0; j < kWordsPerLine; ++j)
      words += " " + std::string(kWords[random.Below(kWords.size())]);
    for (int j = 0; j < 8; ++j) lines.push_back(words);
  }
  lines.resize(num_lines);
  return lines;
}

WeightedIds EncodeTask(const Tokenizer& tokenizer, const TaskText& task, float other) {
  WeightedIds result;
  result.ids = tokenizer.Encode(task.text);
  size_t total = 0;
  for (const TokenId id : result.ids) total += tokenizer.Bytes(id).size();
  // SentencePiece puts a space before a text.
  MNEME_CHECK(total >= task.text.size());
  const size_t added = total - task.text.size();
  if (added > 1) {
    Fail(ErrorKind::kUnsupported,
         "the tokenizer changes text (it gives {} bytes for {}), so that answers cannot be marked; use a "
         "vocabulary without normalisation",
         total, task.text.size());
  }
  size_t begin = 0, next = 0;
  for (const TokenId id : result.ids) {
    const size_t end = begin + tokenizer.Bytes(id).size();
    while (next < task.answers.size() && task.answers[next].second + added <= begin) ++next;
    const bool is_answer = next < task.answers.size() && task.answers[next].first + added < end;
    if (is_answer && begin <= task.answers[next].first + added) {
      result.answers.push_back(result.weights.size());
    }
    result.weights.push_back(is_answer ? 1.0f : other);
    begin = end;
  }
  return result;
}

}  // namespace mneme::train
