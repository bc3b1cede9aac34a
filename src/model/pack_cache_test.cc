#include "model/pack_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "model/test_util.h"
#include "model/weights.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests
namespace fs = std::filesystem;

const std::vector<TokenId> kIds = {1, 300, 5, 77, 511, 0, 9, 12, 400, 33, 2, 8, 90, 14, 15};

class PackCacheTest : public ::testing::Test {
 protected:
  PackCacheTest() { model_ = WriteTiny(folder_, Encoding::kQ8_0); }

  std::shared_ptr<const LoadedModel> Load(const std::string& where, PackMode pack = PackMode::kAuto) const {
    CpuDevice device(2);
    return LoadedModel::Load(model_, {.pack = pack, .pack_cache = where}, device);
  }
  static std::string NotesOf(const LoadedModel& model) {
    std::string text;
    for (const std::string& note : model.notes()) text += note + "\n";
    return text;
  }
  // The copy is refused with these words and rewritten, and the next load maps it.
  void ExpectRewritten(const std::string& path, const std::string& words) const {
    const std::vector<float> logits = EngineLogits(*LoadModel(model_, PackMode::kAuto), kIds);
    const auto packed = Load(path);
    EXPECT_EQ(packed->packed_copy(), "");
    EXPECT_NE(NotesOf(*packed).find("packed copy " + path + ": "), std::string::npos) << NotesOf(*packed);
    EXPECT_NE(NotesOf(*packed).find(words), std::string::npos) << NotesOf(*packed);
    EXPECT_NE(NotesOf(*packed).find("written"), std::string::npos) << NotesOf(*packed);
    EXPECT_EQ(EngineLogits(*packed, kIds), logits);
    const auto mapped = Load(path);
    EXPECT_EQ(mapped->packed_copy(), path);
    EXPECT_EQ(NotesOf(*mapped), "");
    EXPECT_EQ(EngineLogits(*mapped, kIds), logits);
  }
  void Overwrite(const std::string& path, const std::string& bytes) const {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }

  TemporaryFolder folder_;
  std::string model_;
};

TEST_F(PackCacheTest, GivesTheBitsOfPackingAtLoad) {
  for (const Encoding encoding : {Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kF16, Encoding::kF32}) {
    model_ = WriteTiny(folder_, encoding);
    for (const PackMode pack :
         {PackMode::kAuto, PackMode::kFloat32, PackMode::kInt16, PackMode::kBFloat16, PackMode::kAlways}) {
      SCOPED_TRACE(std::string(EncodingName(encoding)) + " " + std::to_string(static_cast<int>(pack)));
      const auto plain = LoadModel(model_, pack);
      const std::string path = folder_ / "copy.packed";
      fs::remove(path);
      for (const bool is_there : {false, true}) {
        const auto cached = Load(path, pack);
        EXPECT_EQ(cached->packed_copy(), is_there ? path : "");
        EXPECT_EQ(cached->packed_bytes(), plain->packed_bytes());
        EXPECT_EQ(cached->packed_heap_bytes(), is_there ? 0 : plain->packed_bytes());
        EXPECT_EQ(cached->products(), plain->products());
        EXPECT_EQ(cached->fingerprint(), plain->fingerprint());
        EXPECT_EQ(EngineLogits(*cached, kIds), EngineLogits(*plain, kIds));
      }
    }
  }
}

TEST_F(PackCacheTest, DamagedCopiesAreNamedAndRewritten) {
  const std::string path = folder_ / "copy.packed";
  Load(path);
  const std::string good = ReadWholeFile(path);
  for (const size_t size : {size_t{0}, size_t{5}, size_t{20}, size_t{60}, good.size() - 1}) {
    Overwrite(path, good.substr(0, size));
    ExpectRewritten(path, "packed anew");
    EXPECT_EQ(ReadWholeFile(path), good);
  }
  Overwrite(path, good + "x");
  ExpectRewritten(path, "packed anew");
  // Every byte of the header, which has one section, then places in the data.
  constexpr size_t kHeaderBytes = 8 + 24 + 2 * 8;
  const size_t step = good.size() / 23;
  for (size_t at = 0; at < good.size(); at += at < kHeaderBytes ? 1 : step) {
    SCOPED_TRACE(at);
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    Overwrite(path, bad);
    if (at >= kHeaderBytes && at < kPackDataAlignment) continue;  // zeros between, which nothing reads
    ExpectRewritten(path, "packed anew");
  }
}

TEST_F(PackCacheTest, StaleCopiesAreNamedAndRewritten) {
  const std::string path = folder_ / "copy.packed";
  Load(path);
  // Other weights of the same shape.
  CpuDevice device(1);
  NoProgress progress;
  WriteRandomModel(ParseRandomShape("tiny"), Encoding::kQ8_0, 8, model_, device.pool(), progress);
  ExpectRewritten(path, "is stale");
  // Written to in place where no sample lies: the time tells.
  struct timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, {.tv_sec = 1, .tv_nsec = 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, model_.c_str(), times, 0), 0);
  ExpectRewritten(path, "is stale");
  // Another arithmetic.
  model_ = WriteTiny(folder_, Encoding::kF16);
  ExpectRewritten(path, "is stale");
  EXPECT_EQ(Load(path, PackMode::kBFloat16)->packed_copy(), "");
  EXPECT_EQ(Load(path, PackMode::kBFloat16)->packed_copy(), path);
}

TEST_F(PackCacheTest, LiesBesideTheModelOrInTheUsersFolder) {
  ASSERT_EQ(::setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1), 0);
  Load("auto");
  EXPECT_EQ(Load("auto")->packed_copy(), model_ + ".packed");
  // A folder takes the copies of models from anywhere.
  fs::create_directory(folder_ / "copies");
  Load(folder_ / "copies");
  const std::string in_folder = Load(folder_ / "copies")->packed_copy();
  EXPECT_TRUE(in_folder.starts_with(folder_ / "copies/tiny.gguf-")) << in_folder;
  // A place that cannot be written: what lies there is a folder of that name.
  fs::remove(model_ + ".packed");
  fs::create_directory(model_ + ".packed");
  EXPECT_NE(NotesOf(*Load("auto")).find("written"), std::string::npos);
  const std::string of_user = Load("auto")->packed_copy();
  EXPECT_TRUE(of_user.starts_with(folder_ / "cache/mneme/tiny.gguf-")) << of_user;
  ::unsetenv("XDG_CACHE_HOME");
}

TEST_F(PackCacheTest, WhatCannotBeWrittenIsSaidAndTheModelRuns) {
  const std::vector<float> logits = EngineLogits(*LoadModel(model_, PackMode::kAuto), kIds);
  // No such folder, a folder's name, and files of another kind, which stay.
  fs::create_directory(folder_ / "x.packed");
  Overwrite(folder_ / "notes.txt", "mine");
  for (const std::string& where : {folder_ / "absent/copy.packed", folder_ / "notes.txt", model_}) {
    const auto model = Load(where);
    EXPECT_NE(NotesOf(*model).find("no packed copy was written"), std::string::npos) << NotesOf(*model);
    EXPECT_EQ(EngineLogits(*model, kIds), logits);
  }
  EXPECT_EQ(ReadWholeFile(folder_ / "notes.txt"), "mine");
  EXPECT_EQ(EngineLogits(*LoadModel(model_, PackMode::kAuto), kIds), logits);
  // A full disk, as a limit on the size of files.
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small = {.rlim_cur = 8192, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto model = Load(folder_ / "copy.packed");
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_NE(NotesOf(*model).find("no packed copy was written"), std::string::npos) << NotesOf(*model);
  EXPECT_EQ(EngineLogits(*model, kIds), logits);
  EXPECT_FALSE(fs::exists(folder_ / "copy.packed"));
}

// A read-only folder, for a user whom modes bind.
TEST_F(PackCacheTest, AReadOnlyFolderIsLeftAlone) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write anywhere";
  fs::create_directory(folder_ / "read-only");
  fs::permissions(folder_ / "read-only", fs::perms::owner_read | fs::perms::owner_exec);
  const auto model = Load(folder_ / "read-only");
  EXPECT_NE(NotesOf(*model).find("no packed copy was written"), std::string::npos) << NotesOf(*model);
  fs::permissions(folder_ / "read-only", fs::perms::owner_all);
}

TEST_F(PackCacheTest, ProcessesThatWriteAtOnceLeaveAGoodCopy) {
  const std::string path = folder_ / "copy.packed";
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (int round = 0; round < 3; ++round) {
        if (EngineLogits(*Load(path), kIds).empty()) ::_exit(1);
        if (round == 1) fs::remove(path);
      }
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  Load(path);
  EXPECT_EQ(Load(path)->packed_copy(), path);
  for (const auto& entry : fs::directory_iterator(fs::path(path).parent_path()))
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
}

// What is mapped and then written to is not gone on with.
TEST_F(PackCacheTest, ACopyThatIsWrittenToInUseIsNoticed) {
  const std::string path = folder_ / "copy.packed";
  Load(path);
  const auto model = Load(path);
  model->CheckUnchanged();
  fs::resize_file(path, fs::file_size(path) - 4096);
  EXPECT_THROW(model->CheckUnchanged(), Error);
}

TEST_F(PackCacheTest, NothingPackedIsNoCopy) {
  const auto model = Load("auto", PackMode::kNever);
  EXPECT_NE(NotesOf(*model).find("no packed copy"), std::string::npos) << NotesOf(*model);
  EXPECT_FALSE(fs::exists(model_ + ".packed"));
}

}  // namespace
}  // namespace mneme
