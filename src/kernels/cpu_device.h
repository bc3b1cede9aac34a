// The processor as a device: the kernels of this folder on a pool of threads. Its memory is the process's, so
// operations take any pointer.
#pragma once

#include <cstddef>

#include "base/thread_pool.h"
#include "kernels/device.h"

namespace mneme {

class CpuDevice : public Device {
 public:
  // num_threads counts the caller; 0 means all cores this process may use.
  explicit CpuDevice(size_t num_threads = 0) : pool_(num_threads) {}

  // For work of the machine that is no operation (conversion of files, measurements). Its rule applies.
  ThreadPool& pool() { return pool_; }

  size_t num_threads() const override { return pool_.num_threads(); }
  DeviceMemory Allocate(size_t bytes, DeviceMemoryUse use) override;
  void Wait() override {}
  void Pack(std::span<const PackJob> jobs, const std::function<void(size_t job)>& done,
            const std::function<void()>& beside) override;
  void Run(size_t num_tasks, const std::function<void(size_t i)>& task) override;

  void Embed(const EmbedCall& call) override;
  void Norm(const NormCall& call) override;
  void Linear(const LinearCall& call) override;
  void Attend(std::span<const AttendCall> calls, uint8_t* scratch) override;
  void Score(const ScoreCall& call) override;
  void Memory(const MemoryCall& call) override;
  void Pointwise(const PointwiseCall& call) override;
  void Experts(const ExpertsCall& call) override;
  void Gates(const GatesCall& call) override;
  void Recur(std::span<const RecurCall> calls, float* scratch) override;

 private:
  // Calls fn(first, last) on ranges that cover [0, count); each item has `size` values. Shared by all threads
  // if there are enough values.
  template <typename Fn>
  void ForRanges(size_t count, size_t size, const Fn& fn);

  // A matrix to a thread: of a head's size they are not worth sharing.
  void LinearApart(const LinearCall& call, ActivationForm form);

  ThreadPool pool_;
  ThreadPool caller_{1};  // what a task calls its own pool: runs where it is called
};

}  // namespace mneme
