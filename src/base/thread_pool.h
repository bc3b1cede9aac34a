// Fixed set of workers for short parallel regions: a decode step has a hundred of them, each a few
// microseconds long. Workers spin briefly between regions and then sleep, so an idle session costs no CPU.
//
// A region needs the workers that took a task, and no others: one that other work keeps off its core, or that
// is still waking up, is not waited for. So beside a busy neighbour a region is at worst as slow as one
// thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace mneme {

// Thread rule: one thread at a time calls Run; tasks must not call Run of the same pool.
class ThreadPool {
 public:
  // num_threads counts the caller; 0 means all cores this process may use. Where the system gives no more
  // threads (a limit on processes, say) there are fewer: ask num_threads().
  explicit ThreadPool(size_t num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t num_threads() const { return num_threads_; }
  // What was asked for, all cores counted.
  size_t num_threads_asked() const { return num_threads_asked_; }

  // Calls fn(task, thread) for task = 0..num_tasks-1 (fewer than 2^32) and thread in [0, num_threads());
  // returns when all are done. Tasks are taken in order by whichever thread is free, so results must not
  // depend on who runs what: a task writes only its own output and uses per-thread scratch only inside. fn
  // must not throw. Allocates nothing.
  template <typename Fn>
  void Run(size_t num_tasks, const Fn& fn) {
    if (num_tasks == 0) return;
    if (num_threads_ == 1 || num_tasks == 1) {
      for (size_t task = 0; task < num_tasks; ++task) fn(task, size_t{0});
      return;
    }
    RunErased(num_tasks, &fn, [](const void* erased, size_t task, size_t thread) {
      (*static_cast<const Fn*>(erased))(task, thread);
    });
  }

 private:
  using Call = void (*)(const void* fn, size_t task, size_t thread);
  void RunErased(size_t num_tasks, const void* fn, Call call);
  void Work(size_t thread);
  void TakeTasks(size_t thread);

  const size_t num_threads_asked_;
  size_t num_threads_ = 1;
  std::vector<std::thread> workers_;

  // Of the current region. Written by the caller before it offers tasks (release), read by who has taken one
  // (acquire): the caller does not come back, and so does not change them, before that task is done. All that
  // a worker reads to start lies in one cache line, which comes from the caller's core once.
  alignas(64) const void* fn_ = nullptr;
  Call call_ = nullptr;
  size_t num_tasks_ = 0;
  // Number of the region in the upper half, tasks that nobody has taken in the lower. The number keeps a
  // worker that slept through a region from taking a task of the next one with what it read before.
  std::atomic<uint64_t> offer_{0};
  // Changes with every region; what workers sleep on.
  std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<size_t> num_unfinished_{0};
  alignas(64) std::atomic<uint32_t> num_sleeping_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace mneme
