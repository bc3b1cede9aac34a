#include <algorithm>
#include <utility>

#include "base/error.h"
#include "mneme/system.h"
#include "model/model_impl.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace mneme {
namespace {

// What the program holds on the heap; 0 where the C library cannot tell.
size_t HeapBytes() {
#if defined(__GLIBC__)
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
#else
  return 0;
#endif
}

ModelInfo InfoOf(const LoadedModel& model) {
  const ModelPlan& plan = model.plan();
  return {.path = model.path(),
          .name = plan.name,
          .family = plan.family,
          .num_layers = static_cast<int64_t>(plan.num_layers()),
          .model_dim = static_cast<int64_t>(plan.model_dim),
          .vocab_size = static_cast<int64_t>(plan.vocab_size),
          .trained_length = plan.trained_length,
          .rope_length = plan.rope_length,
          .has_memory = plan.memory.segment > 0,
          .weight_bytes = model.weight_bytes(),
          .mapped_bytes = model.mapped_bytes(),
          .packed_bytes = model.packed_bytes(),
          .packed_copy = model.packed_copy(),
          .read_bytes_per_token = model.read_bytes_per_token(),
          .pack = model.pack(),
          .products = model.products(),
          .sampler = model.suggested_sampler(),
          .notes = model.notes()};
}

}  // namespace

Model::Impl::Impl(std::optional<Engine> engine_in, std::shared_ptr<const LoadedModel> loaded_in)
    : engine(std::move(engine_in)), loaded(std::move(loaded_in)), info(InfoOf(*loaded)) {
  if (!engine.has_value()) return;
  const Budget& budget = engine->impl().budget;
  weights_lease = budget.Reserve(MemoryTag::kWeights, info.mapped_bytes, "the weights");
  packed_lease = budget.Reserve(MemoryTag::kPacked, info.packed_bytes, "the repacked weights");
}

std::shared_ptr<Runner> MakeRunner(std::shared_ptr<const LoadedModel> model, int64_t max_rows, Device& device,
                                   const Budget& budget) {
  const LoadedModel& borrowed = *model;
  return std::shared_ptr<Runner>(new Runner(borrowed, max_rows, device, budget),
                                 [model = std::move(model)](Runner* runner) { delete runner; });
}

Model::Model(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Model Model::Load(const Engine& engine, const std::string& path, const ModelOptions& options) {
  const size_t heap_before = HeapBytes();
  auto impl = std::make_shared<Impl>(engine, LoadedModel::Load(path, options, engine.impl().device));
  const size_t before = heap_before + impl->loaded->packed_heap_bytes();
  impl->info.table_bytes = std::max(HeapBytes(), before) - before;
  impl->info.load_peak_bytes = PeakResidentBytes();
  return Model(std::move(impl));
}

const Engine& Model::engine() const {
  MNEME_CHECK(impl_->engine.has_value());
  return *impl_->engine;
}

const ModelInfo& Model::info() const { return impl_->info; }
bool Model::has_tokenizer() const { return impl_->loaded->has_tokenizer(); }
const Tokenizer& Model::tokenizer() const { return impl_->loaded->tokenizer(); }
uint64_t Model::fingerprint() const { return impl_->loaded->fingerprint(); }
size_t Model::activation_bytes() const {
  return impl_->runner == nullptr ? 0 : impl_->runner->reserved_bytes();
}
void Model::CheckUnchanged() const { impl_->loaded->CheckUnchanged(); }

}  // namespace mneme
