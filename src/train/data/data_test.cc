#include "train/data/data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/error.h"
#include "base/files/file.h"
#include "train/data/tasks.h"
#include "train/data/text_files.h"
#include "train/data/vocabulary.h"
#include "train/train_test_util.h"

namespace mneme::train {
namespace {

using testing::ScratchFolder;

// One vocabulary for all tests of the file.
const Tokenizer& TestTokenizer() {
  static const Tokenizer tokenizer = [] {
    const ScratchFolder folder;
    VocabularySettings settings;
    settings.size = 420;
    Random random(1);
    TrainVocabulary(settings, TaskVocabularyLines(random, 300), folder / "vocabulary.model");
    return LoadTokenizerFile(folder / "vocabulary.model");
  }();
  return tokenizer;
}

SourceSettings Source(const std::string& kind) {
  SourceSettings source;
  source.kind = kind;
  source.min_items = 2;
  source.max_items = 4;
  return source;
}

// The tokens that carry loss 1, as text, by row.
std::string AnswerText(const Batch& batch, int64_t row) {
  std::vector<TokenId> ids;
  const int64_t length = batch.num_segments * batch.segment;
  for (int64_t i = row * length; i < (row + 1) * length; ++i) {
    if (batch.weights[static_cast<size_t>(i)] == 1.0f) {
      ids.push_back(static_cast<TokenId>(batch.targets[static_cast<size_t>(i)]));
    }
  }
  return TestTokenizer().Decode(ids);
}

// A page that a mapped file no longer has would end the program; from main on it reads as zeros, and is
// noticed.
TEST(TrainTextFiles, ACorpusThatIsCutShortIsNamed) {
  GuardMappedFiles();
  const ScratchFolder folder;
  const std::string path = folder / "corpus.txt";
  {
    std::ofstream out(path);
    for (int i = 0; i < 20000; ++i) out << "line " << i << " of a corpus\n";
  }
  const TextFiles files({path});
  Random random(1);
  EXPECT_FALSE(files.RandomText(200, random).empty());
  std::filesystem::resize_file(path, 100);
  try {
    for (int i = 0; i < 20; ++i) files.RandomText(200, random);
    FAIL() << "nobody noticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kFile);
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
  }
}

TEST(TrainVocabulary, DigitsStaySingleAndTextComesBack) {
  const std::string text = "The pass key is 12345. Remember it. Ünknown  spaces";
  const std::vector<TokenId> ids = TestTokenizer().Encode(text);
  EXPECT_EQ(TestTokenizer().Decode(ids), text);
  int digits = 0;
  for (const TokenId id : ids) {
    const std::string_view bytes = TestTokenizer().Bytes(id);
    if (bytes.find_first_of("0123456789") == std::string_view::npos) continue;
    EXPECT_EQ(bytes.size(), 1u);
    ++digits;
  }
  EXPECT_EQ(digits, 5);
  EXPECT_TRUE(TestTokenizer().FindToken("<pause>").has_value());
  EXPECT_TRUE(TestTokenizer().FindToken("<backspace>").has_value());
}

TEST(TrainVocabulary, TooLittleTextIsAnError) {
  const ScratchFolder folder;
  VocabularySettings settings;
  settings.size = 5000;
  settings.kind = "unigram";
  EXPECT_THROW(TrainVocabulary(settings, {}, folder / "v.model"), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "v.model"));
}

TEST(TrainTasks, AnswersAreWhereTheyAreSaidToBe) {
  Random random(5);
  for (const char* kind : {"passkey", "named-keys", "pairs", "copy"}) {
    const TaskText task = MakeTask(Source(kind), 1500, GrassFiller, random);
    ASSERT_FALSE(task.answers.empty()) << kind;
    for (const auto& [begin, end] : task.answers) {
      const std::string answer = task.text.substr(begin, end - begin);
      // It also stands somewhere before the question.
      EXPECT_LT(task.text.find(answer), begin) << kind;
    }
    const WeightedIds encoded = EncodeTask(TestTokenizer(), task, 0.25f);
    EXPECT_EQ(encoded.ids, TestTokenizer().Encode(task.text));
    EXPECT_GE(std::count(encoded.weights.begin(), encoded.weights.end(), 1.0f),
              static_cast<ptrdiff_t>(task.answers.size()));
    ASSERT_EQ(encoded.answers.size(), task.answers.size()) << kind;
    for (const size_t at : encoded.answers) {
      EXPECT_EQ(encoded.weights[at], 1.0f) << kind;
      EXPECT_EQ(encoded.weights[at - 1], 0.25f) << kind;
    }
  }
}

TEST(TrainData, SequencesAreWholeSegmentsOfDocumentsThatStartAtOne) {
  const DataStream stream({Source("passkey")}, TestTokenizer(), 1);
  DataStream copy({Source("passkey"), Source("named-keys"), Source("pairs"), Source("copy")}, TestTokenizer(),
                  1);
  for (int i = 0; i < 5; ++i) {
    const Batch batch = copy.Next(4, 6, 32);
    EXPECT_EQ(batch.batch, 4);
    ASSERT_EQ(batch.tokens.size(), 4u * 6 * 32);
    ASSERT_EQ(batch.targets.size(), batch.tokens.size());
    ASSERT_EQ(batch.weights.size(), batch.tokens.size());
    ASSERT_EQ(batch.resets.size(), 24u);
    for (int64_t row = 0; row < 4; ++row) {
      EXPECT_EQ(batch.resets[static_cast<size_t>(row * 6)], 1.0f);
      EXPECT_FALSE(AnswerText(batch, row).empty());
      for (int64_t t = 0; t + 1 < 6 * 32; ++t) {
        const auto at = static_cast<size_t>(row * 6 * 32 + t);
        if (batch.weights[at] == 0 || batch.weights[at + 1] == 0) continue;
        EXPECT_EQ(batch.targets[at], batch.tokens[at + 1]);
      }
    }
  }
  const Batch keys = stream.Passkeys(3, 4, 64, 0.5, 9);
  for (int64_t row = 0; row < 3; ++row) {
    const std::string answer = AnswerText(keys, row);
    EXPECT_EQ(answer.size(), 5u) << answer;
    EXPECT_EQ(answer.find_first_not_of("0123456789"), std::string::npos);
  }
}

TEST(TrainData, SequentialTextIsReadOnceAndGoesOnAfterARestore) {
  const ScratchFolder folder;
  std::string text;
  for (int i = 0; i < 400; ++i) text += "Line " + std::to_string(i) + " of the first book.\n";
  SourceSettings source = Source("text");
  source.order = "sequential";
  source.files = {folder.Write("a.txt", text), folder.Write("b.txt", "The second book is short.\n")};
  DataStream stream({source}, TestTokenizer(), 3);
  const std::vector<TokenId> whole = TestTokenizer().Encode(text);
  std::vector<int64_t> seen;
  for (int i = 0; i < 3; ++i) {
    const Batch batch = stream.Next(1, 2, 16);
    for (size_t t = 0; t < batch.tokens.size(); ++t) seen.push_back(batch.tokens[t]);
  }
  // Each piece gives its last token as a target only, and the next begins after it.
  for (size_t t = 0; t < 32; ++t) ASSERT_EQ(seen[t], whole[t]);
  for (size_t t = 0; t < 32; ++t) ASSERT_EQ(seen[32 + t], whole[33 + t]);

  BufferWriter saved;
  stream.Save(saved);
  const Batch expected = stream.Next(3, 4, 16);
  DataStream other({source}, TestTokenizer(), 99);
  BufferReader reader(saved.buffer());
  other.Restore(reader);
  EXPECT_EQ(reader.remaining_bytes(), 0u);
  const Batch got = other.Next(3, 4, 16);
  EXPECT_EQ(got.tokens, expected.tokens);
  EXPECT_EQ(got.weights, expected.weights);

  source.files.pop_back();
  DataStream fewer({source}, TestTokenizer(), 3);
  BufferReader again(saved.buffer());
  EXPECT_THROW(fewer.Restore(again), Error);
}

TEST(TrainData, DocumentsInsideAFileStartWithEmptyMemories) {
  const ScratchFolder folder;
  SourceSettings source = Source("text");
  source.order = "sequential";
  source.separator = "\n---\n";
  source.files = {folder.Write("a.txt", "One two three.\n---\nFour five six.\n---\nSeven.\n")};
  DataStream stream({source}, TestTokenizer(), 3);
  const Batch batch = stream.Next(1, 6, 16);
  EXPECT_GE(std::accumulate(batch.resets.begin(), batch.resets.end(), 0.0f), 3.0f);
  const std::vector<TokenId> first = TestTokenizer().Encode("One two three.");
  for (size_t i = 0; i + 1 < first.size(); ++i) EXPECT_EQ(batch.tokens[i], first[i]);
  const std::vector<TokenId> second = TestTokenizer().Encode("Four five six.");
  const size_t begin = (first.size() - 1 + 15) / 16 * 16;
  for (size_t i = 0; i + 1 < second.size(); ++i) EXPECT_EQ(batch.tokens[begin + i], second[i]);
}

TEST(TrainData, PausesCarryNoLoss) {
  const ScratchFolder folder;
  SourceSettings source = Source("text");
  source.pause_rate = 0.3;
  source.files = {
      folder.Write("a.txt", "The grass is green. The sky is blue. The sun is yellow.\nHere we go.\n")};
  DataStream stream({source}, TestTokenizer(), 3);
  const TokenId pause = *TestTokenizer().FindToken("<pause>");
  int pauses = 0;
  for (int i = 0; i < 10; ++i) {
    const Batch batch = stream.Next(2, 2, 8);
    for (size_t t = 0; t < batch.targets.size(); ++t) {
      if (batch.targets[t] != pause) continue;
      EXPECT_EQ(batch.weights[t], 0.0f);
      ++pauses;
    }
  }
  EXPECT_GT(pauses, 10);
}

TEST(TrainData, AnswersComeAfterTheirPauses) {
  SourceSettings source = Source("named-keys");
  source.answer_pauses = 3;
  DataStream stream({source}, TestTokenizer(), 3);
  const TokenId pause = *TestTokenizer().FindToken("<pause>");
  EXPECT_EQ(stream.pause(), pause);
  const Batch batch = stream.Next(4, 6, 32);
  int answers = 0;
  for (size_t t = 3; t < batch.targets.size(); ++t) {
    if (batch.targets[t] == pause) {
      EXPECT_EQ(batch.weights[t], 0.0f);
    }
    if (batch.weights[t] != 1.0f || batch.weights[t - 1] == 1.0f) continue;
    ++answers;
    for (size_t back = 0; back < 3; ++back) EXPECT_EQ(batch.tokens[t - back], pause);
    EXPECT_NE(batch.tokens[t - 3], pause);
  }
  EXPECT_GT(answers, 4);
}

// An answer is known by its place, not by its weight, which other tokens may have too.
TEST(TrainData, PausesStandBeforeAnswersOnlyWhereAllTokensWeighAlike) {
  SourceSettings source = Source("named-keys");
  source.answer_pauses = 3;
  DataStream some({source}, TestTokenizer(), 3);
  source.filler_loss = 1;
  DataStream all({source}, TestTokenizer(), 3);
  const Batch expected = some.Next(4, 6, 32), batch = all.Next(4, 6, 32);
  EXPECT_EQ(batch.tokens, expected.tokens);
  EXPECT_EQ(batch.targets, expected.targets);
  for (size_t t = 0; t < batch.targets.size(); ++t) {
    EXPECT_EQ(batch.weights[t] > 0, expected.weights[t] > 0) << t;
  }
}

TEST(TrainData, EveryDocumentBeginsWithTheSink) {
  DataTokens tokens;
  tokens.sink = "<s>";
  const ScratchFolder folder;
  SourceSettings text = Source("text");
  text.order = "sequential";
  text.separator = "\n---\n";
  text.files = {folder.Write("a.txt", "One two three.\n---\nFour five six.\n---\nSeven eight.\n")};
  for (const SourceSettings& source : {text, Source("passkey")}) {
    DataStream stream({source}, TestTokenizer(), 3, tokens);
    const Batch batch = stream.Next(2, 6, 16);
    ASSERT_EQ(batch.tokens.size(), 2u * 6 * 16);
    for (size_t s = 0; s < batch.resets.size(); ++s) {
      const bool is_start = batch.resets[s] == 1 && batch.weights[16 * s + 1] > 0;
      if (is_start) {
        EXPECT_EQ(batch.tokens[16 * s], stream.sink());
      }
      for (size_t t = is_start ? 1 : 0; t < 16; ++t) {
        EXPECT_NE(batch.tokens[16 * s + t], stream.sink());
        if (batch.weights[16 * s + t] > 0) {
          EXPECT_NE(batch.targets[16 * s + t], stream.sink());
        }
      }
    }
  }
  DataStream keys({Source("passkey")}, TestTokenizer(), 3, tokens);
  EXPECT_EQ(keys.Passkeys(1, 4, 64, 0.5, 9).tokens[0], keys.sink());
  tokens.sink = "<nothing>";
  EXPECT_THROW(DataStream({Source("passkey")}, TestTokenizer(), 3, tokens), Error);
}

TEST(TrainData, WrongTokensAreWrongAndOfTheirSegment) {
  SourceSettings source = Source("named-keys");
  source.backspace_rate = 0.3;
  source.backspace_length = 3;
  DataStream stream({source}, TestTokenizer(), 3);
  const Batch batch = stream.Next(3, 5, 16);
  EXPECT_EQ(batch.backspace, *TestTokenizer().FindToken("<backspace>"));
  const auto slots = static_cast<size_t>(batch.num_branches);
  ASSERT_GT(slots, 3u);
  ASSERT_EQ(batch.branch_tokens.size(), 3 * 5 * slots);
  int count = 0, deep = 0;
  for (size_t i = 0; i < batch.branch_tokens.size(); ++i) {
    if (batch.branch_weights[i] == 0) continue;
    ++count;
    const size_t parent = i / slots * 16 + static_cast<size_t>(batch.branch_parents[i]);
    EXPECT_LT(batch.branch_parents[i] + batch.branch_depths[i], 16);
    EXPECT_EQ(batch.branch_weights[i], batch.weights[parent]);
    if (batch.branch_depths[i] == 1) {
      EXPECT_NE(batch.branch_tokens[i], batch.targets[parent]);
    } else {
      ++deep;
      EXPECT_EQ(batch.branch_depths[i], batch.branch_depths[i - 1] + 1);
      EXPECT_EQ(batch.branch_parents[i], batch.branch_parents[i - 1]);
    }
    EXPECT_FALSE(TestTokenizer().is_special(static_cast<TokenId>(batch.branch_tokens[i])));
  }
  EXPECT_GT(count, 20);
  EXPECT_GT(deep, 5);
}

TEST(TrainData, RefusesCorporaThatAreNoText) {
  const ScratchFolder folder;
  const auto open = [&](const std::string& file) {
    SourceSettings source = Source("text");
    source.files = {file};
    DataStream stream({source}, TestTokenizer(), 1);
  };
  EXPECT_THROW(open(folder / "missing.txt"), Error);
  EXPECT_THROW(open(folder.Write("empty.txt", "")), Error);
  EXPECT_THROW(open(folder.Write("blank.txt", " \n\n \t")), Error);
  EXPECT_THROW(open(folder.Write("binary.txt", std::string("text\0text", 9))), Error);
  EXPECT_THROW(open(folder.Write("latin.txt", "caf\xE9 au lait")), Error);
  EXPECT_NO_THROW(open(folder.Write("good.txt", "Ünïcode is fine.\n")));
}

TEST(TrainTextFiles, RandomTextNeverCutsACharacterInTwo) {
  const ScratchFolder folder;
  const TextFiles files({folder.Write("a.txt", "\u201cNo\u201d \u2014 \u00e9t\u00e9\n\u201c\u201d\u201c\n")});
  Random random(3);
  for (size_t bytes = 0; bytes < 12; ++bytes) {
    for (int i = 0; i < 20; ++i) {
      const std::string text = files.RandomText(bytes, random);
      EXPECT_LE(text.size(), bytes);
      EXPECT_EQ(TestTokenizer().Decode(TestTokenizer().Encode(text)).find("\uFFFD"), std::string::npos)
          << text;
    }
  }
}

}  // namespace
}  // namespace mneme::train
