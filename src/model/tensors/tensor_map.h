// Finds the weights of a model in its file: by canonical name, with the shape that the plan demands,
// whatever the container calls them and however it fuses or orders them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/aligned.h"
#include "formats/tensor_source.h"
#include "kernels/linear/linear.h"
#include "model/families/family.h"

namespace mneme {

// Rows of a matrix where they lie: runs of consecutive rows, in order.
struct RowRun {
  const uint8_t* data;
  size_t num_rows;
};

struct MatrixRows {
  std::string name;  // the tensor's, for messages
  Encoding encoding = Encoding::kF32;
  size_t num_rows = 0;
  size_t num_cols = 0;
  std::vector<RowRun> runs;
  std::vector<float> factors;  // of the rows; empty: none
};

// "blk.3.attn_q.weight", as this family's GGUF files have it. layer -1: outside layers.
std::string NameInGguf(const Family& family, std::string_view canonical, std::string_view suffix, int layer);

// A layer with the gated delta rule, its value heads in the order of RecurShape::is_tiled.
struct DeltaRows {
  MatrixRows qkv, gate, alpha, beta, out;
  std::vector<float> convolution;  // [num_channels, conv_width]
  std::vector<float> step_bias, rate, norm;
};

// The matrices of each head that unfold a latent: [rank, plain_dim] and [head_value_dim, rank].
struct LatentRows {
  std::vector<MatrixRows> keys, values;
};

// One thread at a time. The source, the family, the hyperparameters and the plan must outlive it; so
// must the map outlive the MatrixRows that it gave, unless TakeOwned() has moved the memory elsewhere.
class TensorMap {
 public:
  TensorMap(const TensorSource& source, const Family& family, const ModelPlan& plan);

  // Whether the weight or its fused form is there; usable before the plan is known.
  static bool HasWeight(const TensorSource& source, const Family& family, std::string_view canonical,
                        int layer, std::string_view suffix = "weight");
  // Rows of the token embedding matrix. Throws Error(kFile) if there is none.
  static uint64_t EmbeddingRows(const TensorSource& source, const Family& family);

  // A matrix [num_rows, num_cols]; layer -1 for those outside layers. Empty if it is absent and not required.
  // Throws Error(kFile) for another shape, Error(kUnsupported) for an encoding that cannot be multiplied.
  std::optional<MatrixRows> Find(std::string_view canonical, int layer, size_t num_rows, size_t num_cols,
                                 bool is_required);
  // The matrix [num_rows, num_cols] of one expert of `count`, out of its own tensor or one of three
  // dimensions [count, num_rows, num_cols]. Throws as Find.
  MatrixRows FindExpert(std::string_view canonical, int layer, size_t expert, size_t count, size_t num_rows,
                        size_t num_cols);
  // Its bias [num_rows]: a vector of its own, or a row of all of them.
  std::vector<float> FindExpertBias(std::string_view canonical, int layer, size_t expert, size_t count,
                                    size_t num_rows);
  // Rows first .. first + num_rows of a matrix of all_rows. Throws as Find.
  MatrixRows FindPart(std::string_view canonical, int layer, size_t all_rows, size_t num_cols, size_t first,
                      size_t num_rows);
  // WeightVisitor::Adapter: rows first .. first + num_rows of it. Throws as Find.
  MatrixRows FindAdapter(std::string_view canonical, int layer, size_t source, size_t number, size_t all_rows,
                         size_t num_cols, size_t first, size_t num_rows);
  // The numbers of a layer's xIELU as files have them: alpha_p, alpha_n, beta, eps. A GGUF has them in its
  // metadata, under names without the architecture.
  static constexpr std::string_view kXieluNames[] = {"xielu.alpha_p", "xielu.alpha_n", "xielu.beta",
                                                     "xielu.eps"};
  std::array<float, 4> FindXielu(int layer);
  // WeightVisitor::PerHead, all numbers of all heads.
  std::vector<float> FindPerHead(std::string_view canonical, int layer, size_t count, bool is_rate);
  // Both in one matrix, keys as they unfold, or each in one of three dimensions, keys transposed.
  LatentRows FindLatent(const LatentPlan& plan, int layer);
  // Queries, keys and values may also lie in matrices of their own, and so may their convolutions, whose rows
  // are taken in order, however they are cut (OLMo Hybrid).
  DeltaRows FindDelta(const DeltaPlan& plan, int layer);
  // The query, key or value matrix (part 0, 1, 2), out of its own tensor or the fused one; or the gate of the
  // outputs (part 3), which stands with the queries, head by head.
  std::optional<MatrixRows> FindQkv(const AttentionPlan& plan, int part, int layer);
  // The gate matrix (part 0) or the up matrix (part 1) of a gated feed-forward network.
  std::optional<MatrixRows> FindGateUp(size_t dim, int part, int layer);

  // A vector [count] as float32, or empty if absent and not required. suffix: "weight" or "bias".
  std::vector<float> FindVector(std::string_view canonical, std::string_view suffix, int layer, size_t count,
                                bool is_required);
  std::vector<float> FindQkvBias(const AttentionPlan& plan, int part, int layer);
  std::vector<float> FindGateUpBias(size_t dim, int part, int layer);
  // Weight or bias of a norm: a vector, or one per head, concatenated. Adds what the container leaves out.
  std::vector<float> FindNorm(std::string_view canonical, std::string_view suffix, int layer,
                              bool is_required, std::span<const size_t> allowed_counts);

  // Throws Error(kUnsupported) naming a tensor that nothing asked for: a model with parts that the family
  // does not have must not run without them.
  void CheckAllUsed() const;

  // Rows in one piece: in place where they are consecutive and aligned, else copied to memory of this map, as
  // float32 if they have factors.
  WeightView Contiguous(const MatrixRows& rows);
  // The memory behind transposed, gathered and realigned matrices.
  // The matrix as float32, in memory that the map owns; itself if it is that already.
  WeightView Decoded(const WeightView& view);
  std::vector<AlignedArray<uint8_t>> TakeOwned() { return std::move(owned_); }
  size_t owned_bytes() const { return owned_bytes_; }

 private:
  // The tensor that holds a weight of an expert; *is_fused: gate and up in one.
  const TensorInfo* ExpertTensor(std::string_view canonical, std::string_view suffix, int layer,
                                 size_t expert, bool* is_fused);
  struct Part {
    size_t first;  // in the fused matrix when concatenated
    size_t num_rows;
  };
  const TensorInfo* Raw(std::string_view canonical, std::string_view suffix, int layer);
  MatrixRows Matrix(const TensorInfo& tensor, size_t num_rows, size_t num_cols);
  // Every step-th row from `first` on of what a folder keeps as blocks and scales, as GGUF has it.
  MatrixRows JoinMxfp4(const TensorInfo& tensor, size_t first, size_t step, size_t num_rows, size_t num_cols);
  // Ternary weights as blocks, or as float32 where those cannot have the scale.
  MatrixRows JoinTernary(const TensorInfo& tensor);
  MatrixRows FindDeltaParts(const RecurShape& shape, int layer);
  std::vector<float> FindDeltaConvolution(const RecurShape& shape, int layer);
  MatrixRows Select(const MatrixRows& fused, const std::vector<Part>& parts) const;
  // In memory of this map; as float32 if it lies in blocks. `rows` is one run.
  MatrixRows Transposed(const MatrixRows& rows);
  std::vector<Part> QkvParts(const AttentionPlan& plan, int part) const;
  uint8_t* Allocate(size_t bytes);

  const TensorSource& source_;
  const Family& family_;
  const ModelPlan& plan_;
  std::unordered_set<const TensorInfo*> used_;
  std::vector<AlignedArray<uint8_t>> owned_;
  size_t owned_bytes_ = 0;
  std::unordered_map<const TensorInfo*, const uint8_t*> transposed_;  // into owned_
};

// The parts of the file that are no part of the language model and are passed over, each as
// "model.visual (12 tensors, 3.0 MiB)"; empty for most files. Buffers of the model itself are not named.
std::vector<std::string> PassedOverParts(const TensorSource& source, const ModelPlan& plan);

// What a family asks of a file. All must outlive it.
FamilyInput InputOf(const Hyperparameters& hyper, const TensorSource& source, const Family& family);

// The rows as float32, row-major, times their factors.
std::vector<float> DecodeRows(const MatrixRows& rows);

}  // namespace mneme
