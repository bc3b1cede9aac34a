// A store in a folder gives back what it was given or says that it is damaged, whatever happened to its files
// and whenever its process ended.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/random.h"
#include "kernels/attend/attend.h"
#include "recall/slice_store.h"
#include "recall/store_test_util.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr SliceLayout kLayout = testing::kTestSlices;
constexpr int64_t kCapacity = 4096;

class StoreFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/store-" + std::to_string(::getpid());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  SliceStore Open(int64_t capacity = kCapacity, size_t most_bytes = 0, bool forgets = false) {
    return SliceStore(kLayout, 2, capacity, budget_,
                      {.path = folder_, .most_bytes = most_bytes, .forgets = forgets}, "recall");
  }
  std::string File(int number = 0) const {
    char name[32];
    std::snprintf(name, sizeof(name), "/slices-%06d", number);
    return folder_ + name;
  }

  Budget budget_;
  std::string folder_;
};

// Whether a slice is what Add made; a damaged one is not. What is neither fails the test.
bool IsWhole(const SliceStore& store, int64_t number, int marks = 0) {
  uint8_t record[kLayout.record_bytes];
  TokenId tokens[kBlockTokens];
  if (!store.Read(number, record, tokens)) {
    EXPECT_TRUE(store.IsDamaged(number));
    return false;
  }
  for (size_t i = 0; i < kBlockTokens; ++i) EXPECT_EQ(tokens[i], static_cast<TokenId>(number * 64) + marks);
  for (const uint8_t byte : record) EXPECT_EQ(byte, static_cast<uint8_t>(number % 251 + marks));
  for (size_t i = 0; i < kLayout.key_bytes; ++i)
    EXPECT_EQ(store.Keys(number)[i], static_cast<uint8_t>(number % 241 + marks));
  return true;
}

int64_t NumWhole(const SliceStore& store, int marks = 0) {
  int64_t count = 0;
  for (int64_t number = store.begin(); number < store.end(); ++number) {
    if (IsWhole(store, number, marks)) ++count;
  }
  return count;
}

std::string StateOf(const SliceStore& store) {
  BufferWriter writer;
  store.Save(writer);
  return writer.buffer();
}

void RestoreState(const std::string& state, SliceStore* store) {
  BufferReader reader(state);
  store->Restore(reader);
  EXPECT_EQ(reader.remaining_bytes(), 0u);
}

// The message of the error that `action` ends with.
template <typename Action>
std::string MessageOf(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(StoreFolderTest, AStateGoesOnWithWhatTheFolderHas) {
  std::string state;
  {
    SliceStore store = Open();
    EXPECT_EQ(budget_.used_bytes(), SliceStore::PeakBytes(kLayout, kCapacity, {.path = folder_}));
    for (int i = 0; i < 1700; ++i) testing::AddSlice(&store);
    state = StateOf(store);
    EXPECT_EQ(NumWhole(store), 1700);
    for (int i = 0; i < 500; ++i) testing::AddSlice(&store, 1);  // nobody knows of these
  }
  EXPECT_LT(state.size(), 1700u * 8 + 64);
  SliceStore store = Open();
  RestoreState(state, &store);
  EXPECT_EQ(store.end(), 1702);
  EXPECT_EQ(NumWhole(store), 1700);
  EXPECT_EQ(StateOf(store), state);
  for (int i = 0; i < 900; ++i) testing::AddSlice(&store);
  EXPECT_EQ(NumWhole(store), 2600);
}

TEST_F(StoreFolderTest, AnotherStreamsStoreIsRefused) {
  std::string early, late;
  {
    SliceStore store = Open();
    for (int i = 0; i < 100; ++i) testing::AddSlice(&store);
    early = StateOf(store);
    for (int i = 0; i < 100; ++i) testing::AddSlice(&store);
    late = StateOf(store);
  }
  {
    SliceStore store = Open();
    EXPECT_NE(MessageOf([&] { testing::AddSlice(&store); }).find("another stream"), std::string::npos);
    EXPECT_EQ(store.end(), store.begin());
  }
  {
    SliceStore store = Open();  // from an earlier state another way
    RestoreState(early, &store);
    testing::AddSlice(&store, 1);
  }
  {
    // What the later state had was cut off.
    SliceStore store = Open();
    EXPECT_NE(MessageOf([&] { RestoreState(late, &store); }).find("another way"), std::string::npos);
  }
  {
    SliceStore store = Open();
    RestoreState(early, &store);
    EXPECT_EQ(NumWhole(store), 100);
  }
  SliceStore in_memory(kLayout, 2, kCapacity, budget_);
  BufferReader reader(early);
  EXPECT_NE(MessageOf([&] { in_memory.Restore(reader); }).find("--store"), std::string::npos);
  const SliceLayout other{.record_bytes = 256, .key_bytes = 64};
  const auto open_other = [&] { SliceStore(other, 2, 64, budget_, {.path = folder_}); };
  EXPECT_NE(MessageOf(open_other).find("another model or context"), std::string::npos);
}

TEST_F(StoreFolderTest, TwoCannotHaveOneStore) {
  SliceStore store = Open();
  EXPECT_NE(MessageOf([&] { Open(); }).find("another process"), std::string::npos);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(MessageOf([&] { Open(); }).find("another process") == std::string::npos);
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST_F(StoreFolderTest, CopiesShareWhatIsThereAndKeepToThemselvesWhatTheyAdd) {
  SliceStore store = Open();
  for (int i = 0; i < 37; ++i) testing::AddSlice(&store);
  SliceStore copy = store.Share();
  SliceStore copy_of_copy = copy.Share();
  for (int i = 0; i < 60; ++i) {
    testing::AddSlice(&store);
    testing::AddSlice(&copy, 1);
  }
  testing::AddSlice(&copy_of_copy, 2);
  SliceStore late = copy.Share();
  testing::AddSlice(&late, 3);
  for (int64_t number = store.begin(); number < store.end(); ++number) {
    EXPECT_TRUE(IsWhole(store, number)) << number;
    EXPECT_TRUE(IsWhole(copy, number, number < 39 ? 0 : 1)) << number;
    EXPECT_TRUE(IsWhole(late, number, number < 39 ? 0 : 1)) << number;
  }
  EXPECT_TRUE(IsWhole(late, late.end() - 1, 3));
  EXPECT_TRUE(IsWhole(copy_of_copy, 39, 2));
  EXPECT_THROW(StateOf(copy), Error);
  EXPECT_FALSE(StateOf(store).empty());
}

TEST_F(StoreFolderTest, FlippedAndCutFilesLeaveOutWhatIsDamagedAndNothingElse) {
  std::string state;
  {
    SliceStore store = Open();
    for (int i = 0; i < 700; ++i) testing::AddSlice(&store);
    state = StateOf(store);
  }
  const std::string whole = ReadWholeFile(File());
  Random random(3);
  const auto slice_bytes = static_cast<int64_t>(kLayout.disk_bytes());
  for (int trial = 0; trial < 300; ++trial) {
    const auto at = static_cast<int64_t>(random.Below(whole.size()));
    const bool is_cut = trial % 3 == 0;
    std::string bytes = whole;
    if (is_cut) {
      bytes.resize(static_cast<size_t>(at));
    } else {
      bytes[static_cast<size_t>(at)] ^= static_cast<char>(1 << random.Below(8));
    }
    std::ofstream(File(), std::ios::binary) << bytes;
    SliceStore store = Open();
    RestoreState(state, &store);
    const int64_t damaged = store.begin() + at / slice_bytes;
    // The last bytes of a header say nothing.
    const int64_t in_slice = at % slice_bytes;
    const bool is_harmless = !is_cut && in_slice >= 48 && in_slice < 64;
    const int64_t file_end = store.begin() + static_cast<int64_t>(whole.size()) / slice_bytes;
    for (int64_t number = store.begin(); number < store.end(); ++number) {
      const bool is_hit = is_cut ? number >= damaged && number < file_end : number == damaged && !is_harmless;
      ASSERT_EQ(IsWhole(store, number), !is_hit) << number << " of byte " << at;
    }
    // It goes on, and what was damaged stays so.
    testing::AddSlice(&store);
    EXPECT_TRUE(IsWhole(store, store.end() - 1));
    std::error_code code;
    fs::resize_file(File(1), 188 * static_cast<uintmax_t>(slice_bytes), code);
  }
  fs::remove(File());
  SliceStore store = Open();
  RestoreState(state, &store);
  EXPECT_EQ(NumWhole(store), 700 - static_cast<int64_t>(whole.size()) / slice_bytes);
}

TEST_F(StoreFolderTest, ADamagedManifestIsRefused) {
  { SliceStore store = Open(); }
  const std::string whole = ReadWholeFile(folder_ + "/manifest");
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes[at] ^= 2;
    std::ofstream(folder_ + "/manifest", std::ios::binary) << bytes;
    EXPECT_THROW(Open(), Error) << at;
  }
}

TEST_F(StoreFolderTest, AtItsLimitItStopsOrForgetsTheOldest) {
  const size_t most = 256 * kLayout.disk_bytes();
  {
    SliceStore store = Open(kCapacity, most);
    for (int i = 0; i < 256; ++i) testing::AddSlice(&store);
    const std::string message = MessageOf([&] { testing::AddSlice(&store); });
    EXPECT_NE(message.find("Nothing is lost"), std::string::npos) << message;
    EXPECT_EQ(NumWhole(store), 256);
    EXPECT_FALSE(StateOf(store).empty());
  }
  fs::remove_all(folder_);
  SliceStore store = Open(kCapacity, most, true);
  for (int i = 0; i < 2000; ++i) {
    testing::AddSlice(&store);
    EXPECT_LE(store.end() - store.begin(), 256);
  }
  EXPECT_GE(NumWhole(store), 256 - 32);
  EXPECT_EQ(NumWhole(store), store.end() - store.begin());
  uintmax_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder_)) bytes += fs::file_size(entry.path());
  EXPECT_LE(bytes, most + 4096);
}

TEST_F(StoreFolderTest, AFullDiskIsSaidAndTheSliceCanBeAddedLater) {
  SliceStore store = Open();
  for (int i = 0; i < 20; ++i) testing::AddSlice(&store);
  // A limit on the size of files stands for the end of the disk.
  struct rlimit old {};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit low = old;
  low.rlim_cur = 20 * kLayout.disk_bytes() + 100;
  ::setrlimit(RLIMIT_FSIZE, &low);
  const std::string first = MessageOf([&] { testing::AddSlice(&store); });
  const std::string second = MessageOf([&] { testing::AddSlice(&store); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, handler);
  EXPECT_NE(first.find("slices-000000"), std::string::npos) << first;
  EXPECT_FALSE(second.empty());
  EXPECT_EQ(fs::file_size(File()), 20 * kLayout.disk_bytes());
  for (int i = 0; i < 20; ++i) testing::AddSlice(&store);
  EXPECT_EQ(NumWhole(store), 40);
}

// A child adds slices and saves states as a run does, until it is killed.
TEST_F(StoreFolderTest, KilledAtAnyMomentTheLastStateGoesOn) {
  const std::string state_path = folder_ + ".state";
  fs::remove(state_path);
  Random random(9);
  int64_t last_end = 2;
  uint64_t longest = 6000;  // microseconds until a child is killed
  for (int trial = 0; trial < 200; ++trial) {
    const pid_t child = ::fork();
    if (child == 0) {
      SliceStore store = Open(kCapacity, 3000 * kLayout.disk_bytes(), true);
      if (fs::exists(state_path)) RestoreState(ReadWholeFile(state_path), &store);
      for (int i = 0;; ++i) {
        if (i % 7 == 0) {
          AtomicFileWriter writer(state_path);
          writer.Write(StateOf(store));
          writer.Commit();
        }
        testing::AddSlice(&store);
      }
    }
    // A machine of any speed comes as far as a state now and then.
    if (trial == 0) {
      for (; !fs::exists(state_path); longest += 500) ::usleep(500);
    }
    ::usleep(static_cast<useconds_t>(random.Below(longest)));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    if (!fs::exists(state_path)) {
      fs::remove_all(folder_);
      continue;
    }
    SliceStore store = Open(kCapacity, 3000 * kLayout.disk_bytes(), true);
    RestoreState(ReadWholeFile(state_path), &store);
    ASSERT_GE(store.end(), last_end);
    ASSERT_EQ(NumWhole(store), store.end() - store.begin()) << trial;
    last_end = store.end();
  }
  EXPECT_GT(last_end, 2);  // states were saved, and gone on with
  fs::remove(state_path);
}

TEST_F(StoreFolderTest, AFolderThatIsNoneOrCannotBeWrittenIsRefused) {
  fs::create_directories(folder_);
  std::ofstream(folder_ + "/letter.txt") << "dear";
  EXPECT_NE(MessageOf([&] { Open(); }).find("is no store"), std::string::npos);
  fs::remove(folder_ + "/letter.txt");
  { SliceStore store = Open(); }
  if (::geteuid() == 0) return;
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_NE(MessageOf([&] { Open(); }).find("cannot be written"), std::string::npos);
  fs::permissions(folder_, fs::perms::owner_all);
}

}  // namespace
}  // namespace mneme
