// The program where files, streams and other processes do not do as they should: work may not be lost.
#include "cli/cli_test_util.h"

namespace mneme {
namespace {

class CliFilesTest : public CliTest {};

TEST_F(CliFilesTest, MessagesThatCannotBeWrittenDoNotEndTheRun) {
  MNEME_REQUIRE_MODEL(model);
  const std::string run = "$M run '" + model + "' -p 'Once upon' -n 40 --state ";
  const std::string chat = "printf 'Once upon a time\\n/stats\\n' | $M chat '" + model + "' -n 9 --state ";
  for (const char* to : {"2>/dev/full", "2>&-", "2> >(exec true)"}) {
    const std::string shell = std::string(to) + "\"";
    fs::remove(Path("run.state"));
    fs::remove(Path("chat.state"));
    EXPECT_EQ(Shell("bash -c \"M=$M; " + run + "run.state >out " + shell), 0) << to;
    EXPECT_GT(ReadAll(Path("out")).size(), 50u) << to;
    EXPECT_TRUE(fs::exists(Path("run.state"))) << to;
    EXPECT_EQ(Shell("bash -c \"M=$M; " + chat + "chat.state >out " + shell), 0) << to;
    EXPECT_TRUE(fs::exists(Path("chat.state"))) << to;
  }
  EXPECT_EQ(Shell("$M run absent.gguf 2>/dev/full"), 1);
  EXPECT_EQ(Shell("$M run 2>/dev/full"), 2);
}

TEST_F(CliFilesTest, AClosedStreamIsNoFileOpenedLater) {
  MNEME_REQUIRE_MODEL(model);
  EXPECT_EQ(Shell("$M run '" + model + "' -p a -n 3 --report report.json >&- 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("standard output could not be written"), std::string::npos);
  EXPECT_EQ(Shell("$M run '" + model + "' -f - -n 3 <&- 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("standard input: cannot be read"), std::string::npos);
}

TEST_F(CliFilesTest, ResultsThatCannotBeWrittenAreAnError) {
  EXPECT_EQ(Shell("$M --version >/dev/full 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("standard output could not be written"), std::string::npos);
  EXPECT_EQ(Shell("$M run --help >/dev/full 2>err"), 1);
}

}  // namespace
}  // namespace mneme
