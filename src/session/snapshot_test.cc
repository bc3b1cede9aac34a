#include "session/snapshot.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/files/file.h"
#include "base/hash.h"
#include "base/progress.h"
#include "model/auto_products.h"
#include "model/convert/random_model.h"
#include "session/session_test_util.h"

namespace mneme {
namespace {

using namespace mneme::testing;

#define MNEME_SESSION_TEST_MODEL() \
  MNEME_REQUIRE_DATA(data);        \
  const std::shared_ptr<const LoadedModel> model = TestModel(data)

// A folder of its own that goes away with the test.
class SnapshotTest : public ::testing::Test {
 protected:
  SnapshotTest() {
    folder_ = std::filesystem::temp_directory_path() / ("mneme_snapshot_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  ~SnapshotTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string Path(const char* name = "state") const { return (folder_ / name).string(); }
  static std::string Bytes(const std::string& path) { return ReadWholeFile(path); }

  std::filesystem::path folder_;
  Budget budget_;
};

// Puts the right length and checksum on bytes that were changed.
std::string Resealed(std::string bytes) {
  const uint64_t length = bytes.size() - 16;
  bytes.replace(bytes.size() - 16, 8, reinterpret_cast<const char*>(&length), 8);
  const uint64_t checksum = HashBytes(std::string_view(bytes).substr(0, bytes.size() - 8));
  bytes.replace(bytes.size() - 8, 8, reinterpret_cast<const char*>(&checksum), 8);
  return bytes;
}

// T41.
TEST_F(SnapshotTest, GoingOnAfterRestoreIsBitIdentical) {
  MNEME_SESSION_TEST_MODEL();
  const std::vector<TokenId> tokens = TestTokens(*model, 150);
  const auto all = std::span(tokens);
  for (const std::string& spec : TestContexts()) {
    // Empty, inside a chunk, at and around the first evictions, far beyond.
    for (const size_t at : {0u, 3u, 16u, 24u, 25u, 26u, 100u}) {
      TestSession original(model, TestOptions(spec), budget_, TestDevice());
      original.Feed(all.first(at));
      original.Save(Path());
      TestSession restored(model, TestOptions(spec), budget_, TestDevice());
      restored.Reload(Path());
      EXPECT_EQ(restored.num_tokens(), static_cast<int64_t>(at));
      EXPECT_EQ(restored.RecentTokens(), original.RecentTokens());
      EXPECT_EQ(restored.impl().context->Ledger(), original.impl().context->Ledger());
      if (at > 0) {
        EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(original))) << spec << " at " << at;
      }
      original.Feed(all.subspan(at, 37));
      restored.Feed(all.subspan(at, 37));
      EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(original))) << spec << " at " << at;
      // Rewinding works across the restore.
      original.Rewind(20);
      restored.Rewind(20);
      EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(original))) << spec << " at " << at;
    }
  }
}

TEST_F(SnapshotTest, EveryEncodingOfKeysAndValues) {
  MNEME_SESSION_TEST_MODEL();
  // Blocks of 32 values need heads of 32: the small model's have 8, so some encodings are refused; by name.
  const std::vector<TokenId> tokens = TestTokens(*model, 70);
  int num_tried = 0;
  for (const Encoding encoding :
       {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0}) {
    SessionOptions options = TestOptions("sinks:sinks=4,window=20");
    options.keys = options.values = encoding;
    std::unique_ptr<Session> original;
    try {
      original = std::make_unique<Session>(TestSession(model, options, budget_, TestDevice()));
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(EncodingName(encoding)), std::string::npos) << error.what();
      continue;
    }
    ++num_tried;
    original->Feed(std::span(tokens).first(45));
    original->Save(Path());
    TestSession restored(model, options, budget_, TestDevice());
    restored.Reload(Path());
    original->Feed(std::span(tokens).subspan(45));
    restored.Feed(std::span(tokens).subspan(45));
    EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(*original))) << EncodingName(encoding);
  }
  EXPECT_GE(num_tried, 3);
}

TEST_F(SnapshotTest, PendingTextAndSamplingGoOn) {
  MNEME_SESSION_TEST_MODEL();
  SessionOptions options = TestOptions("sinks:sinks=4,window=20");
  options.sampler = {.temperature = 1.0f, .top_k = 40, .repetition_penalty = 1.3f, .seed = 99};
  const std::string text = "Once upon a time there was a \xE2\x82\xAC in the gar";
  for (const size_t cut : {4u, 9u, 30u, 31u, static_cast<unsigned>(text.size())}) {
    TestSession original(model, options, budget_, TestDevice());
    original.FeedText(std::string_view(text).substr(0, cut));
    original.Save(Path());
    TestSession restored(model, TestOptions("sinks:sinks=4,window=20"), budget_, TestDevice());
    restored.Reload(Path());
    EXPECT_EQ(restored.pending_bytes(), original.pending_bytes());
    EXPECT_EQ(restored.text_bytes(), static_cast<int64_t>(cut));
    EXPECT_EQ(restored.options().sampler, options.sampler);
    for (Session* session : {&original, &restored}) session->FeedText(std::string_view(text).substr(cut));
    const std::string first = GenerateText(original, {.max_tokens = 30, .stop_at_eog = false});
    EXPECT_EQ(GenerateText(restored, {.max_tokens = 30, .stop_at_eog = false}), first) << cut;
    // Once more in the middle of the answer.
    original.Save(Path());
    restored.Reload(Path());
    EXPECT_EQ(GenerateText(restored, {.max_tokens = 30, .stop_at_eog = false}),
              GenerateText(original, {.max_tokens = 30, .stop_at_eog = false}));
    EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(original)));
  }
}

TEST_F(SnapshotTest, SavingTwiceGivesTheSameBytes) {
  MNEME_SESSION_TEST_MODEL();
  TestSession session(model, TestOptions("sinks:sinks=4,window=20"), budget_, TestDevice());
  session.Feed(TestTokens(*model, 60));
  session.Save(Path("a"));
  TestSession restored(model, TestOptions("sinks:sinks=4,window=20"), budget_, TestDevice());
  restored.Reload(Path("a"));
  restored.Save(Path("b"));
  EXPECT_EQ(Bytes(Path("a")), Bytes(Path("b")));
}

TEST_F(SnapshotTest, TheHeaderTellsHowToGoOn) {
  MNEME_SESSION_TEST_MODEL();
  SessionOptions options = TestOptions("lambda:starts=5,window=24,distance=24");
  options.start_position = Position{1} << 33;
  options.keys = Encoding::kBF16;
  TestSession session(model, options, budget_, TestDevice());
  session.Feed(TestTokens(*model, 33));
  session.Save(Path());
  const StateInfo info = ReadStateInfo(Path());
  EXPECT_EQ(info.num_tokens, 33);
  EXPECT_EQ(info.options.start_position, Position{1} << 33);
  EXPECT_EQ(info.model_fingerprint, model->fingerprint());
  TestSession restored(model, info.options, budget_, TestDevice());
  restored.Reload(Path());
  EXPECT_EQ(restored.next_position(), (Position{1} << 33) + 33);
}

TEST_F(SnapshotTest, AStateGoesOnWithAnotherChunk) {
  MNEME_SESSION_TEST_MODEL();
  const std::vector<TokenId> tokens = TestTokens(*model, 300);
  for (const std::string& context : TestContexts()) {
    TestSession session(model, TestOptions(context, 16), budget_, TestDevice());
    session.Feed(std::span(tokens).first(200));
    session.Save(Path());
    session.Feed(std::span(tokens).subspan(200));
    for (const int64_t chunk : {1, 7, 90}) {
      Session other = RestoreSession(model, ReadWholeFile(Path()), Path(), {}, chunk, budget_, TestDevice());
      EXPECT_EQ(other.max_rows(), chunk);
      other.Feed(std::span(tokens).subspan(200));
      EXPECT_TRUE(SameBits(LogitsOf(other), LogitsOf(session))) << context << " chunk " << chunk;
    }
  }
}

TEST_F(SnapshotTest, EveryMismatchIsNamed) {
  MNEME_SESSION_TEST_MODEL();
  TestSession saved(model, TestOptions("sinks:sinks=4,window=20"), budget_, TestDevice());
  saved.Feed(TestTokens(*model, 30));
  saved.Save(Path());
  const auto refuse = [&](const SessionOptions& options, const char* word) {
    TestSession session(model, options, budget_, TestDevice());
    session.Feed(TestTokens(*model, 9));
    const std::vector<float> before = LogitsOf(session);
    const std::string message = ErrorOf(ErrorKind::kMismatch, [&] { session.Reload(Path()); });
    EXPECT_NE(message.find(word), std::string::npos) << message;
    EXPECT_NE(message.find(Path()), std::string::npos) << message;
    EXPECT_EQ(session.num_tokens(), 9);
    EXPECT_TRUE(SameBits(LogitsOf(session), before));
  };
  SessionOptions options = TestOptions("sinks:sinks=4,window=21");
  refuse(options, "another --context: it was saved with sinks:sinks=4,window=20");
  options = TestOptions("sinks:sinks=4,window=20");
  options.keys = Encoding::kF32;
  refuse(options, "--kv-k: it was saved with f16, and here is f32");
  options = TestOptions("sinks:sinks=4,window=20");
  options.values = Encoding::kF32;
  refuse(options, "--kv-v");
  options = TestOptions("sinks:sinks=4,window=20");
  options.start_position = 5;
  refuse(options, "--start-position");
  refuse(TestOptions("sinks:sinks=4,window=20", 16, 21), "--max-rewind");

  StateInfo here = StateInfoOf(saved.impl());
  const auto compare = [&](const StateInfo& other) {
    return ErrorOf(ErrorKind::kMismatch, [&] { CompareModels(other, here, "x"); });
  };
  EXPECT_EQ(compare(here), "(no error)");
  StateInfo other = here;
  other.model_fingerprint ^= 1;
  EXPECT_NE(compare(other).find("state belongs to another model"), std::string::npos);
  other = here;
  other.tokenizer_fingerprint ^= 1;
  EXPECT_NE(compare(other).find("another tokenizer"), std::string::npos);
  other = here;
  other.has_tokenizer = false;
  EXPECT_NE(compare(other).find("without a tokenizer"), std::string::npos);
  other = here;
  other.products = "f16:int16";
  EXPECT_NE(compare(other).find("--pack"), std::string::npos);
  // Integers have the same bits in place and packed, floats have not.
  here.products = "f16:file,q4_k:packed,q5_0:packed";
  for (const char* products :
       {"f16:file,q4_k:file,q4_k:packed,q5_0:file", "f16:file,q4_k:file,q5_0:packed"}) {
    other.products = products;
    EXPECT_EQ(compare(other), "(no error)") << products;
  }
  for (const char* products : {"f16:packed,q4_k:packed,q5_0:packed", "f16:file,q4_k:packed", "", ",:,x"}) {
    other.products = products;
    EXPECT_NE(compare(other).find("--pack"), std::string::npos) << products;
  }
}

// A state of `auto` from a machine that multiplies float weights otherwise: refused by the name of the
// option, or gone on from with its own arithmetic.
TEST_F(SnapshotTest, AStateKeepsTheArithmeticThatAutoTookWhereItWasSaved) {
  const std::string path = Path("f16.gguf");
  NoProgress progress;
  ThreadPool pool(1);
  WriteRandomModel(ParseRandomShape("tiny"), Encoding::kF16, 7, path, pool, progress);
  const bool is_int16_here = AutoProducts(Encoding::kF16, "") == FloatProducts::kInt16;
  const std::string elsewhere = is_int16_here ? "f16:packed" : "f16:int16";
  const std::vector<TokenId> tokens = {1, 300, 5, 77, 511, 0, 9, 12};
  const Engine engine({.num_threads = 1, .memory_bytes = size_t{64} << 20});
  Session saved(Model::Load(engine, path, {.products = elsewhere}), TestOptions("window:window=24"));
  saved.Feed(tokens);
  saved.Save(Path());
  saved.Feed(tokens);
  const StateInfo info = ReadStateInfo(Path());
  EXPECT_EQ(info.pack, PackMode::kAuto);
  EXPECT_EQ(info.products, elsewhere);
  const Model other = Model::Load(engine, path);
  EXPECT_NE(ErrorOf(ErrorKind::kMismatch, [&] { Session::Restore(other, Path()); }).find("--pack"),
            std::string::npos);
  Session restored = Session::Restore(Model::Load(engine, path, {.products = info.products}), Path());
  restored.Feed(tokens);
  EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(saved)));
}

TEST_F(SnapshotTest, DamagedFilesAreRefusedAndNothingChanges) {
  MNEME_SESSION_TEST_MODEL();
  TestSession session(model, TestOptions("sinks:sinks=4,window=20"), budget_, TestDevice());
  session.Feed(TestTokens(*model, 30));
  session.Save(Path());
  const std::string good = Bytes(Path());
  const std::vector<float> before = LogitsOf(session);
  const auto refuse = [&](std::string_view bytes) {
    EXPECT_THROW(session.ReloadBytes(bytes), Error);
    ASSERT_EQ(session.num_tokens(), 30);
    ASSERT_TRUE(SameBits(LogitsOf(session), before));
  };
  for (const size_t size : {0u, 3u, 8u, 12u, 27u, 28u, 100u}) refuse(std::string_view(good).substr(0, size));
  refuse(std::string_view(good).substr(0, good.size() - 1));
  refuse(good + "x");
  for (size_t i = 0; i < good.size(); i += good.size() / 97 + 1) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    refuse(bad);
  }
  std::string version = good;
  version[8] = 9;
  EXPECT_NE(ErrorOf(ErrorKind::kFile, [&] { session.ReloadBytes(Resealed(version)); }).find("version 9"),
            std::string::npos);
  EXPECT_NE(ErrorOf(ErrorKind::kFile, [&] { session.ReloadBytes("GGUF and so on, certainly no state"); })
                .find("not a state file"),
            std::string::npos);
  session.ReloadBytes(good);
  EXPECT_TRUE(SameBits(LogitsOf(session), before));
}

// Bytes that pass the checksum and are wrong all the same: whatever they are, an Error or a usable session.
TEST_F(SnapshotTest, HostileBytesWithARightChecksum) {
  MNEME_SESSION_TEST_MODEL();
  TestSession session(model, TestOptions("sinks:sinks=4,window=20"), budget_, TestDevice());
  session.FeedText("Once upon a");
  session.Save(Path());
  const std::string good = Bytes(Path());
  uint64_t random = 1;
  int num_refused = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string bad = good;
    random = random * 6364136223846793005u + 1442695040888963407u;
    // Most rounds near the front, where the structure is.
    const size_t range = round % 4 == 0 ? bad.size() - 16 : std::min<size_t>(bad.size() - 16, 400);
    const size_t at = (random >> 20) % range;
    bad[at] = static_cast<char>(round % 3 == 0 ? 0xFF : bad[at] ^ (1 << (random >> 60)));
    if (round % 5 == 0) bad.erase(at, 1 + (random >> 50) % 9);
    try {
      session.ReloadBytes(Resealed(bad));
    } catch (const Error&) {
      ++num_refused;
    }
    // Numbers may be any, also ones that cannot be sampled from.
    try {
      if (session.num_tokens() > 0) session.Sample();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
    }
  }
  EXPECT_GT(num_refused, 300);
  session.ReloadBytes(good);
}

TEST_F(SnapshotTest, AFullDiskLeavesTheOldState) {
  MNEME_SESSION_TEST_MODEL();
  TestSession session(model, TestOptions("sinks:sinks=4,window=200"), budget_, TestDevice());
  session.Feed(TestTokens(*model, 30));
  session.Save(Path());
  const std::string old = Bytes(Path());
  session.Feed(TestTokens(*model, 150));
  // Writing beyond a limit on file sizes fails as on a full disk once the signal is ignored.
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small{.rlim_cur = 20000, .rlim_max = limit.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = ErrorOf(ErrorKind::kFile, [&] { session.Save(Path()); });
  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(message.find("left as it was"), std::string::npos) << message;
  EXPECT_EQ(Bytes(Path()), old);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);  // no rest left behind
  session.Save(Path());
  EXPECT_NE(Bytes(Path()), old);
  EXPECT_NE(
      ErrorOf(ErrorKind::kFile, [&] { session.Save(Path("no/such/folder")); }).find("cannot be created"),
      std::string::npos);
}

TEST_F(SnapshotTest, KilledInTheMiddleOfASaveTheOldStateIsWhole) {
  MNEME_SESSION_TEST_MODEL();
  TestSession session(model, TestOptions("sinks:sinks=4,window=400"), budget_, TestDevice());
  session.Feed(TestTokens(*model, 30));
  session.Save(Path());
  const std::string first = Bytes(Path());
  session.Feed(TestTokens(*model, 400));
  session.Save(Path("other"));
  const std::string second = Bytes(Path("other"));
  int num_old = 0;
  for (int round = 0; round < 12; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (;;) session.Save(Path());  // saves until it dies; uses no thread of the device
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200 + 700 * round));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status));
    const std::string now = Bytes(Path());
    num_old += now == first;
    EXPECT_TRUE(now == first || now == second) << "round " << round;
    TestSession restored(model, TestOptions("sinks:sinks=4,window=400"), budget_, TestDevice());
    EXPECT_NO_THROW(restored.Reload(Path()));
  }
  RecordProperty("rounds_with_the_old_state", num_old);
}

TEST_F(SnapshotTest, ACloneGoesItsOwnWay) {
  MNEME_SESSION_TEST_MODEL();
  for (const std::string& spec : TestContexts()) {
    TestSession session(model, TestOptions(spec), budget_, TestDevice());
    session.FeedText("Once upon a time there was a dog who lived in a big house with a red doo");
    Session clone = session.Clone();
    const std::vector<TokenId> other = TestTokens(*model, 30);
    Session third = clone.Clone();
    third.Feed(other);
    for (Session* each : {static_cast<Session*>(&session), &clone}) each->FeedText("r and a cat.");
    EXPECT_EQ(GenerateText(session, {.max_tokens = 30}), GenerateText(clone, {.max_tokens = 30})) << spec;
    EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(clone))) << spec;
  }
}

TEST_F(SnapshotTest, RestoringUnderATightCap) {
  MNEME_SESSION_TEST_MODEL();
  const SessionOptions options = TestOptions("sinks:sinks=4,window=300");
  TestSession source(model, options, budget_, TestDevice());
  source.Feed(TestTokens(*model, 400));
  source.Save(Path());
  size_t needed = 0;
  {
    Budget budget;
    TestSession session(model, options, budget, TestDevice());
    needed = budget.used_bytes();
  }
  // Room for exactly one.
  Budget tight(needed);
  TestSession session(model, options, tight, TestDevice());
  session.Reload(Path());
  EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(source)));
  session.Feed(TestTokens(*model, 20));
  session.Reload(Path());
  EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(source)));
  EXPECT_EQ(tight.used_bytes(), needed);
  EXPECT_NE(ErrorOf(ErrorKind::kBudget, [&] { session.Clone(); }).find("--memory"), std::string::npos);
  EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(source)));
  EXPECT_EQ(tight.used_bytes(), needed);
}

}  // namespace
}  // namespace mneme
