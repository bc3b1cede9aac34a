// A device that passes every operation on to another and adds up how long each takes, what it reads and how
// much it computes: where the time of a forward call goes, measured inside it.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace mneme {

class TimingDevice : public Device {
 public:
  // `inner` must outlive this device.
  explicit TimingDevice(Device& inner) : inner_(inner) {}

  struct Op {
    std::string name;  // "embed", "norm"; of products the label of the call
    size_t num_calls = 0;
    double seconds = 0;
    double bytes = 0;  // of weights, of visible keys and values, of states
    double flops = 0;  // of products, attention and recurrences, a multiply-add as two
  };
  // Since the last call, in the order in which each was first called.
  std::vector<Op> TakeOps() { return std::exchange(ops_, {}); }

  size_t num_threads() const override { return inner_.num_threads(); }
  DeviceMemory Allocate(size_t bytes, DeviceMemoryUse use) override { return inner_.Allocate(bytes, use); }
  void Wait() override { inner_.Wait(); }
  void Pack(std::span<const PackJob> jobs, const std::function<void(size_t job)>& done,
            const std::function<void()>& beside) override {
    inner_.Pack(jobs, done, beside);
  }
  void Run(size_t num_tasks, const std::function<void(size_t i)>& task) override {
    inner_.Run(num_tasks, task);
  }

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
  // Runs `call` to its end and adds its seconds to the operation called `name`.
  template <typename Fn>
  Op& Time(std::string_view name, const Fn& call);

  Device& inner_;
  std::vector<Op> ops_;
};

}  // namespace mneme
