// What the weights of all blocks are made of, and who goes through them.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/linear/linear.h"
#include "model/plan.h"

namespace mneme {

struct DenseWeights;   // dense.h
struct DeltaWeights;   // delta.h
struct LatentWeights;  // latent.h

// A norm's vectors; both empty where the model has no such norm.
struct NormWeights {
  std::vector<float> weight;
  std::vector<float> bias;
  bool empty() const { return weight.empty(); }
};

// A matrix and its bias (empty: none). An empty matrix: the model has none.
struct LinearLayer {
  LinearWeights weights;
  WeightView file;  // the rows before repacking
  std::vector<float> bias;
  bool empty() const { return weights.empty(); }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

// A matrix of low rank, up times down, that is added to another, or to two that read the same rows.
struct LowRank {
  LinearLayer down;               // [rank, num_cols]
  std::array<LinearLayer, 2> up;  // [num_rows, rank] each; empty: no such matrix
  bool empty() const { return down.empty(); }
};

// Goes through the weights of one layer, each under its canonical name ("attn_q"): to load them, to write
// them into another container. So a block is described once. Functions throw as TensorMap does.
class WeightVisitor {
 public:
  virtual ~WeightVisitor() = default;

  // A norm whose vectors have one of these numbers of values. Of two, the second is a vector for each head.
  virtual void Norm(std::string_view name, std::span<const size_t> counts, bool is_required,
                    NormWeights* norm) = 0;
  // A matrix, and its bias where the file has one.
  virtual void Matrix(std::string_view name, size_t num_rows, size_t num_cols, LinearLayer* linear) = 0;
  // suffix: "weight" or "bias".
  virtual void Vector(std::string_view name, std::string_view suffix, size_t count, bool is_required,
                      std::vector<float>* values) = 0;
  // A matrix whose rows are those of several, in order, and its bias where the file has one.
  virtual void Parts(std::string_view name, std::span<const size_t> num_rows, size_t num_cols,
                     std::span<LinearLayer* const> parts) = 0;
  // Likewise without a bias, of a matrix that folders keep with the layer `source`, under a number.
  virtual void Adapter(std::string_view name, size_t source, size_t number, std::span<const size_t> num_rows,
                       size_t num_cols, std::span<LinearLayer* const> parts) = 0;
  // The taps of a short convolution, as RecurCall has them, and its bias where the file has one.
  virtual void Convolution(std::string_view name, const RecurShape& shape, std::vector<float>* taps,
                           std::vector<float>* bias) = 0;
  // So many numbers for each head, under a name without a suffix. is_rate: a folder has the logarithm of what
  // GGUF has negated, which is what is given.
  virtual void PerHead(std::string_view name, size_t num_heads, size_t depth, bool is_rate,
                       std::vector<float>* values) = 0;
  // Queries, keys and values, out of matrices of their own or a fused one. gate: of the outputs, where the
  // plan has one.
  virtual void Qkv(const AttentionPlan& plan, LinearLayer* q, LinearLayer* k, LinearLayer* v,
                   LinearLayer* gate) = 0;
  // The matrices of the heads that unfold a latent, which files keep in one or in two.
  virtual void LatentHeads(const LatentPlan& plan, LatentWeights* weights) = 0;
  // All of a layer with the gated delta rule, whose heads files order in different ways.
  virtual void Delta(const DeltaPlan& plan, DeltaWeights* weights) = 0;
  // Gate and up matrix [dim, model_dim] of a gated feed-forward network, alone or fused.
  virtual void GateUp(size_t dim, LinearLayer* gate, LinearLayer* up) = 0;
  // The numbers of a layer's xIELU.
  virtual void XieluOf(Xielu* xielu) = 0;
  // A square matrix for each head, over its own columns alone, and a bias for each; all in one tensor.
  virtual void Heads(std::string_view name, size_t head_dim, std::span<LinearLayer> heads) = 0;
  // All experts of a mixture, each with matrices of its own or all in one tensor of three dimensions.
  virtual void Experts(const ExpertsPlan& plan, std::span<DenseWeights> experts) = 0;
};

}  // namespace mneme
