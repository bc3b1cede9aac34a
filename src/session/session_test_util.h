// What the tests of this folder share: the small trained model, and sessions of it.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "kernels/cpu_device.h"
#include "mneme/session.h"
#include "session/session_impl.h"

namespace mneme::testing {

// One thread, because tests run many programs at once; ThreadsDoNotChangeBits makes its own pools.
inline Device& TestDevice() {
  static CpuDevice device(1);
  return device;
}

// stories260K: 5 layers, 512 tokens, trained at 512.
inline constexpr const char* kTestModelFile = "/models/stories260K/stories260K.gguf";

// The same, loaded once per test program.
inline std::shared_ptr<const LoadedModel> TestModel(const std::string& data) {
  static const std::shared_ptr<const LoadedModel> model =
      LoadedModel::Load(data + kTestModelFile, {}, TestDevice());
  return model;
}

// The same of an engine with this cap.
inline Model TestModelUnder(const std::string& data, size_t cap_bytes) {
  return Model::Load(Engine({.num_threads = 1, .memory_bytes = cap_bytes}), data + kTestModelFile);
}

// Options with the most rows of a forward call.
struct TestSettings : SessionOptions {
  TestSettings() = default;
  TestSettings(const SessionOptions& options) : SessionOptions(options) {}  // NOLINT: meant
  int64_t max_rows = 16;
};

inline TestSettings TestOptions(const std::string& context, int64_t max_rows = 16, int64_t max_rewind = 20) {
  TestSettings options;
  options.context = context;
  options.max_rows = max_rows;
  options.max_rewind = max_rewind;
  return options;
}

// A session under a budget and on a device of the test's own.
class TestSession : public Session {
 public:
  TestSession(std::shared_ptr<const LoadedModel> model, const TestSettings& options, const Budget& budget,
              Device& device)
      : Session(MakeSession(std::move(model), options, options.max_rows, budget, device)) {}
};

// Text in, as many tokens as wanted, the same every time.
inline std::vector<TokenId> TestTokens(const LoadedModel& model, size_t count) {
  std::string text;
  while (text.size() < 6 * count) {
    text += "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ";
    text += std::to_string(text.size()) + " birds sang, and one big red ball rolled away. ";
  }
  std::vector<TokenId> tokens = model.tokenizer().Encode(text, {.add_bos = true});
  tokens.resize(count);
  return tokens;
}

inline std::vector<float> LogitsOf(Session& session) {
  const auto logits = session.Logits();
  return {logits.begin(), logits.end()};
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline std::string GenerateText(Session& session, const GenerateOptions& options,
                                GenerateResult* result = nullptr, StopToken stop = {}) {
  std::string text;
  Generation generation = session.Generate(options);
  while (const auto piece = generation.Next(stop)) text += piece->text;
  if (result != nullptr) *result = generation.result();
  return text;
}

// Policies with evictions early on, and the exact one.
inline const std::vector<std::string>& TestContexts() {
  static const std::vector<std::string> specs = {
      "dense",
      "window:window=24",
      "sinks:sinks=4,window=20",
      "lambda:starts=5,window=24,distance=24",
      "lambda:starts=3,window=16,distance=16,top_k=4,from_layer=1,middle_tokens=30",
      "xl:segment=10,previous=2",
      "recall:sinks=4,window=20,budget=0,keep=64,replay=0",
  };
  return specs;
}

template <typename Call>
std::string ErrorOf(ErrorKind kind, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() != kind) return std::string("(another kind) ") + error.what();
    return error.what();
  }
  return "(no error)";
}

}  // namespace mneme::testing
