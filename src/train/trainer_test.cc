#include "train/trainer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "base/budget.h"
#include "base/error.h"
#include "base/files/file.h"
#include "base/testing.h"
#include "context/registry.h"
#include "kernels/cpu_device.h"
#include "model/runner.h"
#include "train/architecture.h"
#include "train/checkpoint.h"
#include "train/decoder.h"
#include "train/train_test_util.h"

namespace mneme::train {
namespace {

using testing::ScratchFolder;

std::string ConfigText(const std::string& extra = "", const std::string& update = "gated-delta") {
  return "out = \"run\"\n[model]\nlayers = 2\ndim = 16\nheads = 2\nkv_heads = 1\nhead_dim = 8\nffn_dim = 16\n"
         "[memory]\nsegment = 16\nupdate = \"" +
         update +
         "\"\n[vocabulary]\nsize = 400\n"
         "[[source]]\nkind = \"named-keys\"\nmax_items = 2\n"
         "[[source]]\nkind = \"text\"\norder = \"sequential\"\nfiles = [\"text.txt\"]\n"
         "[[stage]]\nsteps = 6\nmin_segments = 2\nmax_segments = 5\nbatch = 3\n"
         "[train]\nwarmup = 2\ncheckpoint_every = 100\nmicro_batch = 2\n" +
         extra;
}

class Training : public ::testing::Test {
 protected:
  Training() {
    std::string text;
    for (int i = 0; i < 300; ++i) text += "Sentence number " + std::to_string(i * 7) + " of a dull book.\n";
    folder_.Write("text.txt", text);
  }
  TrainConfig Config(const std::string& text, const std::string& out = "run") {
    TrainConfig config = ParseTrainConfig(text, folder_ / "run.toml");
    config.out = folder_ / out;
    config.vocabulary.path = folder_ / "vocabulary.model";
    return config;
  }
  std::string Bytes(const std::string& name) { return ReadWholeFile(folder_ / name); }
  ScratchFolder folder_;
};

TEST_F(Training, ResumesBitForBit) {
  const std::string text = ConfigText();
  EXPECT_EQ(Train(Config(text, "a"), {}).step, 6);
  TrainLimits two;
  two.stop_after = 2;
  EXPECT_FALSE(Train(Config(text, "b"), {}, two).finished);
  EXPECT_EQ(Train(Config(text, "b"), {}, two).step, 4);
  EXPECT_TRUE(Train(Config(text, "b"), {}).finished);
  EXPECT_EQ(Bytes("a/checkpoint.bin"), Bytes("b/checkpoint.bin"));
  EXPECT_EQ(Bytes("a/model.gguf"), Bytes("b/model.gguf"));
  const std::string log = Bytes("b/log.jsonl");
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 6);
}

TEST_F(Training, ResumesBitForBitWithCarriedMemories) {
  std::string text = ConfigText();
  text.replace(text.find("batch = 3"), 9, "batch = 3\ncarry = 0.7");
  EXPECT_EQ(Train(Config(text, "a"), {}).step, 6);
  TrainLimits two;
  two.stop_after = 2;
  while (!Train(Config(text, "b"), {}, two).finished) continue;
  EXPECT_EQ(Bytes("a/checkpoint.bin"), Bytes("b/checkpoint.bin"));
  // And carrying does change what is learned.
  Train(Config(ConfigText(), "c"), {});
  EXPECT_NE(Bytes("a/model.gguf"), Bytes("c/model.gguf"));
}

TEST_F(Training, RecomputingChangesNoMoreThanRounding) {
  const double whole = Train(Config(ConfigText(), "a"), {}).loss;
  const double by_segment = Train(Config(ConfigText("recompute = true\n"), "b"), {}).loss;
  EXPECT_NEAR(whole, by_segment, 1e-4 * whole);
}

TEST_F(Training, LossFalls) {
  std::string text = ConfigText("learning_rate = 0.01\n");
  text.replace(text.find("steps = 6"), 9, "steps = 40");
  const TrainConfig config = Config(text);
  TrainLimits one;
  one.stop_after = 1;
  const double first = Train(config, {}, one).loss;
  EXPECT_LT(Train(config, {}).loss, 0.8 * first);
}

TEST_F(Training, HeldBackTextIsEvaluatedForEveryKindAndAgainWhenTheRunIsOver) {
  folder_.Write("held.txt", Bytes("text.txt").substr(500, 600));
  for (const std::string kind : {"dense", "xl", "memorizing", "infini"}) {
    std::string text = ConfigText(
        "evaluate_every = 4\nevaluate_segments = []\nevaluate_tokens = 100\n"
        "evaluate_files = [\"held.txt\"]\n");
    text.replace(text.find("[memory]"), 8, "[memory]\nprevious = 1\nattention = \"" + kind + "\"");
    const std::string out = "run-" + kind;
    const auto rows = [&] {
      const std::string log = Bytes(out + "/log.jsonl");
      size_t count = 0;
      for (size_t at = 0; (at = log.find("\"task\":\"text\",\"file\":\"held.txt\"", at)) != std::string::npos;
           ++at)
        ++count;
      return count;
    };
    Train(Config(text, out), {});
    EXPECT_EQ(rows(), 2u) << kind;  // after step 4 and at the end
    Train(Config(text, out), {});
    EXPECT_EQ(rows(), 3u) << kind;
  }
  // A wrong path is found before anything is trained.
  EXPECT_THROW(Train(Config(ConfigText("evaluate_files = [\"none.txt\"]\n"), "none"), {}), Error);
  EXPECT_FALSE(FileExists(folder_ / "none/checkpoint.bin"));
}

TEST_F(Training, WhatActsIsWrittenIntoTheModel) {
  std::string text = ConfigText();
  text.replace(text.find("kind = \"named-keys\""), 19,
               "kind = \"named-keys\"\nbackspace_rate = 0.3\nbackspace_length = 2\nanswer_pauses = 2");
  text.replace(text.find("[model]"), 7, "[model]\nsink = \"token\"");
  const double whole = Train(Config(text, "a"), {}).loss;
  EXPECT_NE(Bytes("a/log.jsonl").find("\"backspace_loss\""), std::string::npos);
  CpuDevice device(1);
  const auto model = LoadedModel::Load(folder_ / "a/model.gguf", {}, device);
  const Tokenizer& tokenizer = model->tokenizer();
  EXPECT_EQ(model->plan().actions.pause, *tokenizer.FindToken("<pause>"));
  EXPECT_EQ(model->plan().actions.backspace, *tokenizer.FindToken("<backspace>"));
  EXPECT_EQ(model->plan().actions.sink, *tokenizer.FindToken("<s>"));
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.bos_id(), model->plan().actions.sink);
  EXPECT_EQ(model->context_shape().num_sinks, 1);
  // The same with activations computed again.
  text.replace(text.find("micro_batch = 2"), 15, "micro_batch = 2\nrecompute = true");
  EXPECT_NEAR(Train(Config(text, "b"), {}).loss, whole, 1e-4 * whole);
  // A model without any of it says so.
  Train(Config(ConfigText(), "c"), {});
  const auto plain = LoadedModel::Load(folder_ / "c/model.gguf", {}, device);
  EXPECT_EQ(plain->plan().actions.backspace, -1);
  EXPECT_EQ(plain->context_shape().num_sinks, 4);
  EXPECT_FALSE(plain->tokenizer().adds_bos());
}

// Tries to start a second run in the folder of the first.
class IntrudingProgress : public Progress {
 public:
  explicit IntrudingProgress(const TrainConfig& config) : config_(config) {}
  void Update(int64_t done, int64_t, std::string_view) override {
    if (done != 1) return;
    EXPECT_THROW(Train(config_, {}), Error);
  }
  void Finish(std::string_view) override {}

 private:
  const TrainConfig config_;
};

TEST_F(Training, TwoRunsDoNotShareAFolder) {
  IntrudingProgress progress(Config(ConfigText()));
  TrainEvents events;
  events.progress = &progress;
  EXPECT_EQ(Train(Config(ConfigText()), events).step, 6);
}

class StoppingProgress : public Progress {
 public:
  void Update(int64_t done, int64_t, std::string_view) override {
    if (done == 2) stop = true;
  }
  void Finish(std::string_view) override {}
  std::atomic<bool> stop{false};
};

TEST_F(Training, AStopSavesAndEnds) {
  StoppingProgress progress;
  TrainEvents events;
  events.progress = &progress;
  TrainLimits limits;
  limits.stop = &progress.stop;
  const TrainOutcome outcome = Train(Config(ConfigText()), events, limits);
  EXPECT_TRUE(outcome.interrupted);
  EXPECT_FALSE(outcome.finished);
  EXPECT_EQ(outcome.step, 2);
  EXPECT_TRUE(FileExists(folder_ / "run/checkpoint.bin"));
  EXPECT_EQ(Train(Config(ConfigText()), {}).step, 6);
}

TEST_F(Training, ACheckpointOfSomethingElseIsRefused) {
  TrainLimits one;
  one.stop_after = 1;
  Train(Config(ConfigText()), {}, one);
  EXPECT_THROW(Train(Config(ConfigText("", "delta")), {}), Error);
  std::string other_data = ConfigText();
  other_data.replace(other_data.find("named-keys"), 10, "passkey");
  EXPECT_THROW(Train(Config(other_data), {}), Error);
  TrainLimits fresh;
  fresh.fresh = true;
  fresh.stop_after = 1;
  EXPECT_EQ(Train(Config(ConfigText("", "delta")), {}, fresh).step, 1);
}

TEST_F(Training, ADamagedCheckpointIsRefusedAndLeftAlone) {
  TrainLimits one;
  one.stop_after = 1;
  Train(Config(ConfigText()), {}, one);
  const std::string good = Bytes("run/checkpoint.bin");
  for (const size_t at : {size_t{0}, good.size() / 2, good.size() - 1}) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    folder_.Write("run/checkpoint.bin", bad);
    EXPECT_THROW(Train(Config(ConfigText()), {}), Error) << at;
    EXPECT_EQ(Bytes("run/checkpoint.bin"), bad);
  }
  folder_.Write("run/checkpoint.bin", good.substr(0, good.size() - 9));
  EXPECT_THROW(Train(Config(ConfigText()), {}), Error);
  folder_.Write("run/checkpoint.bin", "short");
  EXPECT_THROW(Train(Config(ConfigText()), {}), Error);
}

TEST_F(Training, AFailedCheckpointLeavesTheOldOne) {
  const std::string path = folder_ / "c.bin";
  WriteCheckpoint(path, [](StateWriter& writer) { writer.Put<int>(7); });
  const std::string good = ReadWholeFile(path);
  EXPECT_THROW(WriteCheckpoint(path,
                               [](StateWriter& writer) {
                                 writer.PutString(std::string(100000, 'x'));
                                 Fail(ErrorKind::kFile, "no space left");
                               }),
               Error);
  EXPECT_EQ(ReadWholeFile(path), good);
}

// The disk is full in the middle of a checkpoint: writing beyond a limit fails as it does there.
TEST_F(Training, AFullDiskLeavesTheLastCheckpointAndSaysSo) {
  TrainLimits two;
  two.stop_after = 2;
  const TrainConfig config = Config(ConfigText());
  Train(config, {}, two);
  const std::string good = Bytes("run/checkpoint.bin"), model = Bytes("run/model.gguf");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {good.size() / 2, good.size() / 2};
    setrlimit(RLIMIT_FSIZE, &limit);
    int status = 1;
    try {
      Train(config, {}, two);
    } catch (const Error& error) {
      status = error.kind() == ErrorKind::kFile &&
                       std::string(error.what()).find("checkpoint.bin") != std::string::npos
                   ? 0
                   : 2;
    }
    _exit(status);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(Bytes("run/checkpoint.bin"), good);
  EXPECT_EQ(Bytes("run/model.gguf"), model);
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "run")) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == "checkpoint.bin" || name == "model.gguf" || name == "log.jsonl" || name == "lock")
        << name;
  }
  EXPECT_EQ(Train(config, {}).step, 6);
}

TEST_F(Training, ACorpusThatIsNoTextStopsARunBeforeItStarts) {
  const std::string good = ConfigText();
  const auto error_with = [&](const std::string& content, const char* file) {
    if (content != "-") folder_.Write(file, content);
    std::string text = good;
    text.replace(text.find("text.txt"), 8, file);
    try {
      Train(Config(text, "bad"), {});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("(no error)");
  };
  EXPECT_NE(error_with("-", "missing.txt").find("missing.txt"), std::string::npos);
  EXPECT_NE(error_with("", "empty.txt").find("empty.txt"), std::string::npos);
  EXPECT_NE(error_with(std::string("ab\0cd", 5), "binary.txt").find("byte 2"), std::string::npos);
  EXPECT_NE(error_with(" \n \n", "blank.txt").find("white space"), std::string::npos);
  EXPECT_FALSE(FileExists(folder_ / "bad/checkpoint.bin"));
}

TEST_F(Training, AMemoryThatExplodesStopsTheRunNamingTheLayer) {
  TrainLimits one;
  one.stop_after = 1;
  Train(Config(ConfigText()), {}, one);
  const std::string good = Bytes("run/checkpoint.bin");
  try {
    Train(Config(ConfigText("z_limit = 1\n")), {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 0"), std::string::npos) << error.what();
  }
  EXPECT_EQ(Bytes("run/checkpoint.bin"), good);
}

TEST_F(Training, KilledAtAnyMomentItGoesOn) {
  std::string text = ConfigText();
  text.replace(text.find("checkpoint_every = 100"), 22, "checkpoint_every = 1");
  text.replace(text.find("steps = 6"), 9, "steps = 100000");
  const TrainConfig config = Config(text);
  TrainLimits one;
  one.stop_after = 1;
  Train(config, {}, one);
  for (int i = 0; i < 3; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        Train(config, {});
      } catch (...) {
      }
      _exit(0);
    }
    usleep(static_cast<useconds_t>(60000 + 35000 * i));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_NO_THROW(Train(config, {}, one));
  }
}

// What the engine computes for the exported file, token by token and in chunks.
std::vector<float> EngineLogits(const std::string& path, const std::string& spec,
                                const std::vector<TokenId>& ids, size_t chunk) {
  CpuDevice device(1);
  ModelOptions options;
  options.pack = PackMode::kNever;
  const auto model = LoadedModel::Load(path, options, device);
  Budget budget;
  ContextSettings settings;
  settings.spec = spec;
  settings.key_encoding = Encoding::kF32;
  settings.value_encoding = Encoding::kF32;
  settings.max_chunk = static_cast<int64_t>(chunk);
  const auto context = MakeContext(model->context_shape(), settings, budget, 1);
  Runner runner(*model, static_cast<int64_t>(chunk), device, budget);
  std::vector<float> result;
  for (size_t first = 0; first < ids.size(); first += chunk) {
    ForwardChunk part;
    part.context = context.get();
    part.tokens = std::span(ids).subspan(first, std::min(chunk, ids.size() - first));
    part.all_logits = true;
    runner.Forward({&part, 1}, [&](size_t, size_t, std::span<const float> logits) {
      result.insert(result.end(), logits.begin(), logits.end());
    });
  }
  return result;
}

struct ExportCase {
  std::string attention, update, first;
  int64_t previous;
  std::string spec;
  bool key_shift = false;
  double write_floor = 0;
  std::string sink = "none";
};

class Exported : public ::testing::TestWithParam<ExportCase> {};

TEST_P(Exported, EngineAndModuleAgreeAtEveryBorder) {
  const ExportCase& given = GetParam();
  const ScratchFolder folder;
  VocabularySettings vocabulary;
  ModelSettings model = testing::SmallModel();
  model.sink = given.sink;
  MemorySettings memory = testing::Attention(given.attention, 8, given.previous, given.update);
  memory.first = given.first;
  memory.gate_init = 0.5;
  memory.key_shift = given.key_shift;
  memory.write_floor = given.write_floor;
  std::vector<std::string> pieces = {"<unk>", "<s>", "</s>"};
  for (char c = 'a'; c <= 'z'; ++c) pieces.emplace_back(1, c);
  const Tokenizer tokenizer = TokenizerFromPieces(pieces, std::vector<float>(pieces.size(), 0.0f));
  const auto vocab_size = static_cast<int64_t>(pieces.size());
  const Architecture architecture = MakeArchitecture(model, vocab_size);
  Decoder decoder(architecture, memory, {}, 5, torch::kFloat32);
  torch::NoGradGuard no_grad;
  std::vector<NamedTensor> tensors;
  for (const Parameter& parameter : decoder.parameters()) {
    const torch::Tensor value = decoder.Merged(parameter).contiguous();
    tensors.push_back({parameter.name,
                       value.sizes().vec(),
                       {value.data_ptr<float>(), value.data_ptr<float>() + value.numel()}});
  }
  const std::string path = folder / "model.gguf";
  ExportGguf(path, architecture, memory, tokenizer, nullptr, tensors);

  const Batch batch = testing::RandomBatch(1, 5, 8, vocab_size, 11);
  DecoderState state = decoder.EmptyState(1);
  std::vector<torch::Tensor> parts;
  const torch::Tensor tokens = torch::tensor(batch.tokens).view({1, -1});
  for (int64_t s = 0; s < 5; ++s) {
    parts.push_back(decoder.Logits(decoder.Segment(tokens.narrow(1, s * 8, 8), torch::zeros({1}), &state)));
  }
  const torch::Tensor expected = torch::cat(parts, 1).contiguous();
  const std::vector<float> module(expected.data_ptr<float>(), expected.data_ptr<float>() + expected.numel());
  const std::vector<TokenId> ids(batch.tokens.begin(), batch.tokens.end());
  for (const size_t chunk : {size_t{1}, size_t{7}, size_t{8}, size_t{9}, size_t{40}}) {
    const std::vector<float> engine = EngineLogits(path, given.spec, ids, chunk);
    ASSERT_EQ(engine.size(), module.size());
    // Three layers of float32 sums of at most 24 terms each; a border off by one gives 1e-2 and more.
    EXPECT_LT(mneme::testing::RelativeDifference(engine, module), 2e-5) << "chunk " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, Exported,
    ::testing::Values(ExportCase{"dense", "delta", "bypass", 0, "dense"},
                      ExportCase{"dense", "delta", "bypass", 0, "dense", false, 0, "logit"},
                      ExportCase{"infini", "gated-delta", "bypass", 1, "infini", false, 0, "logit"},
                      ExportCase{"infini", "linear", "bypass", 0, "infini"},
                      ExportCase{"infini", "delta", "bypass", 0, "infini"},
                      ExportCase{"infini", "gated-delta", "bypass", 0, "infini"},
                      ExportCase{"infini", "gated-delta", "literal", 0, "infini"},
                      ExportCase{"infini", "linear", "bypass", 1, "infini"},
                      ExportCase{"infini", "gated-delta", "bypass", 2, "infini"},
                      ExportCase{"infini", "gated-delta", "bypass", 0, "infini", true, 0.5},
                      ExportCase{"infini", "gated-delta", "bypass", 1, "infini", true},
                      ExportCase{"infini", "delta", "bypass", 0, "infini", true},
                      ExportCase{"xl", "delta", "bypass", 1, "xl:segment=8,previous=1"}),
    [](const auto& info) {
      std::string name = info.param.attention + "_" + info.param.update + "_" + info.param.first +
                         std::to_string(info.param.previous) + (info.param.key_shift ? "_shifted" : "") +
                         (info.param.write_floor > 0 ? "_floor" : "") + "_" + info.param.sink;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

TEST(Adapt, UntouchedModelsOutputIsReproducedWithTheGatesShut) {
  MNEME_REQUIRE_DATA(data);
  const ScratchFolder folder;
  folder.Write("text.txt", "Once upon a time there was a little girl.\nShe liked to play.\n");
  for (const std::string& base :
       {data + "/models/stories260K/stories260K.gguf", data + "/models/derived/stories260K-hf"}) {
    if (!std::filesystem::exists(base)) continue;
    for (const std::string trainable : {"all", "gates", "lora"}) {
      TrainConfig config;
      config.path = "test";
      config.out = folder / ("run-" + trainable);
      config.model.base = base;
      config.memory.segment = 16;
      config.memory.gate_init = -30;
      config.train.trainable = trainable;
      config.sources.push_back({});
      config.sources[0].kind = "text";
      config.sources[0].files = {folder / "text.txt"};
      config.stages.push_back({});
      TrainLimits none;
      none.stop_after = 0;
      none.fresh = true;
      const TrainOutcome outcome = Train(config, {}, none);
      const std::vector<TokenId> ids = {1, 403, 407, 261, 378, 2, 5, 9, 100, 200, 300, 17, 33, 49, 50, 51};
      const std::vector<float> expected = EngineLogits(base, "dense", ids, 16);
      EXPECT_LT(
          mneme::testing::RelativeDifference(EngineLogits(outcome.model_path, "infini", ids, 16), expected),
          1e-6)
          << base << " " << trainable;
    }
  }
}

TEST_F(Training, AdaptGoesOnWithAModelThatHasAMemory) {
  const TrainOutcome first = Train(Config(ConfigText()), {});
  std::string text = ConfigText();
  text.replace(text.find("[model]"), text.find("[memory]") - text.find("[model]"),
               "[model]\nbase = \"run/model.gguf\"\n");
  TrainLimits none;
  none.stop_after = 0;
  const TrainOutcome outcome = Train(Config(text, "again"), {}, none);
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < 70; ++id) ids.push_back(5 + id * 37 % 390);
  EXPECT_EQ(EngineLogits(outcome.model_path, "infini", ids, 16),
            EngineLogits(first.model_path, "infini", ids, 16));

  for (const char* other : {"update = \"delta\"", "update = \"gated-delta\"\nkey_shift = true",
                            "update = \"gated-delta\"\nattention = \"xl\""}) {
    std::string wrong = text;
    wrong.replace(wrong.find("update = \"gated-delta\""), 22, other);
    try {
      Train(Config(wrong, "other"), {}, none);
      ADD_FAILURE() << other;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kMismatch);
      EXPECT_NE(std::string(error.what()).find("has a compressive memory already (update \"gated-delta\""),
                std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace mneme::train
