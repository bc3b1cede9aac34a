// Matrix products by encoding, form, shape and number of rows.
#include <algorithm>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "base/half.h"
#include "base/random.h"
#include "bench/kernels.h"
#include "kernels/cpu_device.h"
#include "kernels/linear/linear.h"

namespace mneme {
namespace {

// Decode meets weights that the caches have forgotten: it goes round several matrices.
constexpr size_t kColdBytes = size_t{512} << 20;
constexpr size_t kManyRows = 512;  // where the weights' place no longer matters

struct LinearWork {
  Encoding encoding = Encoding::kF32;
  size_t num_outputs = 0;
  size_t num_cols = 0;
  size_t num_rows = 0;
  bool is_packed = false;
  FloatProducts products = FloatProducts::kFloat32;
};

void FillFloats(Encoding encoding, size_t num_values, uint8_t* to) {
  Random random(1);
  for (size_t i = 0; i < num_values; ++i) {
    const float value = static_cast<float>(random.Uniform()) - 0.5f;
    const uint16_t half = encoding == Encoding::kF16 ? F32ToF16(value) : F32ToBF16(value);
    if (encoding == Encoding::kF32) {
      std::memcpy(to + i * 4, &value, 4);
    } else {
      std::memcpy(to + i * 2, &half, 2);
    }
  }
}

// Where the factors of a block lie.
std::vector<size_t> FactorOffsets(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ4_1:
    case Encoding::kQ5_1:
    case Encoding::kQ4_K:
    case Encoding::kQ5_K:
      return {0, 2};
    case Encoding::kQ2_K:
      return {80, 82};
    case Encoding::kQ3_K:
    case Encoding::kQ6_K:
      return {EncodingBlockBytes(encoding) - 2};
    default:
      return {0};
  }
}

// Random bits with factors near 0.01, so that nothing is infinite or denormal.
std::vector<uint8_t> RandomWeights(Encoding encoding, size_t num_values) {
  std::vector<uint8_t> bytes(EncodedBytes(encoding, num_values));
  if (encoding == Encoding::kF32 || encoding == Encoding::kF16 || encoding == Encoding::kBF16) {
    FillFloats(encoding, num_values, bytes.data());
    return bytes;
  }
  Random random(1);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random.Next();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  const uint16_t factor = F32ToF16(0.01f);
  const std::vector<size_t> offsets = FactorOffsets(encoding);
  for (size_t at = 0; at < bytes.size(); at += EncodingBlockBytes(encoding)) {
    if (encoding == Encoding::kMXFP4) {
      bytes[at] = 120;
      continue;
    }
    for (const size_t offset : offsets) std::memcpy(bytes.data() + at + offset, &factor, 2);
  }
  return bytes;
}

// Several copies of one matrix.
class Matrices {
 public:
  Matrices(const LinearWork& work, Device& device)
      : one_(RandomWeights(work.encoding, work.num_outputs * work.num_cols)) {
    const size_t num_copies = work.num_rows < kManyRows ? std::max<size_t>(1, kColdBytes / one_.size()) : 1;
    WeightView view = {.encoding = work.encoding,
                       .num_rows = work.num_outputs,
                       .num_cols = work.num_cols,
                       .data = one_.data()};
    const size_t bytes = work.is_packed ? LinearWeights::PackedBytes(work.encoding, work.num_outputs,
                                                                     work.num_cols, work.products)
                                        : one_.size();
    memory_ = device.Allocate(num_copies * bytes, DeviceMemoryUse::kWeights);
    auto* const memory = static_cast<uint8_t*>(memory_.get());
    for (size_t i = 0; i < num_copies; ++i) {
      uint8_t* const at = memory + i * bytes;
      if (work.is_packed) {
        const PackJob job = {.view = view, .memory = at, .products = work.products};
        device.Pack({&job, 1}, {}, {});
        weights_.push_back(LinearWeights::AlreadyPacked(job));
      } else {
        std::memcpy(at, one_.data(), bytes);
        view.data = at;
        weights_.push_back(LinearWeights::InPlace(view));
      }
    }
  }

  const LinearWeights& Next() { return weights_[next_++ % weights_.size()]; }
  size_t read_bytes() const { return weights_[0].read_bytes(); }
  size_t footprint() const { return weights_.size() * read_bytes(); }
  ActivationForm form() const { return FormFor(weights_[0]); }

 private:
  std::vector<uint8_t> one_;
  DeviceMemory memory_;
  std::vector<LinearWeights> weights_;
  size_t next_ = 0;
};

KernelLimits LimitsOf(const LinearWork& work, const MachineLimits& limits, size_t footprint) {
  const bool all = limits.num_threads > 1;
  KernelLimits of{.bytes_per_second = limits.ReadBandwidth(footprint, all)};
  const auto use = [&](const char* name, const MachineRate& rate) {
    if (rate.one_thread <= 0) return;  // without the instruction, products run at the rate of float32
    of.ops_name = name;
    of.ops_per_second = all ? rate.all_threads : rate.one_thread;
  };
  use("fp32", limits.fp32_ops);
  if (NeedsQuantised(work.encoding)) use("int8", limits.int8_ops);
  if (work.products == FloatProducts::kInt16) use("int16", limits.int16_ops);
  if (work.products == FloatProducts::kBFloat16) use("bf16", limits.bf16_ops);
  return of;
}

KernelRow MeasureLinear(const LinearWork& work, const MachineLimits& limits, double seconds,
                        CpuDevice& device) {
  Matrices matrices(work, device);
  std::vector<float> x(work.num_rows * work.num_cols), out(work.num_rows * work.num_outputs);
  Random random(2);
  for (float& value : x) value = static_cast<float>(random.Normal());
  const DeviceMemory scratch = device.Allocate(
      ActivationRows::Bytes(work.num_rows, work.num_cols, matrices.form()), DeviceMemoryUse::kWork);
  KernelRow row;
  row.timing = TimeRuns(seconds, [&] {
    const MatMulJob job = {.weights = &matrices.Next(), .out = out.data(), .out_stride = work.num_outputs};
    device.Linear({.x = x.data(),
                   .num_rows = work.num_rows,
                   .num_cols = work.num_cols,
                   .jobs = {&job, 1},
                   .scratch = static_cast<uint8_t*>(scratch.get())});
  });
  row.bytes = static_cast<double>(matrices.read_bytes());
  row.ops = 2.0 * static_cast<double>(work.num_outputs * work.num_cols * work.num_rows);
  SetShare(LimitsOf(work, limits, matrices.footprint()), &row);
  return row;
}

void AddForm(const char* form, LinearWork work, std::vector<KernelCase>* cases) {
  // Matrices of TinyLlama 1.1B and SmolLM 135M.
  constexpr size_t kShapes[][2] = {{2048, 2048},  {5632, 2048}, {2048, 5632},
                                   {32000, 2048}, {576, 576},   {1536, 576}};
  for (const auto& [num_outputs, num_cols] : kShapes) {
    if (num_cols % EncodingBlockValues(work.encoding) != 0) continue;
    for (const size_t num_rows : {size_t{1}, size_t{2}, size_t{4}, size_t{8}, size_t{16}, kManyRows}) {
      work.num_outputs = num_outputs;
      work.num_cols = num_cols;
      work.num_rows = num_rows;
      cases->push_back({"linear/" + std::string(EncodingName(work.encoding)) + "/" + form + "/" +
                            std::to_string(num_outputs) + "x" + std::to_string(num_cols) +
                            "/rows:" + std::to_string(num_rows),
                        [work](const MachineLimits& limits, double seconds, CpuDevice& device) {
                          return MeasureLinear(work, limits, seconds, device);
                        }});
    }
  }
}

}  // namespace

std::vector<KernelCase> LinearCases() {
  std::vector<KernelCase> cases;
  for (const bool is_packed : {true, false}) {
    for (const Encoding encoding :
         {Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_K, Encoding::kQ6_K, Encoding::kF16, Encoding::kBF16,
          Encoding::kF32, Encoding::kMXFP4, Encoding::kIQ4_NL, Encoding::kIQ4_XS, Encoding::kQ4_1,
          Encoding::kQ5_0, Encoding::kQ5_1, Encoding::kQ2_K, Encoding::kQ3_K, Encoding::kQ5_K}) {
      if (is_packed && LinearWeights::PackedBytes(encoding, 256, 256) == 0) continue;
      AddForm(is_packed ? "packed" : "stored", {.encoding = encoding, .is_packed = is_packed}, &cases);
    }
  }
  AddForm("bfloat16", {.encoding = Encoding::kF16, .is_packed = true, .products = FloatProducts::kBFloat16},
          &cases);
  AddForm("int16", {.encoding = Encoding::kF16, .is_packed = true, .products = FloatProducts::kInt16},
          &cases);
  return cases;
}

}  // namespace mneme
