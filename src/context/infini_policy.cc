// The policy of Infini-attention (Munkhdalai et al. 2024, arXiv 2404.07143): local attention over the row's
// own segment and `previous` whole ones, and a compressive memory of everything before. context/infini.h
// executes it.
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "context/context.h"
#include "context/infini.h"
#include "context/policy.h"

namespace mneme {
namespace {

constexpr std::array<std::string_view, 3> kUpdateNames = {"linear", "delta", "gated-delta"};
constexpr std::array<std::string_view, 2> kFirstNames = {"bypass", "literal"};

class InfiniPolicy : public Policy {
 public:
  explicit InfiniPolicy(const InfiniOptions& options)
      : options_(options), local_(MakeXlPolicy(options.segment, options.previous)) {}

  std::span<const Track> tracks() const override { return local_->tracks(); }
  void View(int64_t index, SpanList* spans) const override { local_->View(index, spans); }
  int64_t seen_for() const override { return kUnbounded; }
  const InfiniOptions* memory() const override { return &options_; }
  std::string Describe() const override {
    return fmt::format("infini:segment={},previous={},update={},first={}", options_.segment,
                       options_.previous, MemoryUpdateName(options_.update),
                       kFirstNames[options_.literal_first ? 1 : 0]);
  }

 private:
  const InfiniOptions options_;
  const std::shared_ptr<const Policy> local_;
};

constexpr PolicyKey kKeys[] = {
    {.name = "segment", .help = "tokens of a segment (auto: as the model was trained)", .least = 1},
    {.name = "previous",
     .help = "whole previous segments that local attention sees before a token enters the memory"},
    {.name = "update",
     .help = "linear, delta or gated-delta (auto: as the model was trained)",
     .most = kUpdateNames.size() - 1,
     .words = kUpdateNames},
    {.name = "first",
     .help = "while the memory is empty: bypass (local attention alone) or literal ((1 - gate) of it)",
     .most = kFirstNames.size() - 1,
     .words = kFirstNames},
};

std::shared_ptr<const Policy> Make(const PolicyInput& input) {
  const ContextShape& shape = input.shape();
  const MemoryRules& rules = shape.memory;
  const bool gated = std::all_of(shape.layers.begin(), shape.layers.end(), [](const LayerAttention& layer) {
    return layer.memory_gate.size() == layer.num_heads;
  });
  if (rules.segment <= 0 || !gated) {
    Fail(ErrorKind::kUnsupported,
         "this model has no compressive memory: --context infini needs the metadata mneme.infini.* and one "
         "gate tensor per layer, which come from training the model with a memory; sinks and lambda need no "
         "training");
  }
  InfiniOptions infini;
  infini.segment = input.Get("segment", rules.segment);
  if (rules.key_shift && infini.segment < 2) {
    Fail(ErrorKind::kInput, "--context infini: segment={} is out of range; the least is 2 for this model",
         infini.segment);
  }
  infini.previous = input.Get("previous", rules.previous);
  input.Product(infini.segment, infini.previous + 1);
  infini.update = static_cast<MemoryUpdate>(input.Get("update", static_cast<int64_t>(rules.update)));
  if ((infini.update == MemoryUpdate::kGatedDelta) != (rules.update == MemoryUpdate::kGatedDelta)) {
    Fail(ErrorKind::kInput, "context infini: this model's memory was trained as {} and has no use as {}",
         MemoryUpdateName(rules.update), MemoryUpdateName(infini.update));
  }
  infini.literal_first = input.Get("first", rules.literal_first ? 1 : 0) == 1;
  infini.key_shift = rules.key_shift;
  return MakeInfiniPolicy(infini);
}

}  // namespace

std::string_view MemoryUpdateName(MemoryUpdate update) { return kUpdateNames[static_cast<size_t>(update)]; }

MemoryUpdate ParseMemoryUpdate(std::string_view name) {
  for (size_t i = 0; i < kUpdateNames.size(); ++i) {
    if (kUpdateNames[i] == name) return static_cast<MemoryUpdate>(i);
  }
  Fail(ErrorKind::kInput, "memory update '{}' is not known; there are: linear, delta, gated-delta", name);
}

std::shared_ptr<const Policy> MakeInfiniPolicy(const InfiniOptions& options) {
  return std::make_shared<const InfiniPolicy>(options);
}

PolicyRow InfiniRow() {
  return {.name = "infini",
          .help = "local segments and a compressive memory of all before them, for models trained with one",
          .paper = "Infini-attention, arXiv 2404.07143",
          .keys = kKeys,
          .can_slide = false,
          .make = &Make};
}

}  // namespace mneme
