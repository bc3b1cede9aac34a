// Files: what a writer leaves, replaces and keeps, also where it is killed.
#include "base/files/file.h"

#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/mneme_file_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::string Make(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return Path(name);
  }
  static void Replace(const std::string& path, const std::string& text) {
    AtomicFileWriter writer(path);
    writer.Write(text);
    writer.Commit();
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_))
      names.push_back(entry.path().filename().string());
    return names;
  }
  static struct stat Info(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(lstat(path.c_str(), &info), 0) << path;
    return info;
  }

  fs::path folder_;
};

template <typename Call>
std::string MessageOf(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kFile);
    return error.what();
  }
  return "no error";
}

TEST_F(FileTest, TheOldFileStaysUntilCommit) {
  const std::string path = Make("file", "old");
  {
    AtomicFileWriter writer(path);
    writer.Write("new");
  }
  EXPECT_EQ(ReadWholeFile(path), "old");
  AtomicFileWriter writer(path);
  writer.Write("new");
  writer.Commit();
  EXPECT_EQ(ReadWholeFile(path), "new");
  EXPECT_EQ(Names().size(), 1u);
}

TEST_F(FileTest, MessagesNameThePathThatWasGiven) {
  const std::string path = Path("absent/file");
  const std::string message = MessageOf([&] { AtomicFileWriter{path}; });
  EXPECT_EQ(message, path + ": cannot be created: there is no folder " + Path("absent/"));
  EXPECT_EQ(MessageOf([&] { CheckWritable(path); }), message);
  EXPECT_NE(MessageOf([&] { CheckWritable(folder_.string()); }).find("is a folder"), std::string::npos);
  EXPECT_NE(MessageOf([&] { CheckWritable(""); }).find("empty"), std::string::npos);
  EXPECT_THROW(MappedFile("/nonexistent/file"), Error);
  CheckWritable(Make("file", "old"));
  CheckWritable(Path("new"));
  EXPECT_EQ(Names(), std::vector<std::string>{"file"});
}

TEST_F(FileTest, AReadOnlyFileIsNotReplaced) {
  const std::string path = Make("file", "old");
  fs::permissions(folder_, fs::perms::all);
  fs::permissions(path, fs::perms::owner_read | fs::perms::others_read);
  const pid_t child = fork();
  if (child == 0) {  // root may write everything
    if (geteuid() == 0 && setuid(65534) != 0) _exit(3);
    try {
      Replace(path, "new");
    } catch (const Error&) {
      _exit(0);
    }
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(ReadWholeFile(path), "old");
}

TEST_F(FileTest, ALinkStaysAndWhatItPointsToIsReplaced) {
  fs::create_directory(folder_ / "there");
  const std::string target = Make("there/file", "old");
  ASSERT_EQ(symlink("there/link", Path("first").c_str()), 0);  // relative, and a link to a link
  ASSERT_EQ(symlink("file", Path("there/link").c_str()), 0);
  Replace(Path("first"), "new");
  EXPECT_TRUE(S_ISLNK(Info(Path("first")).st_mode));
  EXPECT_EQ(ReadWholeFile(target), "new");

  ASSERT_EQ(symlink(Path("there/absent").c_str(), Path("second").c_str()), 0);
  Replace(Path("second"), "made");
  EXPECT_EQ(ReadWholeFile(Path("there/absent")), "made");

  ASSERT_EQ(symlink("circle", Path("circle").c_str()), 0);
  EXPECT_NE(MessageOf([&] { CheckWritable(Path("circle")); }).find("circle"), std::string::npos);
}

TEST_F(FileTest, ModeAndOwnerStay) {
  const std::string path = Make("file", "old");
  ASSERT_EQ(chmod(path.c_str(), 0640), 0);
  const bool is_root = geteuid() == 0;
  if (is_root) {
    ASSERT_EQ(chown(path.c_str(), 1, 2), 0);
  }
  const mode_t mask = umask(077);
  Replace(path, "new");
  Replace(Path("private"), "new");
  umask(mask);
  EXPECT_EQ(Info(path).st_mode & 07777, 0640u);
  EXPECT_EQ(Info(Path("private")).st_mode & 07777, 0600u);
  EXPECT_EQ(Info(path).st_uid, is_root ? 1 : geteuid());
  EXPECT_EQ(Info(path).st_gid, is_root ? 2 : getegid());
}

TEST_F(FileTest, PipesAndDevicesAreWrittenThrough) {
  const std::string pipe = Path("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  CheckWritable(pipe);  // does not wait for a reader
  std::string read;
  std::thread reader([&] { read = ReadWholeFile(pipe); });
  Replace(pipe, "through");
  reader.join();
  EXPECT_EQ(read, "through");
  EXPECT_TRUE(S_ISFIFO(Info(pipe).st_mode));

  ASSERT_EQ(symlink("/dev/full", Path("full").c_str()), 0);
  EXPECT_NE(MessageOf([&] { Replace(Path("full"), "x"); }).find("full: cannot be written"),
            std::string::npos);
  EXPECT_TRUE(S_ISCHR(Info("/dev/full").st_mode));
}

TEST_F(FileTest, ADescriptorIsWrittenWhereItStands) {
  std::FILE* file = std::fopen(Path("log").c_str(), "w");
  ASSERT_NE(file, nullptr);
  std::fputs("before ", file);
  std::fflush(file);
  Replace("/dev/fd/" + std::to_string(fileno(file)), "between ");
  std::fputs("after", file);
  std::fclose(file);
  EXPECT_EQ(ReadWholeFile(Path("log")), "before between after");
}

TEST_F(FileTest, NothingIsWrittenThroughALinkThatWasLaid) {
  const std::string victim = Make("victim", "mine");
  const std::string path = Path("file");
  ASSERT_EQ(symlink(victim.c_str(), (path + ".tmp." + std::to_string(getpid())).c_str()), 0);
  const AtomicFileWriter one(path), two(path);
  EXPECT_EQ(Names().size(), 4u);  // two names, neither to be guessed from the other
  EXPECT_EQ(ReadWholeFile(victim), "mine");
}

TEST_F(FileTest, LeftoversOfTheKilledGoAtTheNextWrite) {
  const std::string path = Make("file", "old");
  AtomicFileWriter alive(path);
  alive.Write("of a process that lives");
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      AtomicFileWriter writer(path);
      writer.Write(std::string(size_t{1} << 20, 'x'));
      raise(SIGKILL);
    }
    waitpid(child, nullptr, 0);
  }
  EXPECT_EQ(Names().size(), 3u);  // the file, the living writer's, and one leftover
  alive.Commit();
  EXPECT_EQ(ReadWholeFile(path), "of a process that lives");
  Replace(path, "new");
  EXPECT_EQ(Names(), std::vector<std::string>{"file"});
}

TEST_F(FileTest, AFullDiskIsAnErrorAndTheFileStays) {
  const std::string path = Make("file", "old");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_action = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = MessageOf([&] { Replace(path, std::string(5000, 'x')); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_action);
  EXPECT_NE(message.find(path + ": cannot be written, and is left as it was"), std::string::npos) << message;
  EXPECT_EQ(ReadWholeFile(path), "old");
  EXPECT_EQ(Names(), std::vector<std::string>{"file"});
}

TEST_F(FileTest, ALockedFileIsRefusedToOtherProcesses) {
  const std::string path = Path("state");
  const auto in_child = [&](const auto& call) {
    const pid_t child = fork();
    if (child == 0) {
      const std::string message = MessageOf(call);
      _exit(message.find("state: is in use by ") == std::string::npos ? message == "no error" ? 0 : 3 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  {
    const FileLock lock(path);
    EXPECT_EQ(in_child([&] { FileLock{path}; }), 1);
    const std::string message = MessageOf([&] { FileLock{path}; });
    if (FileExists("/proc/locks") && !ReadWholeFile("/proc/locks").empty()) {
      EXPECT_NE(message.find("process " + std::to_string(getpid())), std::string::npos) << message;
    }
  }
  EXPECT_FALSE(FileExists(path));  // nothing was written to it
  {
    const FileLock lock(path);
    for (int i = 0; i < 3; ++i) {
      Replace(path, "one");
      EXPECT_EQ(in_child([&] { FileLock{path}; }), 1) << i;  // the new file is locked like the old
    }
  }
  EXPECT_EQ(ReadWholeFile(path), "one");
  EXPECT_EQ(in_child([&] {
              const FileLock lock(path);
              raise(SIGKILL);
            }),
            -1);
  EXPECT_EQ(in_child([&] { FileLock{path}; }), 0);
  EXPECT_EQ(Names(), std::vector<std::string>{"state"});
}

TEST_F(FileTest, AFileThatAnotherProcessHoldsIsNotReplaced) {
  const std::string path = Make("state", "theirs");
  std::FILE* holder = std::fopen(path.c_str(), "r");  // a lock that is not this process's own FileLock
  ASSERT_NE(holder, nullptr);
  ASSERT_EQ(flock(fileno(holder), LOCK_EX), 0);
  EXPECT_NE(MessageOf([&] { Replace(path, "ours"); }).find("is in use"), std::string::npos);
  std::fclose(holder);
  Replace(path, "ours");
  EXPECT_EQ(ReadWholeFile(path), "ours");
}

TEST_F(FileTest, AMappedFileThatIsCutShortIsAnErrorNotASignal) {
  GuardMappedFiles();
  const std::string path = Make("file", std::string(size_t{1} << 16, 'x'));
  const MappedFile file(path);
  const MappedFile other(Make("other", "y"));
  EXPECT_EQ(file.bytes().back(), 'x');
  file.CheckUnchanged();
  fs::resize_file(path, 5000);
  EXPECT_EQ(file.bytes().back(), 0);
  EXPECT_EQ(file.bytes().front(), 'x');
  EXPECT_EQ(file.bytes()[size_t{1} << 15], 0);
  const std::string message = MessageOf([&] { file.CheckUnchanged(); });
  EXPECT_NE(message.find(path + ": was cut short"), std::string::npos) << message;
  Make("file", std::string(size_t{1} << 16, 'x'));  // back again: zeros were read all the same
  EXPECT_THROW(file.CheckUnchanged(), Error);
  other.CheckUnchanged();
}

TEST_F(FileTest, AMappedFileThatIsWrittenToIsAnErrorAndAReplacedOneIsNot) {
  const std::string path = Make("file", "0123456789");
  MappedFile file(path);
  Replace(path, "abcdefghij");
  file.CheckUnchanged();
  EXPECT_EQ(file.bytes()[0], '0');
  file = MappedFile(path);
  fs::last_write_time(path, fs::last_write_time(path) - std::chrono::hours(1));
  const std::string message = MessageOf([&] { file.CheckUnchanged(); });
  EXPECT_NE(message.find(path + ": was written to"), std::string::npos) << message;
}

TEST_F(FileTest, WholeFilesAreBounded) {
  EXPECT_NE(MessageOf([] { ReadWholeFile("/dev/zero", kMaxDataBytes); }).find("more than the 1048576 bytes"),
            std::string::npos);
  EXPECT_EQ(ReadWholeFile("/dev/null"), "");
  const std::string path = Make("file", "0123456789");
  EXPECT_EQ(ReadWholeFile(path, 10), "0123456789");
  EXPECT_NE(MessageOf([&] { ReadWholeFile(path, 9); }).find("at most 9 can be read here"), std::string::npos);
}

TEST_F(FileTest, APipeIsNotMappedAndNotWaitedFor) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_NE(MessageOf([&] { MappedFile{Path("pipe")}; }).find("not a regular file"), std::string::npos);
}

}  // namespace
}  // namespace mneme
