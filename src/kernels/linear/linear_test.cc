#include "kernels/linear/linear.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "base/hash.h"
#include "kernels/linear/linear_test_util.h"

namespace mneme {
namespace {

INSTANTIATE_TEST_SUITE_P(Targets, LinearTargets, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return std::string(hwy::TargetName(info.param)); });

std::vector<Shape> ShapesOf(Encoding encoding) {
  if (linear::IsFloat(encoding)) return {{1, 1}, {33, 257}, {16, 64}, {50, 172}, {64, 515}};
  const size_t block = EncodingBlockValues(encoding);
  // The last chunk: one of its own, part of the chunk before it, both sides of that border.
  const size_t longest = linear::kMaxChunkCols / block * block;
  return {{1, block},    {33, 3 * block}, {48, 512 + block},     {70, 1024},
          {20, longest}, {20, 768},       {40, longest + block}, {40, longest + 512}};
}

TEST_P(LinearTargets, MatchesTheDoublePrecisionTwin) {
  ThreadPool pool(2);
  for (const Encoding encoding : kEncodings) {
    for (const Shape shape : ShapesOf(encoding)) {
      const TestWeights weights(encoding, shape.num_rows, shape.num_cols, 7);
      const size_t stride = shape.num_cols + 3;
      const size_t num_rows = 15;
      const std::vector<float> x = RandomRows(num_rows, stride, 11);
      for (const bool packed : {false, true}) {
        SCOPED_TRACE(std::string(EncodingName(encoding)) + (packed ? " packed " : " stored ") +
                     std::to_string(shape.num_rows) + "x" + std::to_string(shape.num_cols));
        const LinearWeights linear =
            packed ? LinearWeights::Packed(weights.view, pool) : LinearWeights::InPlace(weights.view);
        const std::vector<float> out = Product(linear, x.data(), stride, num_rows, pool);
        if (linear::IsFloat(encoding)) {
          EXPECT_LT(WorstError(weights, x, stride, num_rows, out, shape.num_rows), kFloatDotError);
        } else {
          const std::vector<float> rounded =
              Rounded(x, stride, num_rows, shape.num_cols, FormFor(encoding), pool);
          EXPECT_LT(WorstError(weights, rounded, stride, num_rows, out, shape.num_rows),
                    HasRoundedSums(encoding) ? 1e-4 : 2e-6);
          EXPECT_LT(WorstError(weights, x, stride, num_rows, out, shape.num_rows), kQuantisedDotError);
        }
      }
    }
  }
}

TEST_P(LinearTargets, SameBitsForAnyNumberOfRowsAndThreads) {
  ThreadPool one(1), two(2), three(3);
  for (const Encoding encoding : kEncodings) {
    // An odd number of blocks where the encoding can have one.
    const size_t cols = linear::IsFloat(encoding) ? 330 : 1280 + EncodingBlockValues(encoding) % 256;
    const size_t outputs = 213;
    const TestWeights weights(encoding, outputs, cols, 3);
    const std::vector<float> x = RandomRows(64, cols, 5);
    for (const bool packed : {false, true}) {
      const LinearWeights linear =
          packed ? LinearWeights::Packed(weights.view, one) : LinearWeights::InPlace(weights.view);
      std::vector<float> expected;
      for (size_t r = 0; r < 64; ++r) {
        const std::vector<float> row = Product(linear, x.data() + r * cols, cols, 1, one);
        expected.insert(expected.end(), row.begin(), row.end());
      }
      for (const size_t num_rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 64}) {
        for (ThreadPool* pool : {&one, &two, &three}) {
          const std::vector<float> out = Product(linear, x.data(), cols, num_rows, *pool);
          ASSERT_EQ(0, std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)))
              << EncodingName(encoding) << (packed ? " packed, " : " stored, ") << num_rows << " rows, "
              << pool->num_threads() << " threads";
        }
      }
    }
  }
}

// Shares of more than 2 MiB leave a tail of small tasks; the last pair of groups is incomplete.
TEST_P(LinearTargets, SameBitsForAnyNumberOfThreadsWithLongShares) {
  ThreadPool one(1);
  const size_t cols = 1024, outputs = 6007;
  const TestWeights weights(Encoding::kQ8_0, outputs, cols, 8);
  const LinearWeights linear = LinearWeights::Packed(weights.view, one);
  const std::vector<float> x = RandomRows(4, cols, 9);
  for (const size_t num_rows : {1, 4}) {
    const std::vector<float> expected = Product(linear, x.data(), cols, num_rows, one);
    for (const size_t num_threads : {2, 3, 5}) {
      ThreadPool pool(num_threads);
      const std::vector<float> out = Product(linear, x.data(), cols, num_rows, pool);
      ASSERT_EQ(0, std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)))
          << num_rows << " rows, " << num_threads << " threads";
    }
  }
}

// Few rows of activations and many.
void CheckPackedIsStored(const TestWeights& weights) {
  ThreadPool pool(1);
  const size_t cols = weights.view.num_cols;
  const std::vector<float> x = RandomRows(40, cols, 5);
  const LinearWeights stored = LinearWeights::InPlace(weights.view);
  const LinearWeights packed = LinearWeights::Packed(weights.view, pool);
  ASSERT_TRUE(packed.is_packed());
  for (const size_t num_rows : {1, 2, 8, 40}) {
    ASSERT_EQ(Product(stored, x.data(), cols, num_rows, pool),
              Product(packed, x.data(), cols, num_rows, pool))
        << EncodingName(weights.view.encoding) << ' ' << weights.view.num_rows << 'x' << cols << ", "
        << num_rows << " rows";
  }
}

TEST_P(LinearTargets, PackedIntegerWeightsGiveTheBitsOfStoredOnes) {
  for (const Encoding encoding : kEncodings) {
    if (linear::IsFloat(encoding)) continue;
    CheckPackedIsStored(TestWeights(encoding, 45, 1792, 3));
    for (const Shape shape : ShapesOf(encoding))
      CheckPackedIsStored(TestWeights(encoding, shape.num_rows, shape.num_cols, 4));
  }
}

// The smallest powers are no normal numbers.
TEST_P(LinearTargets, PackedPowersOfTwoAreTheStoredOnes) {
  TestWeights weights(Encoding::kMXFP4, 20, 3 * 32, 3);
  const size_t block_bytes = EncodingBlockBytes(Encoding::kMXFP4);
  for (size_t block = 0; block < 60; ++block)
    weights.bytes[1 + block * block_bytes] = static_cast<uint8_t>(block < 8 ? block % 4 : 4 * block);
  CheckPackedIsStored(weights);
}

TEST_P(LinearTargets, JobsShareACallAndTakeBiasAndAccumulate) {
  ThreadPool pool(2);
  const size_t cols = 256, num_rows = 7;
  const std::vector<float> x = RandomRows(num_rows, cols, 5);
  constexpr ActivationForm kForm = {.block8 = 32, .int16 = true};
  for (const bool packed : {false, true}) {
    const TestWeights q8(Encoding::kQ8_0, 300, cols, 1), f16(Encoding::kF16, 37, cols, 2),
        q6(Encoding::kQ6_K, 17, cols, 3);
    std::vector<LinearWeights> weights;
    for (const TestWeights* w : {&q8, &f16, &q6}) {
      weights.push_back(packed ? LinearWeights::Packed(w->view, pool, FloatProducts::kInt16)
                               : LinearWeights::InPlace(w->view));
    }
    std::vector<float> bias(300);
    for (size_t n = 0; n < bias.size(); ++n) bias[n] = static_cast<float>(n) * 0.25f - 30;
    ActivationRows rows(num_rows, cols, kForm);
    rows.Set(x.data(), num_rows, cols, cols, kForm, pool);
    const size_t out_stride = 305;
    std::vector<std::vector<float>> outs(3, std::vector<float>(num_rows * out_stride, 2.0f));
    std::vector<MatMulJob> jobs;
    for (size_t i = 0; i < 3; ++i) {
      jobs.push_back({.weights = &weights[i],
                      .bias = i == 1 ? nullptr : bias.data(),
                      .out = outs[i].data(),
                      .out_stride = out_stride,
                      .accumulate = i != 0});
    }
    MatMul(rows, jobs, pool);
    for (size_t i = 0; i < 3; ++i) {
      const std::vector<float> plain = Product(weights[i], x.data(), cols, num_rows, pool, kForm);
      const size_t outputs = weights[i].num_rows();
      for (size_t r = 0; r < num_rows; ++r) {
        for (size_t n = 0; n < out_stride; ++n) {
          const float got = outs[i][r * out_stride + n];
          if (n >= outputs) {
            ASSERT_EQ(got, 2.0f) << "wrote beyond the row";
            continue;
          }
          const float start = (i != 0 ? 2.0f : 0.0f) + (i == 1 ? 0.0f : bias[n]);
          ASSERT_NEAR(got, start + plain[r * outputs + n], 1e-5f * (std::abs(plain[r * outputs + n]) + 40));
        }
      }
    }
  }
}

TEST_P(LinearTargets, RoundsActivationsToTheNearestOf255Levels) {
  ThreadPool pool(1);
  const size_t cols = 96;
  std::vector<float> x(cols, 0.0f);
  for (size_t k = 0; k < 32; ++k) x[k] = static_cast<float>(k) - 16.5f;  // ties at 127 / 16.5 steps
  x[32] = -254.0f;
  x[33] = 1.0f;  // half a step: to even, 0
  x[34] = 3.0f;  // to even, 2
  x[35] = -2.9f;
  const std::vector<float> rounded = Rounded(x, cols, 1, cols, ActivationForm::kBlocks32, pool);
  for (size_t k = 0; k < 32; ++k) EXPECT_LE(std::abs(rounded[k] - x[k]), 0.5001f * 16.5f / 127) << k;
  EXPECT_EQ(rounded[32], -254.0f);
  EXPECT_EQ(rounded[33], 0.0f);
  EXPECT_EQ(rounded[34], 4.0f);
  EXPECT_EQ(rounded[35], -2.0f);
  for (size_t k = 64; k < 96; ++k) EXPECT_EQ(rounded[k], 0.0f);
}

// How TestWeights are multiplied: in place, or packed.
std::vector<LinearWeights> FormsOf(const WeightView& view, ThreadPool& pool) {
  std::vector<LinearWeights> forms;
  forms.push_back(LinearWeights::InPlace(view));
  forms.push_back(LinearWeights::Packed(view, pool));
  if (!linear::IsFloat(view.encoding)) return forms;
  for (const FloatProducts products : kRoundedProducts)
    forms.push_back(LinearWeights::Packed(view, pool, products));
  return forms;
}

TEST_P(LinearTargets, NotANumberStaysInItsRow) {
  ThreadPool pool(1);
  const size_t cols = 512, outputs = 20;
  std::vector<float> x = RandomRows(9, cols, 5);  // a full tile and a part of one
  const std::vector<float> before = x;
  x[2 * cols + 40] = std::numeric_limits<float>::quiet_NaN();
  x[7 * cols + 100] = std::numeric_limits<float>::infinity();
  x[8 * cols + 3] = 1e-38f;
  for (const Encoding encoding : kEncodings) {
    const TestWeights stored(encoding, outputs, cols, 3);
    for (const LinearWeights& weights : FormsOf(stored.view, pool)) {
      const std::vector<float> clean = Product(weights, before.data(), cols, 9, pool);
      const std::vector<float> out = Product(weights, x.data(), cols, 9, pool);
      for (size_t i = 0; i < 8 * outputs; ++i) {
        if (i / outputs == 2 || i / outputs == 7) {
          EXPECT_FALSE(std::isfinite(out[i])) << EncodingName(encoding);
        } else {
          EXPECT_EQ(out[i], clean[i]) << EncodingName(encoding);
        }
      }
    }
  }
}

// More rows than stay in the second-level cache at once go through the weights twice.
TEST_P(LinearTargets, SameBitsForRowsOfASecondPass) {
  ThreadPool pool(2);
  const size_t cols = 288, outputs = 45, num_rows = 523;
  const std::vector<float> x = RandomRows(num_rows, cols, 5);
  for (const Encoding encoding : {Encoding::kF16, Encoding::kQ8_0}) {
    const TestWeights stored(encoding, outputs, cols, 3);
    for (const LinearWeights& weights : FormsOf(stored.view, pool)) {
      const std::vector<float> out = Product(weights, x.data(), cols, num_rows, pool);
      for (const size_t row : {0, 515, 516, 522}) {
        const std::vector<float> alone = Product(weights, x.data() + row * cols, cols, 1, pool);
        EXPECT_EQ(0, std::memcmp(alone.data(), out.data() + row * outputs, outputs * sizeof(float)))
            << EncodingName(encoding) << ", row " << row;
      }
    }
  }
}

// Sums that run in the output itself and sums that do not, few rows and many, start where they should.
TEST_P(LinearTargets, SumsStartFromBiasAndOldOutputs) {
  ThreadPool pool(1);
  const size_t cols = 320, outputs = 77;
  std::vector<float> bias(outputs);
  for (size_t n = 0; n < outputs; ++n) bias[n] = static_cast<float>(n) * 0.25f - 9;
  const auto check = [&](const LinearWeights& weights, size_t num_rows, bool has_bias, bool accumulate) {
    const std::vector<float> x = RandomRows(num_rows, cols, 5);
    const std::vector<float> plain = Product(weights, x.data(), cols, num_rows, pool);
    ActivationRows rows(num_rows, cols, FormFor(weights));
    rows.Set(x.data(), num_rows, cols, cols, FormFor(weights), pool);
    std::vector<float> out(num_rows * outputs, 2.0f);
    const MatMulJob job = {.weights = &weights,
                           .bias = has_bias ? bias.data() : nullptr,
                           .out = out.data(),
                           .out_stride = outputs,
                           .accumulate = accumulate};
    MatMul(rows, {&job, 1}, pool);
    for (size_t i = 0; i < out.size(); ++i) {
      const float start = (has_bias ? bias[i % outputs] : 0.0f) + (accumulate ? 2.0f : 0.0f);
      ASSERT_NEAR(out[i], plain[i] + start, 1e-5f * (std::abs(plain[i]) + 100)) << i;
    }
  };
  for (const Encoding encoding : {Encoding::kF16, Encoding::kQ8_0}) {
    const TestWeights stored(encoding, outputs, cols, 3);
    for (const LinearWeights& weights : FormsOf(stored.view, pool)) {
      for (const size_t num_rows : {7, 20, 40}) {
        for (const bool has_bias : {false, true}) {
          check(weights, num_rows, has_bias, false);
          check(weights, num_rows, has_bias, true);
        }
      }
    }
  }
}

// Rows of a full tile are rounded together, two rows value by value, a single row four blocks at a time: the
// same bits, whatever the values.
TEST_P(LinearTargets, RoundsRowsTogetherAsAlone) {
  ThreadPool pool(1);
  const size_t cols = 512, num_rows = linear::kActTile;
  std::vector<float> x = RandomRows(num_rows, cols, 5);
  for (size_t k = 0; k < 32; ++k) x[k] = 0.0f;
  for (size_t k = 0; k < 32; ++k) x[cols + k] *= 1e-33f;     // below what counts as zero
  for (size_t k = 0; k < 64; ++k) x[2 * cols + k] *= 1e-6f;  // a scale that half precision cannot hold
  for (size_t k = 0; k < 64; ++k) x[3 * cols + k] *= 1e30f;
  x[4 * cols + 7] = std::numeric_limits<float>::infinity();
  for (const ActivationForm form :
       {ActivationForm::kBlocks32, ActivationForm::kBlocks256, ActivationForm::kInt16}) {
    const auto rounded = [&](size_t count) {
      std::vector<float> all;
      for (size_t r = 0; r < num_rows; r += count) {
        const std::vector<float> rows(x.begin() + static_cast<ptrdiff_t>(r * cols),
                                      x.begin() + static_cast<ptrdiff_t>((r + count) * cols));
        const std::vector<float> out = Rounded(rows, cols, count, cols, form, pool);
        all.insert(all.end(), out.begin(), out.end());
      }
      return all;
    };
    const std::vector<float> two = rounded(2);
    for (const size_t count : {size_t{1}, num_rows}) {
      const std::vector<float> got = rounded(count);
      for (size_t k = 0; k < got.size(); ++k) {
        if (std::isnan(two[k])) {
          EXPECT_TRUE(std::isnan(got[k])) << count << " rows, value " << k;
        } else {
          EXPECT_EQ(got[k], two[k]) << count << " rows, value " << k;
        }
      }
    }
  }
}

// Every output is handed on once, by ranges of whole cache lines, after all jobs have it.
TEST_P(LinearTargets, HandsOnOutputsOfAllJobsOnce) {
  const size_t cols = 1024;
  for (const size_t outputs : {size_t{40}, size_t{717}, size_t{4103}}) {
    const TestWeights a(Encoding::kQ8_0, outputs, cols, 1), b(Encoding::kQ4_0, outputs, cols, 2);
    ThreadPool one(1);
    const LinearWeights weights[] = {LinearWeights::Packed(a.view, one), LinearWeights::InPlace(b.view)};
    const std::vector<float> x = RandomRows(40, cols, 5);
    for (const size_t num_rows : {1, 4, 40}) CheckHandedOn(weights, x, num_rows);
  }
}

// Two matrices that were packed together give the bits of each alone, whichever way they are called.
TEST_P(LinearTargets, MatricesPackedTogetherGiveTheBitsOfEachAlone) {
  ThreadPool pool(2);
  for (const Encoding encoding : kEncodings) {
    for (const FloatProducts products :
         {FloatProducts::kFloat32, FloatProducts::kBFloat16, FloatProducts::kInt16}) {
      const size_t cols = 512, outputs = 333;
      const TestWeights a(encoding, outputs, cols, 1), b(encoding, outputs, cols, 2);
      const size_t bytes = LinearWeights::PackedBytes(encoding, outputs, cols, products);
      if (bytes == 0) continue;
      const LinearWeights alone[] = {LinearWeights::Packed(a.view, pool, products),
                                     LinearWeights::Packed(b.view, pool, products)};
      const auto memory = MakeAligned<uint8_t>(2 * bytes);
      LinearWeights together[2];
      std::tie(together[0], together[1]) =
          LinearWeights::PackedTogether(a.view, b.view, memory.get(), pool, products);
      const std::vector<float> x = RandomRows(40, cols, 5);
      for (const size_t num_rows : {1, 3, 7, 14, 40}) {
        for (size_t i = 0; i < 2; ++i) {
          ASSERT_EQ(Product(together[i], x.data(), cols, num_rows, pool),
                    Product(alone[i], x.data(), cols, num_rows, pool))
              << EncodingName(encoding) << ", " << num_rows << " rows";
        }
        CheckHandedOn(together, x, num_rows);
      }
    }
  }
}

// Many matrices in one call lie as each packed alone; each is told of once, after its last row, and what runs
// beside them runs once.
TEST(Linear, PacksAllAsEachAlone) {
  ThreadPool pool(3), one(1);
  std::vector<TestWeights> weights;
  for (const Encoding encoding : kEncodings) weights.emplace_back(encoding, 1333, 512, weights.size());
  std::vector<AlignedArray<uint8_t>> memory;
  std::vector<PackJob> jobs;
  for (const TestWeights& w : weights) {
    const size_t bytes = LinearWeights::PackedBytes(w.view.encoding, 1333, 512);
    if (bytes == 0) continue;
    memory.push_back(MakeAligned<uint8_t>(bytes));
    jobs.push_back({.view = w.view, .memory = memory.back().get()});
  }
  std::vector<std::atomic<int>> num_done(jobs.size());
  std::atomic<int> num_beside = 0;
  PackAll(
      jobs, pool, [&](size_t job) { ++num_done[job]; }, [&] { ++num_beside; });
  EXPECT_EQ(num_beside, 1);
  for (size_t i = 0; i < jobs.size(); ++i) {
    EXPECT_EQ(num_done[i], 1);
    const LinearWeights packed = LinearWeights::AlreadyPacked(jobs[i]);
    const LinearWeights alone = LinearWeights::Packed(jobs[i].view, one);
    ASSERT_EQ(packed.read_bytes(), alone.read_bytes());
    EXPECT_EQ(packed.group_stride(), alone.group_stride());
    EXPECT_EQ(std::memcmp(packed.packed(), alone.packed(), packed.read_bytes()), 0)
        << EncodingName(jobs[i].view.encoding);
  }
}

// Copies in files outlive programs: who changes what PackAll writes gives it a new version, and then the new
// number here.
TEST(Linear, ThePackedLayoutIsThatOfItsVersion) {
  constexpr size_t kRows = 35, kCols = 1280;
  ThreadPool pool(1);
  uint64_t hash = kPackedLayoutVersion;
  for (const Encoding encoding : kEncodings) {
    for (const FloatProducts products :
         {FloatProducts::kFloat32, FloatProducts::kBFloat16, FloatProducts::kInt16}) {
      const size_t bytes = LinearWeights::PackedBytes(encoding, kRows, kCols, products);
      if (bytes == 0) continue;
      std::vector<uint8_t> stored(EncodedBytes(encoding, kRows * kCols));
      for (size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
      if (linear::IsFloat(encoding)) {
        std::vector<float> values(kRows * kCols);  // small whole numbers: nothing depends on how one rounds
        for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(stored[i] % 17) - 8;
        EncodeBlocks(encoding, values.data(), values.size(), stored.data());
      }
      const auto memory = MakeAligned<uint8_t>(bytes);
      LinearWeights::PackedInto(
          {.encoding = encoding, .num_rows = kRows, .num_cols = kCols, .data = stored.data()}, memory.get(),
          pool, products);
      hash = HashBytes({reinterpret_cast<const char*>(memory.get()), bytes}, hash);
    }
  }
  EXPECT_EQ(hash, 0x7BBC877932E4F436u) << std::hex << hash;
}

// `bytes`, aligned to 64, that end less than 64 bytes before a page that nobody may read.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t bytes) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t taken = (bytes + 63) / 64 * 64;
    const size_t readable = (taken + page - 1) / page * page;
    size_ = readable + page;
    memory_ = static_cast<uint8_t*>(
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(memory_ + readable, page, PROT_NONE) != 0) std::abort();
    begin_ = memory_ + readable - taken;
  }
  ~GuardedMemory() { munmap(memory_, size_); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  uint8_t* get() const { return begin_; }

 private:
  size_t size_;
  uint8_t* memory_;
  uint8_t* begin_;
};

// Products of weights packed in front of such a page are those of weights packed elsewhere.
void CheckGuarded(Encoding encoding, Shape shape, FloatProducts products) {
  const size_t bytes = LinearWeights::PackedBytes(encoding, shape.num_rows, shape.num_cols, products);
  if (bytes == 0) return;  // has no packed form
  ThreadPool pool(2);
  const TestWeights weights(encoding, shape.num_rows, shape.num_cols, 29);
  const GuardedMemory memory(bytes);
  const LinearWeights guarded = LinearWeights::PackedInto(weights.view, memory.get(), pool, products);
  const LinearWeights packed = LinearWeights::Packed(weights.view, pool, products);
  for (const size_t num_rows : {1, 2, 16, 40}) {
    const std::vector<float> x = RandomRows(num_rows, shape.num_cols, 30);
    ASSERT_EQ(Product(guarded, x.data(), shape.num_cols, num_rows, pool),
              Product(packed, x.data(), shape.num_cols, num_rows, pool))
        << EncodingName(encoding) << ' ' << shape.num_rows << 'x' << shape.num_cols;
  }
}

TEST_P(LinearTargets, ReadsNothingBehindPackedWeights) {
  for (const Encoding encoding : kEncodings) {
    for (const Shape shape : ShapesOf(encoding)) {
      for (const FloatProducts products :
           {FloatProducts::kFloat32, FloatProducts::kBFloat16, FloatProducts::kInt16}) {
        if (products != FloatProducts::kFloat32 && !linear::IsFloat(encoding)) continue;
        CheckGuarded(encoding, shape, products);
      }
    }
  }
}

TEST(Linear, DecodeRowGivesTheStoredValues) {
  for (const Encoding encoding : kEncodings) {
    const TestWeights weights(encoding, 5, 512, 9);
    std::vector<float> row(512);
    DecodeRow(weights.view, 3, row.data());
    for (size_t k = 0; k < 512; ++k) {
      const double expected = weights.decoded[3 * 512 + k];
      ASSERT_NEAR(row[k], expected, 1e-6 * (std::abs(expected) + 1)) << EncodingName(encoding);
    }
  }
}

TEST(Linear, PackedWeightsKeepTheStoredSize) {
  ThreadPool pool(1);
  for (const Encoding encoding : kEncodings) {
    const size_t stored = 64 * EncodedBytes(encoding, 2048);
    const double padding = encoding == Encoding::kQ3_K     ? 0.055
                           : encoding == Encoding::kIQ4_XS ? 0.03
                           : encoding == Encoding::kQ6_K   ? 0.01
                                                           : 0;
    const size_t packed_bytes = LinearWeights::PackedBytes(encoding, 64, 2048);
    EXPECT_GE(packed_bytes, stored) << EncodingName(encoding);
    EXPECT_LE(static_cast<double>(packed_bytes), static_cast<double>(stored) * (1 + padding))
        << EncodingName(encoding);
    const TestWeights weights(encoding, 17, 768, 1);
    const LinearWeights packed = LinearWeights::Packed(weights.view, pool);
    EXPECT_TRUE(packed.is_packed());
    EXPECT_EQ(packed.read_bytes(), LinearWeights::PackedBytes(encoding, 17, 768));
    EXPECT_EQ(packed.view().data, nullptr);
    EXPECT_EQ(LinearWeights::InPlace(weights.view).read_bytes(), 17 * EncodedBytes(encoding, 768));
  }
}

TEST(Linear, AMovedMatrixLeavesAnEmptyOne) {
  ThreadPool pool(1);
  const TestWeights weights(Encoding::kQ8_0, 17, 96, 1);
  LinearWeights from = LinearWeights::Packed(weights.view, pool);
  const uint8_t* packed = from.packed();
  const LinearWeights to = std::move(from);
  EXPECT_EQ(to.packed(), packed);
  EXPECT_TRUE(from.empty());
  EXPECT_FALSE(from.is_packed());
}

TEST(Linear, NoRowsIsNoWork) {
  ThreadPool pool(1);
  const TestWeights weights(Encoding::kQ8_0, 16, 32, 1);
  const LinearWeights linear = LinearWeights::InPlace(weights.view);
  ActivationRows rows(4, 32, ActivationForm::kBlocks32);
  rows.Set(nullptr, 0, 32, 32, ActivationForm::kBlocks32, pool);
  float untouched = 5;
  const MatMulJob job = {.weights = &linear, .out = &untouched, .out_stride = 16};
  MatMul(rows, {&job, 1}, pool);
  EXPECT_EQ(untouched, 5);
}

TEST(LinearDeathTest, MismatchedColumnsAreABug) {
  ThreadPool pool(1);
  const TestWeights weights(Encoding::kF32, 4, 32, 1);
  const LinearWeights linear = LinearWeights::InPlace(weights.view);
  ActivationRows rows(1, 64, ActivationForm::kFloat);
  std::vector<float> x(64), out(4);
  rows.Set(x.data(), 1, 64, 64, ActivationForm::kFloat, pool);
  const MatMulJob job = {.weights = &linear, .out = out.data(), .out_stride = 4};
  EXPECT_DEATH(MatMul(rows, {&job, 1}, pool), "num_cols");
}

TEST(LinearDeathTest, AMissingFormIsABug) {
  ThreadPool pool(1);
  const TestWeights weights(Encoding::kF16, 4, 32, 1);
  const LinearWeights linear = LinearWeights::Packed(weights.view, pool, FloatProducts::kInt16);
  ActivationRows rows(1, 32, ActivationForm::kBlocks32);
  std::vector<float> x(32), out(4);
  rows.Set(x.data(), 1, 32, 32, ActivationForm::kBlocks32, pool);
  const MatMulJob job = {.weights = &linear, .out = out.data(), .out_stride = 4};
  EXPECT_DEATH(MatMul(rows, {&job, 1}, pool), "has_int16");
  EXPECT_DEATH(rows.Set(x.data(), 1, 32, 32, ActivationForm::kInt16, pool), "int16");
}

}  // namespace
}  // namespace mneme
