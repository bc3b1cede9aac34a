// A small counter-free generator (xoshiro256**) whose whole state is four words, so that a session can save
// it.
#pragma once

#include <array>
#include <cstdint>

namespace mneme {

class Random {
 public:
  // Any seed gives a good state (SplitMix64 expansion). Same seed, same sequence, on every platform.
  explicit Random(uint64_t seed);

  uint64_t Next();
  // Uniform in [0, 1), 53 bits.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // Uniform in [0, bound); bound > 0.
  uint64_t Below(uint64_t bound);
  // Standard normal.
  double Normal();

  const std::array<uint64_t, 4>& state() const { return state_; }
  void set_state(const std::array<uint64_t, 4>& state) { state_ = state; }

 private:
  std::array<uint64_t, 4> state_;
};

}  // namespace mneme
