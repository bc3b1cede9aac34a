// Products: what runs per task, for each target, and how a call is cut into tasks.
#include "kernels/linear.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "formats/quant.h"
#include "kernels/linear_layout.h"
#include "kernels/simd_targets.h"

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/linear_float-inl.h"
#include "kernels/linear_tile-inl.h"
#include "kernels/linear_unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::linear::HWY_NAMESPACE {

// Row tiles whose activations, of one chunk, stay in the second-level cache while all weights pass.
constexpr size_t kTilesPerPass = 86;

// What the sums of rows [row, row + rows) and the outputs from group `group` start from: nothing, the bias,
// the old output, or, after the first chunk, what was stored before.
void LoadTotals(const MatMulJob& job, size_t row, size_t rows, size_t group, bool first, Totals& totals) {
  const size_t n0 = group * kGroupRows;
  const size_t count = std::min(kGroups * kGroupRows, job.weights->num_rows() - n0);
  for (size_t i = 0; i < rows; ++i) {
    float* HWY_RESTRICT values = totals.values[i];
    const float* HWY_RESTRICT out = job.out + (row + i) * job.out_stride + n0;
    if (count < kGroups * kGroupRows || (first && !job.accumulate)) {
      std::memset(values, 0, sizeof(totals.values[i]));
    }
    if (!first || job.accumulate) std::memcpy(values, out, count * sizeof(float));
    if (first && job.bias != nullptr) {
      for (size_t n = 0; n < count; ++n) values[n] += job.bias[n0 + n];
    }
  }
}

void StoreTotals(const MatMulJob& job, size_t row, size_t rows, size_t group, size_t end,
                 const Totals& totals) {
  const size_t n0 = group * kGroupRows;
  const size_t count =
      std::min({kGroups * kGroupRows, job.weights->num_rows() - n0, (end - group) * kGroupRows});
  for (size_t i = 0; i < rows; ++i) {
    std::memcpy(job.out + (row + i) * job.out_stride + n0, totals.values[i], count * sizeof(float));
  }
}

// One chunk of kGroups groups; a group at or beyond `end` repeats the one before and is not stored.
void Unpack(const LinearWeights& weights, size_t group, size_t end, size_t first_block, size_t blocks,
            bool to_bytes, UnpackScratch* scratch, UnpackedChunk* chunks) {
  const size_t group_bytes = PackedGroupBytes(weights.encoding(), weights.num_cols());
  const size_t chunk_bytes = PackedChunkBytes(weights.encoding(), kChunkBlocks);
  for (size_t g = 0; g < kGroups; ++g) {
    if (group + g >= end) {
      chunks[g] = chunks[g - 1];
    } else if (weights.is_packed()) {
      const uint8_t* start = weights.packed() + (group + g) * group_bytes;
      const uint8_t* packed = start + first_block / kChunkBlocks * chunk_bytes;
      const bool last = (first_block + blocks) * kBlockCols == weights.num_cols();
      const uint8_t* next = last ? start + kGroups * group_bytes : packed + chunk_bytes;
      chunks[g] = UnpackPacked(weights.encoding(), packed, next, blocks, to_bytes, scratch[g]);
    } else {
      chunks[g] = UnpackStored(weights.view(), group + g, first_block * kBlockCols, blocks, scratch[g]);
    }
  }
}

// Few rows: each group's weights are read from end to end, sums stay in the cache.
void MultiplyFewTiles(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  const BlockKind kind = KindOf(job.weights->encoding());
  // Packed weights are taken apart in registers; the scalar kernel reads bytes.
  const bool to_bytes = !job.weights->is_packed() || HWY_TARGET == HWY_SCALAR;
  const ChunkLayout layout = to_bytes ? ChunkLayout::kBytes : PackedLayout(job.weights->encoding());
  const size_t num_blocks = x.num_cols() / kBlockCols;
  const size_t num_tiles = CeilDivide(x.num_rows(), kActTile);
  UnpackScratch scratch[kGroups];
  UnpackedChunk chunks[kGroups];
  Totals totals;
  for (size_t group = begin; group < end; group += kGroups) {
    LoadTotals(job, 0, x.num_rows(), group, true, totals);
    for (size_t block = 0; block < num_blocks; block += kChunkBlocks) {
      const size_t blocks = std::min(kChunkBlocks, num_blocks - block);
      Unpack(*job.weights, group, end, block, blocks, to_bytes, scratch, chunks);
      for (size_t t = 0; t < num_tiles; ++t) {
        float* values = totals.values[t * kActTile];
        const TileSums sums = {.from = values,
                               .from_stride = kGroups * kGroupRows,
                               .to = values,
                               .to_stride = kGroups * kGroupRows};
        MultiplyTile(kind, layout, chunks, TileOf(x, t), block, blocks, sums);
        for (UnpackedChunk& chunk : chunks) chunk.next = nullptr;  // asked for once
      }
    }
    StoreTotals(job, 0, x.num_rows(), group, end, totals);
  }
}

// Many rows: a chunk of weights stays in the first-level cache while the rows' tiles pass.
void MultiplyTiles(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  const BlockKind kind = KindOf(job.weights->encoding());
  const size_t num_tiles = CeilDivide(x.num_rows(), kActTile);
  const size_t num_blocks = x.num_cols() / kBlockCols;
  UnpackScratch scratch[kGroups];
  UnpackedChunk chunks[kGroups];
  Totals totals;
  alignas(64) static constexpr float zeros[kGroups * kGroupRows] = {};
  for (size_t pass = 0; pass < num_tiles; pass += kTilesPerPass) {
    const size_t pass_end = std::min(num_tiles, pass + kTilesPerPass);
    for (size_t block = 0; block < num_blocks; block += kChunkBlocks) {
      const size_t blocks = std::min(kChunkBlocks, num_blocks - block);
      for (size_t group = begin; group < end; group += kGroups) {
        Unpack(*job.weights, group, end, block, blocks, true, scratch, chunks);
        // Sums of whole groups run in the output itself.
        const size_t n0 = group * kGroupRows;
        const bool whole = group + kGroups <= end && n0 + kGroups * kGroupRows <= job.weights->num_rows();
        const bool direct = whole && !(job.accumulate && job.bias != nullptr);
        for (size_t t = pass; t < pass_end; ++t) {
          const ActTileView tile = TileOf(x, t);
          const size_t row = t * kActTile;
          TileSums sums = {.from = totals.values[0],
                           .from_stride = kGroups * kGroupRows,
                           .to = totals.values[0],
                           .to_stride = kGroups * kGroupRows};
          if (direct) {
            sums.to = job.out + row * job.out_stride + n0;
            sums.to_stride = job.out_stride;
            const bool fresh = block == 0 && !job.accumulate;
            sums.from = !fresh ? sums.to : job.bias != nullptr ? job.bias + n0 : zeros;
            sums.from_stride = fresh ? 0 : job.out_stride;
          } else {
            LoadTotals(job, row, tile.rows, group, block == 0, totals);
          }
          MultiplyTile(kind, ChunkLayout::kBytes, chunks, tile, block, blocks, sums);
          if (!direct) StoreTotals(job, row, tile.rows, group, end, totals);
          for (UnpackedChunk& chunk : chunks) chunk.next = nullptr;
        }
      }
    }
  }
}

template <Encoding kEncoding>
void MultiplyPackedFloat(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  constexpr size_t kColBytes = kGroupRows * kWeightBytes<kEncoding>;
  const size_t group_bytes = PackedGroupBytes(kEncoding, x.num_cols());
  const uint8_t* at[kGroups];
  const auto locate = [&](size_t group, size_t col) {
    for (size_t g = 0; g < kGroups; ++g) {
      at[g] = job.weights->packed() + std::min(group + g, end - 1) * group_bytes + col * kColBytes;
    }
  };
  Totals totals;
  if (x.num_rows() <= kFloatTile) {
    // Few rows: weights pass once, in pieces that stay in the first-level cache for the second tile of rows.
    const size_t tile = x.num_rows() <= 6 ? x.num_rows() : CeilDivide(x.num_rows(), 2);
    const size_t piece = x.num_rows() <= 6 ? x.num_cols() : kFloatChunkCols;
    for (size_t group = begin; group < end; group += kGroups) {
      LoadTotals(job, 0, x.num_rows(), group, true, totals);
      for (size_t col = 0; col < x.num_cols(); col += piece) {
        const size_t cols = std::min(piece, x.num_cols() - col);
        locate(group, col);
        for (size_t row = 0; row < x.num_rows(); row += tile) {
          const size_t rows = std::min(tile, x.num_rows() - row);
          const size_t skip = col + cols < x.num_cols() ? 1 : (kGroups - 1) * group_bytes;
          PackedFloatDirect<kEncoding>(at, x.x() + row * x.stride() + col, x.stride(), rows, cols,
                                       row == 0 ? skip : 0, totals.values[row], kGroups * kGroupRows);
        }
      }
      StoreTotals(job, 0, x.num_rows(), group, end, totals);
    }
    return;
  }
  alignas(64) float interleaved[kFloatChunkCols * kFloatTile] = {};
  for (size_t col = 0; col < x.num_cols(); col += kFloatChunkCols) {
    const size_t cols = std::min(kFloatChunkCols, x.num_cols() - col);
    for (size_t row = 0; row < x.num_rows(); row += kFloatTile) {
      const size_t rows = std::min(kFloatTile, x.num_rows() - row);
      InterleaveActivations(x.x() + row * x.stride() + col, x.stride(), rows, cols, interleaved);
      for (size_t group = begin; group < end; group += kGroups) {
        locate(group, col);
        // Sums of whole groups run in the output itself.
        const size_t n0 = group * kGroupRows;
        const bool whole = rows == kFloatTile && group + kGroups <= end &&
                           n0 + kGroups * kGroupRows <= job.weights->num_rows();
        if (!whole || col == 0) LoadTotals(job, row, rows, group, col == 0, totals);
        if (whole && col == 0) StoreTotals(job, row, rows, group, end, totals);
        float* sums = whole ? job.out + row * job.out_stride + n0 : totals.values[0];
        PackedFloatInterleaved<kEncoding>(at, interleaved, rows, cols, sums,
                                          whole ? job.out_stride : kGroups * kGroupRows);
        if (!whole) StoreTotals(job, row, rows, group, end, totals);
      }
    }
  }
}

template <Encoding kEncoding>
void MultiplyStoredFloat(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  const WeightView& view = job.weights->view();
  const size_t first = begin * kGroupRows;
  const size_t last = std::min(end * kGroupRows, view.num_rows);
  for (size_t row = 0; row < x.num_rows(); row += kStoredRows) {
    const size_t rows = std::min(kStoredRows, x.num_rows() - row);
    for (size_t n = first; n < last; n += kStoredWeights) {
      const uint8_t* at[kStoredWeights];
      for (size_t j = 0; j < kStoredWeights; ++j) {
        at[j] = view.data + std::min(n + j, view.num_rows - 1) * view.row_bytes();
      }
      float sums[kStoredRows][kStoredWeights];
      StoredFloatRows<kEncoding>(at, x.x() + row * x.stride(), x.stride(), rows, x.num_cols(), sums);
      for (size_t i = 0; i < rows; ++i) {
        float* out = job.out + (row + i) * job.out_stride + n;
        for (size_t j = 0; j < std::min(kStoredWeights, last - n); ++j) {
          const float start =
              (job.accumulate ? out[j] : 0.0f) + (job.bias != nullptr ? job.bias[n + j] : 0.0f);
          out[j] = start + sums[i][j];
        }
      }
    }
  }
}

template <Encoding kEncoding>
void MultiplyFloat(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  if (job.weights->is_packed()) {
    MultiplyPackedFloat<kEncoding>(job, x, begin, end);
  } else {
    MultiplyStoredFloat<kEncoding>(job, x, begin, end);
  }
}

// Outputs of groups [begin, end) of one job.
void MultiplyGroups(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  switch (job.weights->encoding()) {
    case Encoding::kF32:
      return MultiplyFloat<Encoding::kF32>(job, x, begin, end);
    case Encoding::kF16:
      return MultiplyFloat<Encoding::kF16>(job, x, begin, end);
    case Encoding::kBF16:
      return MultiplyFloat<Encoding::kBF16>(job, x, begin, end);
    default:
      if (x.num_rows() <= kFewRows) return MultiplyFewTiles(job, x, begin, end);
      return MultiplyTiles(job, x, begin, end);
  }
}

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {
namespace linear {
HWY_EXPORT(MultiplyGroups);

void Multiply(const MatMulJob& job, const ActivationRows& x, size_t begin, size_t end) {
  HWY_DYNAMIC_DISPATCH(MultiplyGroups)(job, x, begin, end);
}
}  // namespace linear

namespace {

using linear::kGroupRows;

// A call below both limits takes a few microseconds on one thread, less than sharing it would cost.
constexpr size_t kBytesWorthSharing = 96 << 10;
constexpr size_t kProductsWorthSharing = 512 << 10;
// Tasks per thread where weights are read once: enough that threads end together, few enough that each reads
// long runs of memory.
constexpr size_t kReadingTasksPerThread = 12;
// With many rows of activations a task brings them into its caches once: larger tasks, as many for each
// thread, of at most so many groups that a chunk of their weights stays in the second-level cache.
constexpr size_t kManyRows = linear::kFloatTile + 1;
constexpr size_t kMaxTaskGroups = 32;

// Groups per task.
size_t TaskGroups(size_t num_groups, size_t num_rows, size_t num_threads) {
  size_t per_thread = kReadingTasksPerThread;
  if (num_rows >= kManyRows) {
    per_thread = std::max<size_t>(2, linear::CeilDivide(num_groups, num_threads * kMaxTaskGroups));
  }
  return linear::RoundUp(linear::CeilDivide(num_groups, num_threads * per_thread), 2);
}

size_t NumGroups(const MatMulJob& job) { return linear::CeilDivide(job.weights->num_rows(), kGroupRows); }

void CheckJob(const MatMulJob& job, const ActivationRows& x) {
  MNEME_CHECK(job.weights != nullptr && job.out != nullptr);
  MNEME_CHECK(job.weights->num_cols() == x.num_cols() && x.num_cols() > 0);
  MNEME_CHECK(x.has_quantised() || !NeedsQuantised(job.weights->encoding()));
}

}  // namespace

ActivationForm FormFor(Encoding encoding) {
  if (linear::IsFloat(encoding)) return ActivationForm::kFloat;
  return EncodingBlockValues(encoding) == 256 ? ActivationForm::kBlocks256 : ActivationForm::kBlocks32;
}

ActivationForm CommonForm(ActivationForm a, ActivationForm b) {
  if (a == ActivationForm::kBlocks32 || b == ActivationForm::kBlocks32) return ActivationForm::kBlocks32;
  return std::max(a, b);
}

bool NeedsQuantised(Encoding encoding) { return FormFor(encoding) != ActivationForm::kFloat; }

void MatMul(const ActivationRows& x, std::span<const MatMulJob> jobs, ThreadPool& pool) {
  if (x.num_rows() == 0) return;
  size_t num_groups = 0;
  size_t bytes = 0;
  size_t products = 0;
  for (const MatMulJob& job : jobs) {
    CheckJob(job, x);
    num_groups += NumGroups(job);
    bytes += job.weights->read_bytes();
    products += job.weights->num_rows() * x.num_cols() * x.num_rows();
  }
  if (bytes < kBytesWorthSharing && products < kProductsWorthSharing) {
    for (const MatMulJob& job : jobs) linear::Multiply(job, x, 0, NumGroups(job));
    return;
  }
  const size_t task_groups = TaskGroups(num_groups, x.num_rows(), pool.num_threads());
  size_t num_tasks = 0;
  for (const MatMulJob& job : jobs) num_tasks += linear::CeilDivide(NumGroups(job), task_groups);
  pool.Run(num_tasks, [&](size_t task, size_t) {
    for (const MatMulJob& job : jobs) {
      const size_t job_tasks = linear::CeilDivide(NumGroups(job), task_groups);
      if (task < job_tasks) {
        const size_t begin = task * task_groups;
        const size_t end = std::min(begin + task_groups, NumGroups(job));
        linear::Multiply(job, x, begin, end);
        return;
      }
      task -= job_tasks;
    }
  });
}

void DecodeRow(const WeightView& weights, size_t row, float* out) {
  MNEME_CHECK(row < weights.num_rows);
  DecodeBlocks(weights.encoding, weights.data + row * weights.row_bytes(), weights.num_cols, out);
}

}  // namespace mneme
#endif  // HWY_ONCE
