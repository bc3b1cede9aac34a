// Products of activations with weight matrices in their stored encoding: out[r, :] = W x[r, :] + bias.
//
// Weights of integer blocks (Q*) meet activations rounded to 8-bit blocks of 32 values, as every CPU engine
// does; F32, F16 and BF16 weights meet float32 activations, or, where they were packed for that, both are
// rounded to blocks of 14-bit integers or to bfloat16. Each output value is computed by one fixed sequence of
// operations that depends on the weights' encoding, packing and FloatProducts alone: not on the number of
// rows in the call, not on the number of threads. So a chunk of any size, a batch of sessions, and a single
// token give the same bits.
//
// Error, against exact arithmetic on the decoded weights, relative to |x||w|: float weights kFloatDotError
// where the products are of like size, and at most 2^-24 for each column of a strip of 128 and for each strip
// (8.6e-6 for 2048 columns) where one outweighs all others; float weights as bfloat16 kBFloat16DotError (2 *
// 2^-8 + 2^-16 for the two roundings; subnormal numbers may count as zero); as 14-bit integers at most
// kInt16DotError, if one of 32 activations and one of 256 weights outweighs the others ((sqrt(32) +
// sqrt(256)) / 16382, and a little for sums in float32), of normal numbers about 1.3e-4 / sqrt(columns), that
// is 1.3e-4 of the product's usual size; integer weights kQuantisedDotError where no activation outweighs its
// block, and at worst sqrt(32) / 254. Blocks of activations (of 14-bit integers, strips of weights too) below
// 1e-30 count as zero, and 14-bit integers need activations below 1e32.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "base/types.h"

namespace mneme {

inline constexpr double kFloatDotError = 2e-6;
inline constexpr double kBFloat16DotError = 8e-3;
inline constexpr double kInt16DotError = 1.4e-3;
inline constexpr double kQuantisedDotError = 1e-2;

// A weight matrix [num_rows, num_cols] (outputs, inputs), rows contiguous, as it lies in the file. Not owned.
struct WeightView {
  Encoding encoding = Encoding::kF32;
  size_t num_rows = 0;
  size_t num_cols = 0;  // a multiple of the encoding's block
  const uint8_t* data = nullptr;

  size_t row_bytes() const { return EncodedBytes(encoding, num_cols); }
};

// How packed float weights are multiplied.
enum class FloatProducts : uint8_t {
  kFloat32,   // weights as stored, activations float32
  kBFloat16,  // both rounded to bfloat16, sums float32: an instruction of twice the peak, where there is one
  kInt16,     // both rounded to blocks of 14-bit integers, products exact, sums float32: as fast, far finer
};

// Changes with the bytes that PackAll writes: copies in files are of one version.
inline constexpr uint32_t kPackedLayoutVersion = 1;

// A matrix and the place of its packed form.
struct PackJob {
  WeightView view = {};
  uint8_t* memory = nullptr;  // LinearWeights::PackedBytes, aligned to 64; must outlive the weights
  size_t num_together = 1;    // its groups of 16 rows lie so many groups apart
  FloatProducts products = FloatProducts::kFloat32;  // of float weights; no meaning for others

  // Two matrices of one shape and encoding into `memory`, PackedBytes of both: 16 rows of one, 16 of the
  // other, and so on. MatMulThen of few rows reads both in one run.
  static std::array<PackJob, 2> Together(const WeightView& a, const WeightView& b, uint8_t* memory,
                                         FloatProducts products);
};

// Packs all of them in one parallel region. done(i) follows the last rows of job i, on the thread that packed
// them; beside() runs on one thread in the meantime: work of another kind that should not wait. Neither may
// throw.
void PackAll(std::span<const PackJob> jobs, ThreadPool& pool,
             const std::function<void(size_t job)>& done = {}, const std::function<void()>& beside = {});

// True where this processor has an instruction for kInt16, which then is faster than kFloat32.
bool HasFastInt16Products();

// A weight matrix as MatMul takes it: in place, or repacked for speed (rows interleaved so that SIMD lanes
// are output rows). Movable. Immutable after construction, so shared by all threads.
class LinearWeights {
 public:
  LinearWeights() = default;
  LinearWeights(LinearWeights&& other) noexcept { *this = std::move(other); }
  LinearWeights& operator=(LinearWeights&& other) noexcept {
    view_ = std::exchange(other.view_, {});
    packed_ = std::exchange(other.packed_, nullptr);
    group_stride_ = std::exchange(other.group_stride_, 0);
    products_ = std::exchange(other.products_, FloatProducts::kFloat32);
    owned_ = std::move(other.owned_);
    return *this;
  }
  // Uses the file's bytes in place; `view.data` must outlive this object.
  static LinearWeights InPlace(const WeightView& view);
  // Repacks; the file's bytes are not used afterwards. `products` says how float weights are multiplied and
  // has no meaning for others, whose bits are those of InPlace.
  static LinearWeights Packed(const WeightView& view, ThreadPool& pool,
                              FloatProducts products = FloatProducts::kFloat32);
  // What lies in job.memory, packed before: by PackAll, or by another process.
  static LinearWeights AlreadyPacked(const PackJob& job);
  // Packed into `memory`, PackedBytes (not 0) aligned to 64, which must outlive this object. Matrices that
  // lie in the order in which they are read are read faster.
  static LinearWeights PackedInto(const WeightView& view, uint8_t* memory, ThreadPool& pool,
                                  FloatProducts products = FloatProducts::kFloat32);
  // PackJob::Together, packed.
  static std::pair<LinearWeights, LinearWeights> PackedTogether(
      const WeightView& a, const WeightView& b, uint8_t* memory, ThreadPool& pool,
      FloatProducts products = FloatProducts::kFloat32);
  // Bytes that Packed would allocate, a multiple of 64.
  static size_t PackedBytes(Encoding encoding, size_t num_rows, size_t num_cols,
                            FloatProducts products = FloatProducts::kFloat32);

  bool empty() const { return view_.num_rows == 0; }
  Encoding encoding() const { return view_.encoding; }
  size_t num_rows() const { return view_.num_rows; }
  size_t num_cols() const { return view_.num_cols; }
  bool is_packed() const { return packed_ != nullptr; }
  // Bytes read for one product with one row of activations.
  size_t read_bytes() const;
  const WeightView& view() const { return view_; }
  const uint8_t* packed() const { return packed_; }
  // Bytes from 16 packed rows to the next 16.
  size_t group_stride() const { return group_stride_; }
  FloatProducts products() const { return products_; }

 private:
  WeightView view_;
  const uint8_t* packed_ = nullptr;
  size_t group_stride_ = 0;
  FloatProducts products_ = FloatProducts::kFloat32;  // other than that only where packed floats
  AlignedArray<uint8_t> owned_;                       // packed_, unless someone else owns it
};

// What products read of the activations: float32, or 8-bit integers with one scale per 32 or per 256 values.
// All integer weights can be multiplied with either; the *_K encodings, whose blocks have 256 values, by
// custom meet the latter. Beside them, where float weights are packed for it, 14-bit integers with one scale
// per 32 values.
struct ActivationForm {
  size_t block8 = 0;   // values with one scale as 8-bit integers: 0 (none), 32 or 256
  bool int16 = false;  // also as blocks of 16-bit integers

  static const ActivationForm kFloat, kBlocks32, kBlocks256, kInt16;
  friend bool operator==(const ActivationForm&, const ActivationForm&) = default;
};
inline constexpr ActivationForm ActivationForm::kFloat = {};
inline constexpr ActivationForm ActivationForm::kBlocks32 = {.block8 = 32};
inline constexpr ActivationForm ActivationForm::kBlocks256 = {.block8 = 256};
inline constexpr ActivationForm ActivationForm::kInt16 = {.int16 = true};

// The form that weights are multiplied with. Where several matrices share one ActivationRows, CommonForm.
ActivationForm FormFor(const LinearWeights& weights);
ActivationForm FormFor(Encoding encoding, FloatProducts products = FloatProducts::kFloat32);
// What both need; for 8-bit integers 32 if either is 32, else 256 if either is 256.
ActivationForm CommonForm(ActivationForm a, ActivationForm b);

// Activations of one chunk, rounded once and used by several products.
class ActivationRows {
 public:
  // Room for max_rows rows of at most max_cols values, in forms that `most` has (CommonForm of all). Bytes()
  // of it are allocated here and never again.
  ActivationRows(size_t max_rows, size_t max_cols, ActivationForm most);
  // The same in `memory`, Bytes() aligned to 64, which must outlive this object.
  ActivationRows(uint8_t* memory, size_t max_rows, size_t max_cols, ActivationForm most);
  static size_t Bytes(size_t max_rows, size_t max_cols, ActivationForm most);

  // Takes x [num_rows, num_cols], rows `stride` values apart. Keeps the pointer for float weights (x must
  // stay unchanged until the products are done) and rounds to blocks as `form` says. A block with a value
  // that is not finite becomes NaN. For kBlocks256 num_cols must be a multiple of 256.
  void Set(const float* x, size_t num_rows, size_t num_cols, size_t stride, ActivationForm form,
           ThreadPool& pool);

  const float* x() const { return x_; }
  size_t num_rows() const { return num_rows_; }
  size_t num_cols() const { return num_cols_; }
  size_t stride() const { return stride_; }
  bool has_quantised() const { return form_.block8 != 0; }
  bool has_int16() const { return form_.int16; }
  // Layout private to kernels/linear/layout.h: tiles of interleaved rows.
  const uint8_t* quantised() const { return quantised_; }
  size_t quantised_row_bytes() const { return quantised_row_bytes_; }
  const uint8_t* int16() const { return int16_; }

 private:
  void Place(uint8_t* memory);

  size_t max_rows_;
  size_t max_cols_;
  ActivationForm most_;
  const float* x_ = nullptr;
  size_t num_rows_ = 0;
  size_t num_cols_ = 0;
  size_t stride_ = 0;
  ActivationForm form_;
  AlignedArray<uint8_t> owned_;  // the memory, unless someone else owns it
  uint8_t* quantised_ = nullptr;
  size_t quantised_row_bytes_ = 0;
  uint8_t* int16_ = nullptr;
};

// True if products with these weights read the 8-bit form of the activations.
bool NeedsQuantised(Encoding encoding);

// One product; several in one call share the parallel region (Q, K and V; gate and up).
struct MatMulJob {
  const LinearWeights* weights = nullptr;
  const float* bias = nullptr;  // [num_rows of the weights], or null
  float* out = nullptr;         // [num rows of activations, weights->num_rows()], rows out_stride apart
  size_t out_stride = 0;
  bool accumulate = false;  // out += instead of out =
};

// out[r, n] = sum_k W[n, k] x[r, k] + bias[n] for every job and every row r of x. x.num_cols() must equal
// each job's num_cols. Outputs must not overlap x or each other. Allocates nothing. Uses all threads of the
// pool, or only the caller where the work is too small to share.
void MatMul(const ActivationRows& x, std::span<const MatMulJob> jobs, ThreadPool& pool);

// What is done with outputs [first, last) of several jobs once they are there.
struct OutputsFn {
  const void* fn;
  void (*call)(const void* fn, size_t first, size_t last);
};

// MatMul for jobs whose matrices have equally many rows, and then `finish` for ranges that cover them:
// whoever has computed outputs [first, last) of every job, for all rows of x, hands them on at once, so that
// they are found in its own cache (gate and up, then the activation). Ranges begin at multiples of 16. finish
// writes to nothing but those outputs and must not throw. Allocates nothing.
void MatMulThen(const ActivationRows& x, std::span<const MatMulJob> jobs, ThreadPool& pool,
                const OutputsFn& finish);

template <typename Fn>
void MatMulThen(const ActivationRows& x, std::span<const MatMulJob> jobs, ThreadPool& pool,
                const Fn& finish) {
  const OutputsFn erased = {
      &finish, [](const void* fn, size_t first, size_t last) { (*static_cast<const Fn*>(fn))(first, last); }};
  MatMulThen(x, jobs, pool, erased);
}

// Row `row` of the matrix as float32: token embeddings. out[num_cols].
void DecodeRow(const WeightView& weights, size_t row, float* out);

}  // namespace mneme
