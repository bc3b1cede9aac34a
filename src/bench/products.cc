#include "bench/products.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "base/random.h"
#include "bench/timing.h"
#include "formats/quant.h"
#include "model/auto_products.h"
#include "model/engine.h"

namespace mneme {
namespace {

constexpr size_t kSide = 2048;
constexpr size_t kRows = 256;
// Best runs of the same kernel lie nearer than this on a busy machine, and the arithmetics further apart
// where the choice matters.
constexpr double kClearGain = 1.15;

std::vector<uint8_t> RandomMatrix(Encoding encoding) {
  Random random(1);
  std::vector<float> values(kSide * kSide);
  for (float& value : values) value = static_cast<float>(random.Uniform()) - 0.5f;
  std::vector<uint8_t> bytes(EncodedBytes(encoding, values.size()));
  EncodeBlocks(encoding, values.data(), values.size(), bytes.data());
  return bytes;
}

// Best rate of the product on the device's threads: anything else on the machine only slows it.
double BestRate(CpuDevice& device, const LinearWeights& weights, double seconds) {
  const std::vector<float> x(kRows * kSide, 0.25f);
  std::vector<float> out(kRows * kSide);
  const DeviceMemory scratch =
      device.Allocate(ActivationRows::Bytes(kRows, kSide, FormFor(weights)), DeviceMemoryUse::kWork);
  const MatMulJob job = {.weights = &weights, .out = out.data(), .out_stride = kSide};
  const LinearCall call = {.x = x.data(),
                           .num_rows = kRows,
                           .num_cols = kSide,
                           .jobs = {&job, 1},
                           .scratch = static_cast<uint8_t*>(scratch.get())};
  double best = 0;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point begin = Clock::now();
    device.Linear(call);
    best = std::max(best, 2.0 * static_cast<double>(kSide * kSide * kRows) / SecondsSince(begin));
  } while (SecondsSince(start) < seconds);
  return best;
}

ProductRate MeasureProduct(Encoding encoding, FloatProducts products, double seconds, CpuDevice& one,
                           CpuDevice& all) {
  const std::vector<uint8_t> bytes = RandomMatrix(encoding);
  const WeightView view = {.encoding = encoding, .num_rows = kSide, .num_cols = kSide, .data = bytes.data()};
  const LinearWeights weights = LinearWeights::Packed(view, all.pool(), products);
  return {.encoding = encoding,
          .products = products,
          .ops = {.one_thread = BestRate(one, weights, seconds / 2),
                  .all_threads = BestRate(all, weights, seconds / 2)}};
}

}  // namespace

const ProductRate* ProductRates::Find(FloatProducts products) const {
  const auto found = std::ranges::find_if(rows, [&](const ProductRate& row) {
    return row.encoding == Encoding::kF16 && row.products == products;
  });
  return found == rows.end() ? nullptr : &*found;
}

ProductRates MeasureProducts(CpuDevice& device, double seconds) {
  CpuDevice one(1);
  ProductRates rates;
  for (const FloatProducts products :
       {FloatProducts::kFloat32, FloatProducts::kBFloat16, FloatProducts::kInt16}) {
    rates.rows.push_back(MeasureProduct(Encoding::kF16, products, seconds / 4, one, device));
  }
  rates.rows.push_back(MeasureProduct(Encoding::kQ8_0, FloatProducts::kFloat32, seconds / 4, one, device));
  return rates;
}

ProductRates MeasureProducts(const Engine& engine, double seconds) {
  return MeasureProducts(engine.impl().device, seconds);
}

AutoVerdict JudgeAuto(const ProductRates& rates) { return JudgeAuto(ProductTarget(), rates); }

AutoVerdict JudgeAuto(std::string_view target, const ProductRates& rates) {
  AutoVerdict verdict{.target = std::string(target)};
  verdict.taken = AutoProductsOn(target);
  verdict.other = verdict.taken == FloatProducts::kInt16 ? FloatProducts::kFloat32 : FloatProducts::kInt16;
  const ProductRate* const taken = rates.Find(verdict.taken);
  const ProductRate* const other = rates.Find(verdict.other);
  if (taken == nullptr || other == nullptr || other->ops.all_threads <= 0) return verdict;
  verdict.gain = taken->ops.all_threads / other->ops.all_threads;
  verdict.agrees = verdict.gain * kClearGain >= 1;
  return verdict;
}

}  // namespace mneme
