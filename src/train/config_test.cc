#include "train/config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"

namespace mneme::train {
namespace {

constexpr std::string_view kRest = "[[source]]\nkind = \"passkey\"\n[[stage]]\nsteps = 5\n";

std::string MessageOf(const std::string& text) {
  try {
    ParseTrainConfig(text, "run.toml");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    return error.what();
  }
  return "(accepted)";
}

TEST(TrainConfig, ReadsEverySection) {
  const TrainConfig config = ParseTrainConfig(
      "out = \"runs/a\"\n[model]\nlayers = 2\n[memory]\nupdate = \"delta\"\n[train]\nlearning_rate = 1\n"
      "evaluate_segments = [2, 3]\n" +
          std::string(kRest) + "[[stage]]\nsteps = 7\n",
      "/somewhere/run.toml");
  EXPECT_EQ(config.out, "/somewhere/runs/a");
  EXPECT_EQ(config.model.num_layers, 2);
  EXPECT_EQ(config.memory.update, "delta");
  EXPECT_EQ(config.train.learning_rate, 1.0);
  EXPECT_EQ(config.train.evaluate_segments, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(config.num_steps(), 12);
  EXPECT_EQ(config.vocabulary.path, "/somewhere/runs/a/vocabulary.model");
}

TEST(TrainConfig, RefusesUnknownKeysWithTheirLine) {
  const std::string message = MessageOf("out = \"a\"\n[model]\nlayer = 2\n" + std::string(kRest));
  EXPECT_NE(message.find("run.toml:3: unknown key 'layer' in [model]"), std::string::npos) << message;
  EXPECT_NE(MessageOf("oot = \"a\"\n" + std::string(kRest)).find("run.toml:1: unknown key 'oot'"),
            std::string::npos);
  EXPECT_NE(MessageOf("out = \"a\"\n[modell]\n" + std::string(kRest)).find("unknown key 'modell'"),
            std::string::npos);
}

TEST(TrainConfig, RefusesOtherTypesValuesAndNames) {
  const std::string head = "out = \"a\"\n" + std::string(kRest);
  EXPECT_NE(MessageOf(head + "[model]\nlayers = 2.5\n").find("run.toml:7: 'layers' must be: integer"),
            std::string::npos);
  EXPECT_NE(MessageOf(head + "[model]\nlayers = \"2\"\n").find("must be: integer"), std::string::npos);
  EXPECT_NE(MessageOf(head + "[model]\nlayers = 0\n").find("outside"), std::string::npos);
  EXPECT_NE(MessageOf(head + "[model]\nnorm_epsilon = nan\n").find("finite"), std::string::npos);
  EXPECT_NE(MessageOf(head + "[memory]\nupdate = \"gated\"\n").find("there are: linear, delta, gated-delta"),
            std::string::npos);
  EXPECT_NE(MessageOf(head + "[train]\nevaluate_segments = [1, \"2\"]\n").find("list of integers"),
            std::string::npos);
  EXPECT_NE(MessageOf(head + "model = 3\n[x]\n").find("run.toml"), std::string::npos);
}

TEST(TrainConfig, RefusesWhatDoesNotGoTogether) {
  EXPECT_NE(MessageOf("out = \"a\"\n[[stage]]\nsteps = 1\n").find("[[source]]"), std::string::npos);
  EXPECT_NE(MessageOf("out = \"a\"\n[[source]]\nkind = \"passkey\"\n").find("[[stage]]"), std::string::npos);
  EXPECT_NE(MessageOf(std::string(kRest)).find("'out'"), std::string::npos);
  EXPECT_NE(
      MessageOf("out = \"a\"\n[model]\nheads = 4\nkv_heads = 3\n" + std::string(kRest)).find("kv_heads"),
      std::string::npos);
  EXPECT_NE(MessageOf("out = \"a\"\n[[source]]\nkind = \"text\"\n[[stage]]\n").find("'files'"),
            std::string::npos);
  EXPECT_NE(
      MessageOf("out = \"a\"\n[train]\ntrainable = \"gates\"\n" + std::string(kRest)).find("model.base"),
      std::string::npos);
}

TEST(TrainConfig, RefusesBrokenTomlWithTheLine) {
  EXPECT_NE(MessageOf("out = \"a\"\n[model\n").find("run.toml:2"), std::string::npos);
}

TEST(TrainConfig, ReferenceNamesEveryKeyAndIsItselfValid) {
  const std::string reference = TrainConfigReference();
  for (const char* key : {"write_penalty", "evaluate_trials", "separator", "knn_layer", "sample_bytes"}) {
    EXPECT_NE(reference.find(std::string("\n") + key + " = "), std::string::npos) << key;
  }
  // As text it parses; what it lacks is a kind of source.
  EXPECT_NE(MessageOf(reference).find("kind"), std::string::npos);
}

TEST(TrainConfig, RecipesOfTheTreeAreValid) {
  for (const char* name : {"tiny-cpu", "tiny-gpu", "compare"}) {
    const TrainConfig config = LoadTrainConfig(std::string(MNEME_SOURCE_DIR) + "/recipes/" + name + ".toml");
    EXPECT_GT(config.num_steps(), 0) << name;
    EXPECT_NE(config.out.find(std::string("runs/") + name), std::string::npos) << config.out;
  }
}

TEST(TrainConfig, ShapeTextSeesWhatShapesTheWeights) {
  TrainConfig a, b;
  b.train.learning_rate = 5;
  b.memory.write_penalty = 1;
  EXPECT_EQ(ShapeText(a), ShapeText(b));
  b.memory.segment = 64;
  EXPECT_NE(ShapeText(a), ShapeText(b));
}

TEST(TrainConfigFile, ChangesWinOverTheFileAndAreChecked) {
  const std::string text =
      "out = \"a\"\n[memory]\nsegment = 64\n[[source]]\nkind = \"passkey\"\n[[stage]]\nsteps = 10\n";
  const TrainConfig config = ParseTrainConfig(
      text, "x.toml", {"memory.update=delta", "memory.segment=32", "train.learning_rate=1e-3", "out=b"});
  EXPECT_EQ(config.memory.update, "delta");
  EXPECT_EQ(config.memory.segment, 32);
  EXPECT_EQ(config.train.learning_rate, 1e-3);
  EXPECT_EQ(std::filesystem::path(config.out).filename(), "b");
  for (const char* wrong :
       {"memory.segments=3", "memory.segment=many", "memory.segment", "stage.steps=3", "=", "a."}) {
    EXPECT_THROW(ParseTrainConfig(text, "x.toml", {wrong}), Error) << wrong;
  }
}

TEST(TrainConfigTest, SettingsFromTheCommandLineWinAndReachSourcesAndStages) {
  const std::string text =
      "out = \"o\"\n[[source]]\nkind = \"passkey\"\n[[source]]\nkind = \"copy\"\n[[stage]]\nsteps = 5\n";
  const TrainConfig config = ParseTrainConfig(text, "t.toml",
                                              {"source.2.backspace_rate=0.25", "stage.1.steps=7",
                                               "model.sink=token", "vocabulary.sink_token=<pause>", "out=p"});
  EXPECT_EQ(config.sources[0].backspace_rate, 0);
  EXPECT_EQ(config.sources[1].backspace_rate, 0.25);
  EXPECT_EQ(config.stages[0].steps, 7);
  EXPECT_EQ(config.model.sink, "token");
  EXPECT_EQ(config.vocabulary.sink_token, "<pause>");
  EXPECT_EQ(config.out, "p");
  for (const std::string change :
       {"source.3.weight=1", "source.0.weight=1", "source.weight=1", "source.x.weight=1", "stage.1.nothing=1",
        "stage.1.=1", "model.sink", "=", "a.b.c=1", "source.1.backspace_rate=2",
        "source.99999999999999999999.weight=1"}) {
    EXPECT_THROW(ParseTrainConfig(text, "t.toml", {change}), Error) << change;
  }
}

TEST(TrainConfigTest, OnlyAMemoryCanBeCarried) {
  const std::string text =
      "out = \"o\"\n[[source]]\nkind = \"copy\"\n[[stage]]\ncarry = 0.5\n[memory]\nattention = ";
  EXPECT_EQ(ParseTrainConfig(text + "\"infini\"\n", "t.toml").stages[0].carry, 0.5);
  EXPECT_THROW(ParseTrainConfig(text + "\"xl\"\n", "t.toml"), Error);
  EXPECT_THROW(ParseTrainConfig(text + "\"dense\"\n", "t.toml"), Error);
}

TEST(TrainConfigTest, SettingsAddedLaterDoNotMakeOlderCheckpointsForeign) {
  TrainConfig config;
  EXPECT_EQ(ShapeText(config).find("sink"), std::string::npos);
  config.model.sink = "token";
  EXPECT_NE(ShapeText(config).find("model.sink = \"token\"\n"), std::string::npos);
  EXPECT_NE(ShapeText(config).find("memory.segment"), std::string::npos);
}

}  // namespace
}  // namespace mneme::train
