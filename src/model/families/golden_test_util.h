// Tests that change the small models of the golden set (data/goldens): their settings, their weights, or the
// GGUF that is made of them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/progress.h"
#include "base/testing.h"
#include "model/convert/convert.h"
#include "model/test_util.h"
#include "reference/model.h"

namespace mneme::testing {

class GoldenModels : public ::testing::Test {
 protected:
  void SetUp() override {
    MNEME_REQUIRE_DATA(data);
    root_ = data + "/goldens/";
    if (!FileExists(root_ + "index.json")) GTEST_SKIP() << "no goldens in " << root_;
    tokens_ = ReadIds(root_ + "tokens.txt");
  }

  nlohmann::json ConfigOf(const std::string& name) const {
    return nlohmann::json::parse(ReadWholeFile(root_ + name + "/config.json"));
  }
  // A folder with nothing but settings.
  std::string NewFolder(const std::string& config) {
    const std::string path = folder_ / ("hf" + std::to_string(++num_folders_));
    std::filesystem::create_directories(path);
    std::ofstream(path + "/config.json") << config;
    return path;
  }
  // The golden's weights under other settings.
  std::string Folder(const std::string& name, const std::string& config) {
    const std::string path = NewFolder(config);
    std::filesystem::create_symlink(std::filesystem::absolute(root_ + name + "/model.safetensors"),
                                    path + "/model.safetensors");
    return path;
  }
  std::string Convert(const std::string& path, Encoding encoding = Encoding::kF32) {
    const std::string out = folder_ / ("model" + std::to_string(++num_folders_) + ".gguf");
    CpuDevice device(1);
    NoProgress progress;
    ConvertModel(path, out, {.encoding = encoding, .mix = {}, .tokenizer = {}}, device.pool(), progress);
    return out;
  }
  std::vector<float> Logits(const std::string& path) const { return EngineLogits(*LoadModel(path), tokens_); }

  // The model, its twin in double precision, and the GGUF that is made of it agree.
  std::vector<float> CheckAll(const std::string& path) {
    const auto model = LoadModel(path);
    const std::vector<float> logits = EngineLogits(*model, tokens_);
    EXPECT_LT(RelativeDifference(logits, ReferenceLogits(*model, tokens_)), 3e-5);
    EXPECT_LT(RelativeDifference(Logits(Convert(path)), logits), 3e-5);
    return logits;
  }
  // What is said of a golden with another setting; empty where it loads.
  std::string Refusal(const std::string& name, const char* key, const nlohmann::json& value) {
    nlohmann::json config = ConfigOf(name);
    config[key] = value;
    try {
      LoadModel(Folder(name, config.dump()));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  std::string root_;
  std::vector<TokenId> tokens_;
  TemporaryFolder folder_;
  int num_folders_ = 0;
};

}  // namespace mneme::testing
