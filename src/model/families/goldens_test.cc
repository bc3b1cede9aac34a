// Every family against an implementation that is not ours: small random models as their makers publish them,
// with logits in double precision (data/goldens). A model whose family is listed must be right, in either
// form of its settings, as the folder and as the GGUF that conversion makes of it, whole and token by token;
// one whose family is not must be refused by name.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "base/testing.h"
#include "base/thread_pool.h"
#include "model/convert/convert.h"
#include "model/families/family.h"
#include "model/test_util.h"
#include "model/weights.h"
#include "reference/model.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests
namespace fs = std::filesystem;

// The golden's own rounding, in units of the logits' deviation, and how far from it we may be.
constexpr double kOfFloor = 10;
constexpr double kLeastTolerance = 1e-5;

double Deviation(std::span<const float> values) {
  double mean = 0, square = 0;
  for (const float v : values) mean += static_cast<double>(v) / static_cast<double>(values.size());
  for (const float v : values) square += std::pow(static_cast<double>(v) - mean, 2);
  return std::sqrt(square / static_cast<double>(values.size()));
}

template <typename T>
double LargestGap(std::span<const T> ours, std::span<const float> golden) {
  double largest = 0;
  const size_t first = ours.size() - golden.size();  // of long runs only the last rows are kept
  for (size_t i = 0; i < golden.size(); ++i) {
    const double gap = std::abs(static_cast<double>(ours[first + i]) - static_cast<double>(golden[i]));
    largest = std::isfinite(gap) ? std::max(largest, gap) : HUGE_VAL;
  }
  return largest / Deviation(golden);
}

std::vector<float> LogitsOf(const LoadedModel& model, const std::vector<TokenId>& tokens, size_t chunk) {
  CpuDevice device(1);
  const Budget budget(size_t{1} << 30);
  const auto shape = model.ShapeFor(static_cast<int64_t>(tokens.size()));
  ContextSettings settings;
  settings.spec = "dense";
  settings.key_encoding = settings.value_encoding = Encoding::kF32;
  const auto context = MakeContext(*shape, settings, budget, 1);
  Runner runner(model, static_cast<int64_t>(chunk), device, budget);
  std::vector<float> all;
  for (size_t first = 0; first < tokens.size(); first += chunk) {
    const auto part = std::span(tokens).subspan(first, std::min(chunk, tokens.size() - first));
    const ForwardChunk call{.context = context.get(), .tokens = part, .all_logits = true};
    runner.Forward({&call, 1}, [&](size_t, size_t, std::span<const float> logits) {
      all.insert(all.end(), logits.begin(), logits.end());
    });
  }
  return all;
}

// A folder with one form of the settings.
std::string FolderWith(const fs::path& golden, const std::string& form, const fs::path& scratch) {
  const fs::path folder = scratch / "model";
  fs::remove_all(folder);
  fs::create_directories(folder);
  fs::create_symlink(fs::absolute(golden / "model.safetensors"), folder / "model.safetensors");
  fs::copy_file(golden / form, folder / "config.json");
  return folder.string();
}

class Golden {
 public:
  Golden(const fs::path& root, const std::string& name, const nlohmann::json& info)
      : folder_(root / name),
        tolerance_(std::max(kOfFloor * info["float32_gap"].get<double>(), kLeastTolerance)) {
    for (const std::string list : {"", "-long"}) {
      const fs::path logits = folder_ / ("logits" + list + ".f32");
      if (!fs::exists(logits)) continue;
      // Whose long factors transformers 5.24 does not use; see LongRopeOfPhimoeHasAMagnitudeOfItsOwn.
      if (name == "phimoe" && list == "-long") continue;
      lists_.push_back({ReadIds((root / ("tokens" + list + ".txt")).string()), ReadFloats(logits.string())});
    }
  }

  void Check(const std::string& path, std::string_view what) const {
    SCOPED_TRACE(std::string(what));
    const auto model = LoadModel(path);
    for (const auto& [tokens, golden] : lists_) {
      const std::vector<float> whole = LogitsOf(*model, tokens, 512);
      EXPECT_LT(LargestGap<float>(whole, golden), tolerance_) << tokens.size() << " tokens";
      EXPECT_EQ(LogitsOf(*model, tokens, 1), whole) << "one token at a time";
      EXPECT_EQ(LogitsOf(*model, tokens, 7), whole) << "seven tokens at a time";
    }
    const auto& [tokens, golden] = lists_.front();
    const std::vector<double> twin = ReferenceLogits(*model, tokens);
    EXPECT_LT(LargestGap<double>(twin, golden), tolerance_) << "the twin in double precision";
  }

  const fs::path& folder() const { return folder_; }

 private:
  struct List {
    std::vector<TokenId> tokens;
    std::vector<float> golden;
  };
  fs::path folder_;
  double tolerance_;
  std::vector<List> lists_;
};

TEST(Goldens, EveryFamilyIsRightOrRefusedByName) {
  MNEME_REQUIRE_DATA(data);
  const fs::path root = fs::path(data) / "goldens";
  if (!fs::exists(root / "index.json")) GTEST_SKIP() << "no goldens in " << root;
  const nlohmann::json index = nlohmann::json::parse(ReadWholeFile((root / "index.json").string()));
  const fs::path scratch = fs::path(::testing::TempDir()) / "goldens";
  ThreadPool pool(1);
  NoProgress progress;
  size_t num_right = 0;
  std::string refused;
  for (const auto& [name, info] : index.items()) {
    SCOPED_TRACE(name);
    const Golden golden(root, name, info);
    bool is_known = true;
    for (const std::string form : {"config.json", "config.old.json"}) {
      if (!fs::exists(golden.folder() / form) || !is_known) continue;
      const std::string folder = FolderWith(golden.folder(), form, scratch);
      try {
        golden.Check(folder, form);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kUnsupported) << error.what();
        refused += fmt::format("{}: {}\n", name, std::string(error.what()).substr(folder.size(), 110));
        is_known = false;
        continue;
      }
      const std::string gguf = (scratch / "model.gguf").string();
      ConvertModel(folder, gguf, {.encoding = Encoding::kF32, .mix = {}, .tokenizer = {}}, pool, progress);
      golden.Check(gguf, form + " as GGUF");
    }
    num_right += is_known ? 1 : 0;
  }
  EXPECT_GE(num_right, 101u);
  std::cout << num_right << " of " << index.size() << " are computed; refused:\n" << refused;
}

}  // namespace
}  // namespace mneme
