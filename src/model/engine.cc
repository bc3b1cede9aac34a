#include "model/engine.h"

#include "base/error.h"
#include "mneme/system.h"

namespace mneme {
namespace {

// Where the machine does not say what is free.
constexpr size_t kSomeBytes = size_t{4} << 30;

constexpr size_t kMostThreads = 1024;
constexpr int64_t kMostRows = 65536;

EngineOptions InForce(EngineOptions options) {
  if (options.max_rows > kMostRows) {
    Fail(ErrorKind::kInput, "a pass through the model has {} tokens; it takes at most {}", options.max_rows,
         kMostRows);
  }
  if (options.max_rows < 1) {
    Fail(ErrorKind::kInput, "a pass through the model has {} tokens; it must have at least 1",
         options.max_rows);
  }
  if (options.memory_bytes == 0) {
    const size_t available = AvailableMemoryBytes();
    options.memory_bytes = available == 0 ? kSomeBytes : available / 2;
  }
  return options;
}

size_t CheckThreads(size_t num_threads) {
  if (num_threads > kMostThreads) {
    Fail(ErrorKind::kInput, "{} threads were asked for; at most {} are taken", num_threads, kMostThreads);
  }
  return num_threads;
}

}  // namespace

Engine::Impl::Impl(const EngineOptions& given)
    : device(CheckThreads(given.num_threads)), options(InForce(given)), budget(options.memory_bytes) {
  options.num_threads = device.pool().num_threads_asked();
}

Engine::Engine(const EngineOptions& options) : impl_(std::make_shared<Impl>(options)) {}

const EngineOptions& Engine::options() const { return impl_->options; }
size_t Engine::num_threads() const { return impl_->device.num_threads(); }
MemoryReport Engine::memory() const { return impl_->budget.Report(); }

Lease Engine::Reserve(size_t bytes, std::string_view what) const {
  return impl_->budget.Reserve(MemoryTag::kInput, bytes, what);
}

}  // namespace mneme
