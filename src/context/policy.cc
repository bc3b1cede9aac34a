#include "context/policy.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text/units.h"
#include "context/context.h"

namespace mneme {
namespace {

// Where the trained length is not known.
constexpr int64_t kDefaultTrainedLength = 2048;

}  // namespace

int64_t TrainedLength(const ContextShape& shape) {
  return shape.trained_length > 0 ? std::min(shape.trained_length, kMostTokens) : kDefaultTrainedLength;
}

std::string PolicyKey::DefaultText() const {
  if (default_value == kAuto) return "auto";
  return words.empty() ? fmt::format("{}", default_value)
                       : std::string(words[static_cast<size_t>(default_value)]);
}

PolicyInput::PolicyInput(const PolicyRow& row, std::vector<std::optional<int64_t>> values,
                         const ContextShape& shape, int64_t num_pinned, int64_t auto_window)
    : row_(row),
      values_(std::move(values)),
      shape_(shape),
      num_pinned_(num_pinned),
      auto_window_(auto_window) {
  MNEME_CHECK(values_.size() == row_.keys.size());
}

int64_t PolicyInput::Get(std::string_view key, int64_t automatic) const {
  const auto found = std::find_if(row_.keys.begin(), row_.keys.end(),
                                  [&](const PolicyKey& row_key) { return row_key.name == key; });
  MNEME_CHECK(found != row_.keys.end());
  const std::optional<int64_t>& given = values_[static_cast<size_t>(found - row_.keys.begin())];
  if (given.has_value()) return *given;
  if (found->default_value != PolicyKey::kAuto) return found->default_value;
  if (automatic < found->least || automatic > found->most) {
    Fail(ErrorKind::kInput, "--context {}: {}=auto comes to {} here, which is out of range: it is {} to {}",
         row_.name, key, automatic, found->least, found->most);
  }
  return automatic;
}

int64_t PolicyInput::Sum(int64_t a, int64_t b) const {
  if (a > kMostTokens || b > kMostTokens - a) FailTooLarge();
  return a + b;
}

int64_t PolicyInput::Product(int64_t a, int64_t b) const {
  if (a != 0 && b > kMostTokens / a) FailTooLarge();
  return a * b;
}

void PolicyInput::FailTooLarge() const {
  Fail(ErrorKind::kInput, "--context {}: its sizes come to more than {} tokens together; give smaller ones",
       row_.name, FormatCount(kMostTokens));
}

}  // namespace mneme
