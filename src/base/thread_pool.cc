#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/error.h"

namespace mneme {
namespace {

// About 50 us on a current core: longer than the serial part of a decode step between two regions.
constexpr int kSpins = 4000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

size_t NumUsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

ThreadPool::ThreadPool(size_t num_threads)
    : num_threads_asked_(num_threads == 0 ? NumUsableCores() : num_threads) {
  workers_.reserve(num_threads_asked_ - 1);
  try {
    while (num_threads_ < num_threads_asked_) {
      workers_.emplace_back([this, thread = num_threads_] { Work(thread); });
      ++num_threads_;
    }
  } catch (const std::system_error&) {
    // Results do not depend on the number of threads: those that there are do the work.
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::TakeTasks(size_t thread) {
  uint64_t offer = offer_.load(std::memory_order_acquire);
  size_t num_done = 0;
  while (static_cast<uint32_t>(offer) != 0) {
    if (!offer_.compare_exchange_weak(offer, offer - 1, std::memory_order_acquire)) continue;
    call_(fn_, num_tasks_ - static_cast<uint32_t>(offer), thread);
    ++num_done;
    offer = offer_.load(std::memory_order_acquire);
  }
  // Once for all of them: the line goes from core to core every time.
  if (num_done > 0) num_unfinished_.fetch_sub(num_done, std::memory_order_release);
}

void ThreadPool::RunErased(size_t num_tasks, const void* fn, Call call) {
  MNEME_CHECK(num_tasks <= UINT32_MAX);
  fn_ = fn;
  call_ = call;
  num_tasks_ = num_tasks;
  num_unfinished_.store(num_tasks, std::memory_order_relaxed);
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  offer_.store(uint64_t{generation} << 32 | num_tasks, std::memory_order_release);
  generation_.store(generation);  // sequentially consistent: ordered against num_sleeping_ below
  if (num_sleeping_.load() > 0) generation_.notify_all();
  TakeTasks(0);
  for (int spin = 0; num_unfinished_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();  // more threads than cores: let the worker run
    }
  }
}

void ThreadPool::Work(size_t thread) {
  uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; generation_.load(std::memory_order_acquire) == seen && spin < kSpins; ++spin) Pause();
    if (generation_.load() == seen) {
      num_sleeping_.fetch_add(1);
      generation_.wait(seen);
      num_sleeping_.fetch_sub(1);
    }
    const uint32_t now = generation_.load(std::memory_order_acquire);
    if (now == seen) continue;
    seen = now;
    if (stop_.load()) return;
    TakeTasks(thread);
  }
}

}  // namespace mneme
