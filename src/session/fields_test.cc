// The table of options, and what a saved state makes of each of them.
#include "session/fields.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "base/files/file.h"
#include "base/hash.h"
#include "base/text/fields.h"
#include "session/session_test_util.h"
#include "session/snapshot.h"

namespace mneme {
namespace {

using namespace mneme::testing;

std::string ValueOf(const std::vector<Setting>& values, std::string_view name) {
  for (const Setting& setting : values) {
    if (setting.name == name) return setting.value;
  }
  return "(none)";
}

TEST(Fields, NamesAreUnique) {
  std::set<std::string> seen;
  for (const SettingInfo& row : SettingTable()) {
    std::string_view names = row.names;
    while (!names.empty()) {
      const std::string name(FirstName(names));
      EXPECT_TRUE(seen.insert(name).second) << name << " stands for two options";
      names = names.size() == name.size() ? std::string_view() : names.substr(name.size() + 1);
    }
    EXPECT_FALSE(row.help.empty()) << row.names;
  }
  EXPECT_TRUE(seen.contains("context"));
  EXPECT_TRUE(seen.contains("threads"));
}

TEST(Fields, TextGivesTheSameValueAgain) {
  SessionOptions options;
  options.sampler = {.temperature = 0.1f, .top_p = 0.95f, .seed = UINT64_MAX, .banned = {3, 5}};
  options.start_position = 9007199254740993;
  options.keys = Encoding::kQ8_0;
  SessionOptions same;
  const std::vector<Setting> values = ValuesOf(options);
  for (const Setting& setting : values) {
    Apply(std::vector<Setting>{setting}, &same);
  }
  EXPECT_EQ(ValuesOf(same), values);
  EXPECT_EQ(same.sampler, options.sampler);
}

TEST(Fields, WrongSettingsAreNamedAndChangeNothing) {
  SessionOptions options;
  const std::vector<Setting> before = ValuesOf(options);
  const auto message = [&](std::vector<Setting> settings) {
    return ErrorOf(ErrorKind::kInput, [&] { Apply(settings, &options); });
  };
  EXPECT_NE(message({{"temperature", "0.5"}, {"temprature", "1"}}).find("'temprature'"), std::string::npos);
  EXPECT_NE(message({{"top_k", "3"}, {"seed", "18446744073709551616"}}).find("seed"), std::string::npos);
  EXPECT_NE(message({{"temperature", "nan"}}).find("temperature"), std::string::npos);
  EXPECT_NE(message({{"repetition_penalty", "1e-45"}}).find("repetition_penalty"), std::string::npos);
  EXPECT_NE(message({{"pin", "-1"}}).find("pin"), std::string::npos);
  EXPECT_NE(message({{"kv", "q6_k"}}).find("f32, f16"), std::string::npos);
  EXPECT_NE(message({{"context", "sinks:windw=5"}}).find("windw"), std::string::npos);
  EXPECT_NE(message({{"special", "yes"}}).find("special"), std::string::npos);
  EXPECT_EQ(ValuesOf(options), before);
  options.sampler.temperature = 0.8f;
  Apply(std::vector<Setting>{{"temperature", "1e-50"}},
        &options);  // too small for a float is zero, not what was
  EXPECT_EQ(options.sampler.temperature, 0.0f);
  Apply(std::vector<Setting>{{"temp", "0.5"}, {"kv", "q8_0"}}, &options);  // other names, and one for two
  EXPECT_EQ(options.sampler.temperature, 0.5f);
  EXPECT_EQ(options.values, Encoding::kQ8_0);
  Apply(std::vector<Setting>{{"kv", "f32,q4_0"}}, &options);
  EXPECT_EQ(options.keys, Encoding::kF32);
  EXPECT_EQ(options.values, Encoding::kQ4_0);
}

TEST(Fields, EnginesRefuseWhatNoMachineHas) {
  for (const EngineOptions& options :
       {EngineOptions{.num_threads = SIZE_MAX}, EngineOptions{.num_threads = 5000},
        EngineOptions{.num_threads = 1, .max_rows = INT64_MAX},
        EngineOptions{.num_threads = 1, .max_rows = 0}}) {
    EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { Engine{options}; }), "(no error)");
  }
}

// ---- beside a state

class StateFieldsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    MNEME_REQUIRE_DATA(data);
    model_ = TestModel(data);
    path_ =
        (std::filesystem::temp_directory_path() / ("mneme_fields_" + std::to_string(::getpid()))).string();
    SessionOptions options = TestOptions("sinks:sinks=4,window=20");
    options.sampler = {.temperature = 0.25f, .seed = 7};
    TestSession session(model_, options, budget_, TestDevice());
    session.Feed(TestTokens(*model_, 60));
    session.Save(path_);
    bytes_ = ReadWholeFile(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::unique_ptr<Session> Restored(const std::vector<Setting>& changes) {
    return std::make_unique<Session>(
        RestoreSession(model_, ReadWholeFile(path_), path_, changes, 16, budget_, TestDevice()));
  }

  // The state with another value in a line of its header; empty: without the line.
  std::string WithLine(const std::string& name, const std::string& value) const {
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data() + 12, sizeof(length));
    std::string header = "\n" + bytes_.substr(20, length);
    const size_t at = header.find("\n" + name + "=");
    const size_t end = at == std::string::npos ? 0 : header.find('\n', at + 1);
    if (at != std::string::npos) header.erase(at, end - at);
    if (!value.empty()) header += name + "=" + value + "\n";
    header.erase(0, 1);
    std::string changed = bytes_.substr(0, 12);
    const uint64_t size = header.size();
    changed.append(reinterpret_cast<const char*>(&size), sizeof(size));
    changed += header + bytes_.substr(20 + length, bytes_.size() - 20 - length - 16);
    const uint64_t covered = changed.size();
    changed.append(reinterpret_cast<const char*>(&covered), sizeof(covered));
    const uint64_t checksum = HashBytes(changed);
    changed.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
    return changed;
  }
  std::unique_ptr<Session> RestoredBytes(const std::string& bytes) {
    return std::make_unique<Session>(RestoreSession(model_, bytes, "x", {}, 16, budget_, TestDevice()));
  }

  Budget budget_{size_t{256} << 20};
  std::shared_ptr<const LoadedModel> model_;
  std::string path_;
  std::string bytes_;
};

// A value that the row takes and that is not `current`.
std::string AnotherValue(const SettingInfo& row, const std::string& current) {
  for (const char* value :
       {"true", "false", "lambda:starts=5,window=24,distance=24", "f32", "3", "0.5", "forget"}) {
    SessionOptions options;
    try {
      if (value != current && ApplyOne({std::string(row.name()), value}, "x", &options)) return value;
    } catch (const Error&) {
    }
  }
  return "";
}

TEST_F(StateFieldsTest, EveryOptionIsAppliedOrRefusedByName) {
  const std::vector<Setting> saved = ValuesOf(Restored({})->options());
  int num_applied = 0, num_refused = 0;
  for (const SettingInfo& row : SettingsOf(SessionOptions())) {
    if (row.name() == "store") continue;  // refused for a context that stores nothing (recall_store_test)
    const std::string name(row.name()), value = AnotherValue(row, ValueOf(saved, name));
    ASSERT_NE(value, "") << name << ": this test knows no value for it";
    try {
      const std::unique_ptr<Session> session = Restored({{name, value}});
      EXPECT_EQ(ValueOf(ValuesOf(session->options()), name), value) << name << " was passed over";
      EXPECT_NE(row.in_state, InState::kBound) << name;
      ++num_applied;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kMismatch) << error.what();
      EXPECT_NE(row.in_state, InState::kFree) << name;
      // "kv" stands for kv_k and kv_v.
      EXPECT_NE(std::string(error.what()).find(OptionName(name)), std::string::npos) << error.what();
      ++num_refused;
    }
    // The value that it has anyway is taken.
    if (name != "ban") {
      EXPECT_NO_THROW(Restored({{name, ValueOf(saved, name)}})) << name;
    }
  }
  EXPECT_GE(num_applied, 9);
  EXPECT_GE(num_refused, 7);
}

TEST_F(StateFieldsTest, AContextThatLeavesKeysOpenAgrees) {
  for (const char* context :
       {"auto", "sinks", "sinks:sinks=4", "sinks:window=20,sinks=4", "sinks:window=auto"}) {
    EXPECT_EQ(Restored({{"context", context}})->impl().context->Describe(), "sinks:sinks=4,window=20");
  }
  for (const char* context : {"sinks:window=21", "window", "dense"}) {
    EXPECT_NE(ErrorOf(ErrorKind::kMismatch,
                      [&] {
                        Restored({{"context", context}});
                      })
                  .find("--context:"),
              std::string::npos);
  }
}

TEST_F(StateFieldsTest, ASavedSamplerGoesOnUnlessAnotherIsTyped) {
  EXPECT_EQ(Restored({})->options().sampler.temperature, 0.25f);
  const std::unique_ptr<Session> changed = Restored({{"temperature", "0.5"}});
  EXPECT_EQ(changed->options().sampler.temperature, 0.5f);
  EXPECT_EQ(changed->options().sampler.seed, 7u);
}

TEST_F(StateFieldsTest, AMissingLineIsTheDefaultAndAnUnknownOneIsRefused) {
  const auto session = RestoredBytes(WithLine("seed", ""));
  EXPECT_EQ(session->options().sampler.seed, 0u);
  EXPECT_EQ(session->num_tokens(), 60);
  EXPECT_NE(
      ErrorOf(ErrorKind::kFile, [&] { RestoredBytes(WithLine("top_n_sigma", "2")); }).find("'top_n_sigma'"),
      std::string::npos);
  for (const char* name : {"model", "tokenizer", "products", "tokens", "context"}) {
    EXPECT_NE(ErrorOf(ErrorKind::kFile, [&] { RestoredBytes(WithLine(name, "")); }).find(name),
              std::string::npos);
  }
}

TEST_F(StateFieldsTest, HostileHeadersAreRefusedBeforeAnythingIsReserved) {
  const size_t used = budget_.used_bytes();
  const Setting hostile[] = {{"pin", "72057594037927936"},
                             {"max_rewind", "9223372036854775807"},
                             {"tokens", "9223372036854775807"},
                             {"start_position", "-1"},
                             {"kv_k", "q6_k"},
                             {"context", "auto"},
                             {"context", "sinks:windw=5"},
                             {"repetition_window", "99999999999"},
                             {"temperature", "nan"},
                             {"tokenizer", "none of your business"}};
  for (const Setting& line : hostile) {
    const std::string message =
        ErrorOf(ErrorKind::kFile, [&] { RestoredBytes(WithLine(line.name, line.value)); });
    EXPECT_NE(message.find(line.name), std::string::npos) << line.name << ": " << message;
  }
  EXPECT_EQ(budget_.used_bytes(), used);
  EXPECT_LE(budget_.peak_bytes(), size_t{64} << 20);
}

// A body that fits the shape of another policy, and has not what that one sees: Save stopped the program.
TEST_F(StateFieldsTest, AnotherPolicyInTheHeaderIsRefused) {
  const size_t used = budget_.used_bytes();
  for (const char* context : {"dense", "window:window=200", "sinks:sinks=4,window=200",
                              "xl:segment=100,previous=1", "window:window=20"}) {
    try {
      const auto session = RestoredBytes(WithLine("context", context));
      session->Feed(TestTokens(*model_, 9));
      session->Save(path_ + ".again");
      std::filesystem::remove(path_ + ".again");
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("state"), std::string::npos) << error.what();
    }
    EXPECT_EQ(budget_.used_bytes(), used);
  }
  TestSession window(model_, TestOptions("window:window=20"), budget_, TestDevice());
  window.Feed(TestTokens(*model_, 200));
  window.Save(path_);
  bytes_ = ReadWholeFile(path_);
  EXPECT_NE(ErrorOf(ErrorKind::kFile, [&] { RestoredBytes(WithLine("context", "dense")); }), "(no error)");
}

TEST_F(StateFieldsTest, OtherArithmeticIsRefusedAndOtherInstructionsAreTold) {
  EXPECT_EQ(Restored({})->restore_note(), "");
  const auto session = RestoredBytes(WithLine("simd", "VAX"));
  EXPECT_NE(session->restore_note().find("VAX"), std::string::npos);
  ModelOptions options;
  options.pack = PackMode::kInt16;
  const auto other = LoadedModel::Load(model_->path(), options, TestDevice());
  const std::string message = ErrorOf(ErrorKind::kMismatch, [&] {
    RestoreSession(other, ReadWholeFile(path_), path_, {}, 16, budget_, TestDevice());
  });
  EXPECT_NE(message.find("--pack auto"), std::string::npos) << message;
  EXPECT_NE(message.find("int16"), std::string::npos) << message;
  EXPECT_EQ(ReadStateInfo(path_).pack, PackMode::kAuto);
}

TEST_F(StateFieldsTest, NotesAreSavedAndBounded) {
  const auto session = Restored({});
  session->SetNote("system", "two\nlines \\n");
  session->SetNote("template", "chatml");
  session->SetNote("template", "plain");
  session->Save(path_);
  EXPECT_EQ(Restored({})->note("system"), "two\nlines \\n");
  EXPECT_EQ(Restored({})->note("template"), "plain");
  EXPECT_EQ(session->Clone().note("template"), "plain");
  EXPECT_EQ(session->note("absent"), "");
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session->SetNote("a b", "x"); }), "(no error)");
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session->SetNote("a", std::string(70000, 'x')); }),
            "(no error)");
}

TEST_F(StateFieldsTest, TheHashOfTheTextDoesNotDependOnItsPieces) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "sentence " + std::to_string(i) + ". ";
  TestSession whole(model_, TestOptions("sinks:sinks=4,window=20"), budget_, TestDevice());
  whole.FeedText(text);
  TestSession pieces(model_, TestOptions("sinks:sinks=4,window=20"), budget_, TestDevice());
  pieces.FeedText(std::string_view(text).substr(0, 1500));
  pieces.Save(path_);
  const auto restored = Restored({});
  for (size_t at = 1500; at < text.size(); at += 7) restored->FeedText(std::string_view(text).substr(at, 7));
  EXPECT_EQ(restored->text_hash(), whole.text_hash());
  EXPECT_EQ(restored->text_bytes(), whole.text_bytes());
  restored->FeedText("x");
  EXPECT_NE(restored->text_hash(), whole.text_hash());
}

}  // namespace
}  // namespace mneme
