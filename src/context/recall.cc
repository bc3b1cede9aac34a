// Recall: first tokens and recent ones as in `sinks` (StreamingLLM, arXiv 2309.17453), and slices of all that
// left the window, chosen by what is asked (context/recall_context.h).
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "context/context.h"
#include "context/policy.h"
#include "kernels/attend/attend.h"

namespace mneme {
namespace {

constexpr auto kSlice = static_cast<int64_t>(kBlockTokens);

class RecallPolicy : public Policy {
 public:
  explicit RecallPolicy(const RecallOptions& options)
      : options_(options),
        tracks_{Track{.keep_first = options.sinks,
                      .keep_last = options.window + 1,
                      .evicts = true,
                      .skips_windowed = options.has_global_layers}} {}

  std::span<const Track> tracks() const override { return tracks_; }
  // Of sinks and window; what came back stands between the two.
  void View(int64_t index, SpanList* spans) const override {
    const int64_t sinks = options_.sinks, window = options_.window;
    const bool is_dense = index <= sinks + window;  // nothing has left the window yet
    spans->Add({.begin = 0, .end = is_dense ? 0 : sinks, .query_at = sinks + window});
    spans->Add({.begin = is_dense ? 0 : index - window, .end = index + 1, .query_at = index});
  }
  int64_t seen_for() const override { return options_.window; }
  const RecallOptions* recall() const override { return &options_; }
  std::string Describe() const override {
    return fmt::format(
        "recall:sinks={},window={},budget={},slice={},keep={},replay={},from_layer={},gate={},next={}",
        options_.sinks, options_.window, options_.budget, kSlice, options_.keep, options_.replay,
        options_.from_layer, options_.gate, options_.takes_next ? "yes" : "no");
  }

 private:
  const RecallOptions options_;
  const std::array<Track, 1> tracks_;
};

constexpr std::string_view kNoYes[] = {"no", "yes"};

constexpr PolicyKey kKeys[] = {
    {.name = "sinks",
     .help = "how many first tokens are always kept (auto: 4, or 1 for a model with a learned sink token)",
     .holds_pinned = true},
    {.name = "window",
     .help = "how many recent tokens are kept (auto: 1024, or what the trained length leaves)"},
    {.name = "budget",
     .help = "how many tokens come back at most (auto: 1024, or a quarter of the trained length)"},
    {.name = "slice",
     .help = "tokens that are stored, chosen and brought back together",
     .default_value = kSlice,
     .least = kSlice,
     .most = kSlice},
    {.name = "keep",
     .help = "how many tokens that left the window are stored, then the oldest are forgotten (auto: the "
             "length of the input, or what half of the cap holds)",
     .least = kSlice,
     .fits_half = true},
    {.name = "replay",
     .help = "how many tokens at the end of a turn are read again with what came back for them",
     .default_value = 512},
    {.name = "from_layer",
     .help = "first layer (0-based) that sees what came back (auto: a quarter of the depth, or 0 where only "
             "some layers see farther than a window of their own)"},
    {.name = "gate",
     .help = "tenths of a nat: a slice whose votes are this far behind those of the best stays out",
     .default_value = 40},
    {.name = "next",
     .help = "whether with a slice comes the one behind it",
     .default_value = 1,
     .most = 1,
     .words = kNoYes},
};

bool HasWindow(const LayerAttention& layer) { return layer.layer_window > 0; }

std::shared_ptr<const Policy> Make(const PolicyInput& input) {
  const std::vector<LayerAttention>& layers = input.shape().layers;
  if (layers.empty()) {
    Fail(ErrorKind::kInput,
         "context recall: this model has no attention, and nothing that could be recalled: use dense, whose "
         "size is the state's");
  }
  const int64_t trained = input.trained_length();
  RecallOptions recall;
  recall.sinks = std::max(input.Get("sinks", input.shape().num_sinks), input.num_pinned());
  recall.budget = input.Get("budget", std::min<int64_t>(1024, trained / 4 / kSlice * kSlice));
  recall.budget = recall.budget / kSlice * kSlice;
  const int64_t left = std::max<int64_t>(16, trained - recall.sinks - recall.budget - 1);
  recall.window = input.Get("window", std::min<int64_t>(1024, left));
  input.Get("slice", kSlice);
  recall.keep = input.Get("keep", std::clamp(input.auto_window(), kSlice, kMostTokens));
  recall.keep = std::min((recall.keep + kSlice - 1) / kSlice * kSlice, kMostTokens);
  recall.replay = input.Get("replay", 0);
  recall.has_global_layers = !std::all_of(layers.begin(), layers.end(), HasWindow);
  const bool has_windowed = std::any_of(layers.begin(), layers.end(), HasWindow);
  recall.from_layer = input.Get("from_layer", has_windowed ? 0 : static_cast<int64_t>(layers.size() / 4));
  recall.gate = input.Get("gate", 0);
  recall.takes_next = input.Get("next", 0) != 0;
  input.Sum(input.Sum(recall.sinks, recall.window), recall.budget + 1);
  return MakeRecallPolicy(recall);
}

}  // namespace

std::shared_ptr<const Policy> MakeRecallPolicy(const RecallOptions& options) {
  return std::make_shared<const RecallPolicy>(options);
}

PolicyRow RecallRow() {
  return {.name = "recall",
          .help = "first tokens and recent ones, and of all others the slices that a question needs",
          .paper = "-",
          .keys = kKeys,
          .can_pin = true,
          .make = &Make};
}

}  // namespace mneme
