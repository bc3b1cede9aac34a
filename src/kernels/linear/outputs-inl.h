// Where the kernels of linear.cc begin and end: sums of groups and tiles of outputs, and the streams that a
// task with few rows reads. Included by linear.cc once per target.
#include <algorithm>
#include <cstring>

#include "kernels/linear/layout.h"
#include "kernels/linear/tile-inl.h"

#if defined(MNEME_KERNELS_LINEAR_OUTPUTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_LINEAR_OUTPUTS_INL_H_
#undef MNEME_KERNELS_LINEAR_OUTPUTS_INL_H_
#else
#define MNEME_KERNELS_LINEAR_OUTPUTS_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::linear::HWY_NAMESPACE {

// The outputs of one group of a job.
struct GroupOutputs {
  GroupOutputs(const MatMulJob& job, size_t group)
      : first(group * kGroupRows), count(std::min(kGroupRows, job.weights->num_rows() - first)) {}
  size_t first;
  size_t count;  // outputs; the last group may have fewer than kGroupRows
};

// What the sums of rows [row, row + rows) and of one group start from: nothing, the bias, the old output, or,
// after the first chunk, what was stored before. Slot `g` of the totals.
inline void LoadGroup(const MatMulJob& job, size_t row, size_t rows, size_t group, size_t g, bool first,
                      Totals& totals) {
  const GroupOutputs outputs(job, group);
  for (size_t i = 0; i < rows; ++i) {
    float* HWY_RESTRICT values = totals.values[i] + g * kGroupRows;
    const float* HWY_RESTRICT out = job.out + (row + i) * job.out_stride + outputs.first;
    if (outputs.count < kGroupRows || (first && !job.accumulate)) {
      std::memset(values, 0, kGroupRows * sizeof(float));
    }
    if (!first || job.accumulate) std::memcpy(values, out, outputs.count * sizeof(float));
    if (first && job.bias != nullptr) {
      for (size_t n = 0; n < outputs.count; ++n) values[n] += job.bias[outputs.first + n];
    }
  }
}

inline void StoreGroup(const MatMulJob& job, size_t row, size_t rows, size_t group, size_t g,
                       const Totals& totals) {
  const GroupOutputs outputs(job, group);
  for (size_t i = 0; i < rows; ++i) {
    std::memcpy(job.out + (row + i) * job.out_stride + outputs.first, totals.values[i] + g * kGroupRows,
                outputs.count * sizeof(float));
  }
}

// Sums of a group that is computed and not stored.
inline void ClearGroup(size_t rows, size_t g, Totals& totals) {
  for (size_t i = 0; i < rows; ++i)
    std::memset(totals.values[i] + g * kGroupRows, 0, kGroupRows * sizeof(float));
}

// The same for kGroups groups from `group`; those at or beyond `end` are not stored.
inline void LoadTotals(const MatMulJob& job, size_t row, size_t rows, size_t group, size_t end, bool first,
                       Totals& totals) {
  for (size_t g = 0; g < kGroups; ++g) {
    if (group + g < end) {
      LoadGroup(job, row, rows, group + g, g, first, totals);
    } else {
      ClearGroup(rows, g, totals);
    }
  }
}

inline void StoreTotals(const MatMulJob& job, size_t row, size_t rows, size_t group, size_t end,
                        const Totals& totals) {
  for (size_t g = 0; g < kGroups && group + g < end; ++g) StoreGroup(job, row, rows, group + g, g, totals);
}

// Where the sums of row tiles run, for kGroups groups of a job from `group`: in the output itself, or in
// `totals` where groups are missing or start from a bias and the old output both.
class OutputTiles {
 public:
  OutputTiles(const MatMulJob& job, size_t group, size_t end, bool is_first)
      : job_(job), group_(group), end_(end), is_first_(is_first), first_output_(group * kGroupRows) {
    const bool whole =
        group + kGroups <= end && first_output_ + kGroups * kGroupRows <= job.weights->num_rows();
    is_direct_ = whole && !(job.accumulate && job.bias != nullptr);
  }
  TileSums Begin(size_t row, size_t rows, Totals& totals) const {
    if (!is_direct_) {
      LoadTotals(job_, row, rows, group_, end_, is_first_, totals);
      return {.from = totals.values[0],
              .from_stride = kGroups * kGroupRows,
              .to = totals.values[0],
              .to_stride = kGroups * kGroupRows};
    }
    alignas(64) static constexpr float kZeros[kGroups * kGroupRows] = {};
    float* const to = job_.out + row * job_.out_stride + first_output_;
    const bool fresh = is_first_ && !job_.accumulate;
    return {.from = !fresh                 ? to
                    : job_.bias != nullptr ? job_.bias + first_output_
                                           : kZeros,
            .from_stride = fresh ? 0 : job_.out_stride,
            .to = to,
            .to_stride = job_.out_stride};
  }
  // Asks for what Begin will need.
  void Ask(size_t row, size_t rows) const {
    const size_t num_groups = std::min(kGroups, end_ - group_);
    for (size_t i = 0; i < rows; ++i) {
      const float* const to = job_.out + (row + i) * job_.out_stride + first_output_;
      for (size_t g = 0; g < num_groups; ++g) hwy::Prefetch(to + g * kGroupRows);
    }
  }
  void End(size_t row, size_t rows, const Totals& totals) const {
    if (!is_direct_) StoreTotals(job_, row, rows, group_, end_, totals);
  }

 private:
  const MatMulJob& job_;
  size_t group_, end_;
  bool is_first_;
  size_t first_output_;
  bool is_direct_;
};

// The groups of a task in kGroups streams, each the groups of one part of the task in order: memory is read
// as so many runs without a jump, which is what hardware prefetchers follow. What they do not follow is asked
// for by the kernel (row-inl.h).
struct Streams {
  Streams(size_t task_begin, size_t task_end)
      : begin(task_begin), end(task_end), length(CeilDivide(task_end - task_begin, kGroups)) {}

  size_t Group(size_t i, size_t g) const { return begin + g * length + i; }
  // The last stream may be shorter.
  bool Has(size_t i, size_t g) const { return Group(i, g) < end; }
  size_t begin, end;
  size_t length;
};

// What the streams have at step `i`. Where one has ended the first is computed twice, and stored once.
class StreamStep {
 public:
  StreamStep(const JobGroups& groups, const Streams& streams, size_t i) {
    for (size_t g = 0; g < kGroups; ++g) {
      has_[g] = streams.Has(i, g);
      places_[g] = groups.At(streams.Group(i, has_[g] ? g : 0));
    }
  }
  bool has(size_t g) const { return has_[g]; }
  const GroupPlace& place(size_t g) const { return places_[g]; }
  // Where the weights are, `offset` bytes into the groups.
  void Locate(size_t offset, const uint8_t** at) const {
    for (size_t g = 0; g < kGroups; ++g) at[g] = places_[g].packed() + offset;
  }
  void Load(size_t rows, Totals& totals) const {
    for (size_t g = 0; g < kGroups; ++g) {
      if (has_[g]) {
        LoadGroup(*places_[g].job, 0, rows, places_[g].group, g, true, totals);
      } else {
        ClearGroup(rows, g, totals);
      }
    }
  }
  void Store(size_t rows, const Totals& totals) const {
    for (size_t g = 0; g < kGroups && has_[g]; ++g)
      StoreGroup(*places_[g].job, 0, rows, places_[g].group, g, totals);
  }

 private:
  GroupPlace places_[kGroups];
  bool has_[kGroups];
};

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
