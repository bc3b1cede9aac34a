#include "kernels/experts/experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace mneme {
namespace {

size_t Rounded(size_t count) { return (count + 15) / 16 * 16; }

// Parts of the scratch memory.
struct Parts {
  float *weights, *gathered, *gate, *up, *product;
  int32_t* experts;

  Parts(float* scratch, size_t num_rows, size_t num_used, size_t dim, size_t model_dim) {
    const auto take = [&](size_t count) {
      float* const part = scratch;
      scratch += Rounded(count);
      return part;
    };
    weights = take(num_rows * num_used);
    experts = reinterpret_cast<int32_t*>(take(num_rows * num_used));
    gathered = take(num_rows * model_dim);
    product = take(num_rows * model_dim);
    // A lone row goes through all its experts at once.
    const size_t hidden = std::max(num_rows, num_used) * dim;
    gate = take(hidden);
    up = take(hidden);
  }
};

class Mixture {
 public:
  Mixture(const ExpertsCall& call, ThreadPool& pool)
      : call_(call),
        pool_(pool),
        dim_(call.experts[0].up->num_rows()),
        model_dim_(call.experts[0].up->num_cols()),
        parts_(call.scratch, call.num_rows, call.router.num_used, dim_, model_dim_) {}

  void Run() {
    Route(call_.router, call_.logits, call_.correction, call_.num_rows, parts_.experts, parts_.weights);
    std::fill_n(call_.out, call_.num_rows * model_dim_, 0.0f);
    if (call_.num_rows == 1) {
      RunOneRow();
      return;
    }
    std::vector<size_t> rows;  // of one expert
    for (size_t expert = 0; expert < call_.experts.size(); ++expert) {
      rows.clear();
      const size_t num_used = call_.router.num_used;
      for (size_t i = 0; i < call_.num_rows * num_used; ++i) {
        if (parts_.experts[i] == static_cast<int32_t>(expert)) rows.push_back(i);
      }
      if (!rows.empty()) RunExpert(call_.experts[expert], rows);
    }
  }

 private:
  ActivationRows Rows(const float* x, size_t num_rows, size_t num_cols, ActivationForm form) const {
    ActivationRows rows(call_.rows_memory, num_rows, num_cols, form);
    rows.Set(x, num_rows, num_cols, num_cols, form, pool_);
    return rows;
  }

  ActivationForm InputForm(const ExpertMatrices& e) const {
    const ActivationForm up = FormFor(*e.up);
    return e.gate == nullptr ? up : CommonForm(up, FormFor(*e.gate));
  }

  // Hidden values of one row and one expert, in place of its gate, or of up where there is none. choice: of
  // the expert, in the list of all rows' choices.
  void Activated(size_t choice, float* gate, float* up, size_t count) const {
    if (call_.weighs_inputs) {
      // The products are linear in what was read.
      if (gate != nullptr) ScaleInPlace(gate, WeightOf(choice), count);
      ScaleInPlace(up, WeightOf(choice), count);
    }
    if (gate == nullptr) {
      Activate(call_.activation, up, count);
    } else if (call_.clamp > 0) {
      for (size_t i = 0; i < count; ++i) {
        const float g = std::min(gate[i], call_.clamp);
        const float u = std::clamp(up[i], -call_.clamp, call_.clamp);
        gate[i] = (u + 1.0f) * (g / (1.0f + std::exp(-1.702f * g)));
      }
    } else {
      ActivateGated(call_.activation, gate, up, count);
    }
  }

  // The row is rounded once, and the first products of all its experts share a parallel region.
  void RunOneRow() {
    const size_t num_used = call_.router.num_used;
    std::vector<MatMulJob> jobs;
    for (size_t i = 0; i < num_used; ++i) {
      const ExpertMatrices& e = call_.experts[static_cast<size_t>(parts_.experts[i])];
      if (e.gate != nullptr) jobs.push_back({e.gate, e.gate_bias, parts_.gate + i * dim_, dim_, false});
      jobs.push_back({e.up, e.up_bias, parts_.up + i * dim_, dim_, false});
    }
    const bool is_gated = call_.experts[0].gate != nullptr;
    MatMulThen(Rows(call_.x, 1, model_dim_, InputForm(call_.experts[0])), jobs, pool_,
               [&](size_t first, size_t last) {
                 for (size_t i = 0; i < num_used; ++i) {
                   const size_t at = i * dim_ + first;
                   Activated(i, is_gated ? parts_.gate + at : nullptr, parts_.up + at, last - first);
                 }
               });
    const float* const hidden = is_gated ? parts_.gate : parts_.up;
    for (size_t i = 0; i < num_used; ++i) {
      const ExpertMatrices& e = call_.experts[static_cast<size_t>(parts_.experts[i])];
      Down(e, hidden + i * dim_, 1);
      AddWeighted(i, parts_.product);
    }
  }

  // at: of its rows in the list of choices.
  void RunExpert(const ExpertMatrices& e, const std::vector<size_t>& at) {
    const size_t num_rows = at.size();
    for (size_t i = 0; i < num_rows; ++i) {
      std::memcpy(parts_.gathered + i * model_dim_, call_.x + at[i] / call_.router.num_used * model_dim_,
                  model_dim_ * sizeof(float));
    }
    std::vector<MatMulJob> jobs;
    if (e.gate != nullptr) jobs.push_back({e.gate, e.gate_bias, parts_.gate, dim_, false});
    jobs.push_back({e.up, e.up_bias, parts_.up, dim_, false});
    MatMulThen(Rows(parts_.gathered, num_rows, model_dim_, InputForm(e)), jobs, pool_,
               [&](size_t first, size_t last) {
                 for (size_t row = 0; row < num_rows; ++row) {
                   const size_t begin = row * dim_ + first;
                   Activated(at[row], e.gate != nullptr ? parts_.gate + begin : nullptr, parts_.up + begin,
                             last - first);
                 }
               });
    Down(e, e.gate != nullptr ? parts_.gate : parts_.up, num_rows);
    for (size_t i = 0; i < num_rows; ++i) AddWeighted(at[i], parts_.product + i * model_dim_);
  }

  void Down(const ExpertMatrices& e, const float* hidden, size_t num_rows) {
    const MatMulJob job{e.down, e.down_bias, parts_.product, model_dim_, false};
    MatMul(Rows(hidden, num_rows, dim_, FormFor(*e.down)), {&job, 1}, pool_);
  }

  float WeightOf(size_t choice) const {
    const float weight = parts_.weights[choice];
    return call_.expert_scale == nullptr ? weight : weight * call_.expert_scale[parts_.experts[choice]];
  }

  void AddWeighted(size_t choice, const float* product) {
    const float weight = call_.weighs_inputs ? 1.0f : WeightOf(choice);
    float* const out = call_.out + choice / call_.router.num_used * model_dim_;
    for (size_t i = 0; i < model_dim_; ++i) out[i] += weight * product[i];
  }

  const ExpertsCall& call_;
  ThreadPool& pool_;
  const size_t dim_;
  const size_t model_dim_;
  const Parts parts_;
};

}  // namespace

size_t ExpertsScratchFloats(size_t num_rows, size_t num_used, size_t dim, size_t model_dim) {
  return 2 * Rounded(num_rows * num_used) + 2 * Rounded(num_rows * model_dim) +
         2 * Rounded(std::max(num_rows, num_used) * dim);
}

void RunExperts(const ExpertsCall& call, ThreadPool& pool) {
  MNEME_CHECK(call.experts.size() == call.router.num_experts);
  Mixture(call, pool).Run();
}

}  // namespace mneme
