#include "train/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "context/infini.h"

namespace mneme::train {
namespace {

using torch::Tensor;

// Part of what is drawn, so not the hash of base/hash.h: the weights that a recipe and its seed begin with
// must stay.
uint64_t SeedOf(uint64_t seed, const std::string& name) {
  uint64_t value = 1469598103934665603u ^ (seed * 0x9E3779B97F4A7C15u);
  for (const char c : name) value = (value ^ static_cast<uint8_t>(c)) * 1099511628211u;
  return value;
}

}  // namespace

std::vector<Tensor*> DecoderState::Differentiable() {
  std::vector<Tensor*> tensors;
  for (LayerState& layer : layers) {
    for (Tensor* t :
         {&layer.memory.m, &layer.memory.z, &layer.kept_k, &layer.kept_v, &layer.kept_write, &layer.left_k}) {
      if (t->defined() && t->numel() > 0) tensors.push_back(t);
    }
  }
  return tensors;
}

Decoder::Decoder(const Architecture& architecture, const MemorySettings& memory,
                 const AdapterSettings& adapters, uint64_t seed, const torch::TensorOptions& options,
                 bool bf16_products)
    : plan_(architecture.plan),
      qkv_bias_(architecture.qkv_bias),
      sink_logits_(architecture.sink_logits),
      position_heads_(architecture.position_heads),
      memory_(memory),
      update_(ParseMemoryUpdate(memory.update)),
      options_(options),
      bf16_products_(bf16_products),
      adapter_scale_(adapters.scale),
      seed_(seed) {
  CheckTrainable(plan_);
  torch::NoGradGuard no_grad;
  const auto dim = static_cast<int64_t>(plan_.model_dim);
  const auto vocab = static_cast<int64_t>(plan_.vocab_size);
  // A tied matrix also makes the logits, which must begin small. Untied, tokens begin as large as what the
  // layers add to them, so that the first products see which token they are at.
  embedding_ =
      Add("token_embd.weight", {vocab, dim}, architecture.tied_head ? 0.05 : 1, ParameterGroup::kMatrix);
  layers_.resize(plan_.num_layers());
  const double out_share = 1 / std::sqrt(2.0 * static_cast<double>(plan_.num_layers()));
  for (size_t layer = 0; layer < plan_.num_layers(); ++layer) AddLayer(layer, adapters, out_share);
  output_norm_ = Add("output_norm.weight", {dim}, 0, ParameterGroup::kVector, 1);
  if (!architecture.tied_head) output_ = Add("output.weight", {vocab, dim}, 0.05, ParameterGroup::kMatrix);
}

Tensor Decoder::Add(const std::string& name, std::vector<int64_t> shape, double deviation,
                    ParameterGroup group, double mean) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  std::vector<double> values(static_cast<size_t>(count), mean);
  if (deviation > 0) {
    // From the name, so that adding one parameter does not change the others.
    Random random(SeedOf(seed_, name));
    for (double& value : values) value += deviation * random.Normal();
  }
  Tensor value = torch::tensor(values, torch::kFloat64).reshape(shape).to(options_).contiguous();
  value.set_requires_grad(true);
  parameters_.push_back({name, value, group, true});
  return value;
}

void Decoder::AddLayer(size_t index, const AdapterSettings& adapters, double out_share) {
  Layer& layer = layers_[index];
  const auto dim = static_cast<int64_t>(plan_.model_dim);
  const auto ffn = static_cast<int64_t>(plan_.layers[index].dense()->dim);
  const auto heads = static_cast<int64_t>(attention(0).num_heads);
  const auto kv_heads = static_cast<int64_t>(attention(index).num_kv_heads);
  const auto key_dim = static_cast<int64_t>(attention(0).key_dim);
  const auto value_dim = static_cast<int64_t>(attention(0).value_dim);
  const auto name = [&](const char* what) { return fmt::format("blk.{}.{}", index, what); };
  const auto matrix = [&](const char* what, int64_t rows, int64_t cols, double share) {
    return Add(name(what), {rows, cols}, share / std::sqrt(static_cast<double>(cols)),
               ParameterGroup::kMatrix);
  };
  const auto vector = [&](const char* what, int64_t size, double mean) {
    return Add(name(what), {size}, 0, ParameterGroup::kVector, mean);
  };
  layer.attn_norm = vector("attn_norm.weight", dim, 1);
  layer.q = matrix("attn_q.weight", heads * key_dim, dim, 1);
  layer.k = matrix("attn_k.weight", kv_heads * key_dim, dim, 1);
  layer.v = matrix("attn_v.weight", kv_heads * value_dim, dim, 1);
  layer.o = matrix("attn_output.weight", dim, heads * value_dim, out_share);
  if (qkv_bias_) {
    layer.q_bias = vector("attn_q.bias", heads * key_dim, 0);
    layer.k_bias = vector("attn_k.bias", kv_heads * key_dim, 0);
    layer.v_bias = vector("attn_v.bias", kv_heads * value_dim, 0);
    if (index == 0) LookBack(std::min(position_heads_, heads), &layer);
  }
  if (attention(index).qk_norm == HeadNorm::kPerHead) {
    layer.q_norm = vector("attn_q_norm.weight", key_dim, 1);
    layer.k_norm = vector("attn_k_norm.weight", key_dim, 1);
  }
  layer.ffn_norm = vector("ffn_norm.weight", dim, 1);
  layer.gate = matrix("ffn_gate.weight", ffn, dim, 1);
  layer.up = matrix("ffn_up.weight", ffn, dim, 1);
  layer.down = matrix("ffn_down.weight", dim, ffn, out_share);
  if (sink_logits_) layer.sinks = vector("attn_sinks.weight", heads, 0);
  if (memory_.attention == "infini") {
    layer.memory_gate = Add(name("infini_gate.weight"), {heads}, 0, ParameterGroup::kGate, memory_.gate_init);
    if (update_ == MemoryUpdate::kGatedDelta) {
      layer.write = Add(name("infini_write.weight"), {kv_heads, dim},
                        0.5 / std::sqrt(static_cast<double>(dim)), ParameterGroup::kVector);
      layer.write_bias =
          Add(name("infini_write.bias"), {kv_heads}, 0, ParameterGroup::kVector, memory_.write_init);
    }
  }
  if (has_neighbours(index)) {
    layer.knn_gate = Add(name("knn_gate.weight"), {heads}, 0, ParameterGroup::kGate, memory_.gate_init);
    layer.knn_scale = Add(name("knn_scale.weight"), {heads}, 0, ParameterGroup::kVector, 1);
  }
  if (adapters.rank == 0) return;
  const auto adapter = [&](const char* what, int64_t rows, int64_t cols, Tensor* a, Tensor* b) {
    *a = Add(name(what) + ".lora_a", {adapters.rank, cols}, 1 / std::sqrt(static_cast<double>(cols)),
             ParameterGroup::kMatrix);
    *b = Add(name(what) + ".lora_b", {rows, adapters.rank}, 0, ParameterGroup::kMatrix);
  };
  adapter("attn_q.weight", heads * key_dim, dim, &layer.q_a, &layer.q_b);
  adapter("attn_k.weight", kv_heads * key_dim, dim, &layer.k_a, &layer.k_b);
  adapter("attn_v.weight", kv_heads * value_dim, dim, &layer.v_a, &layer.v_b);
  adapter("attn_output.weight", dim, heads * value_dim, &layer.o_a, &layer.o_b);
}

// Heads that attend by position: a constant key, and a query that is the key turned so far back that the
// product peaks `head + 1` places away. Of the rotary pairs only the fast ones tell neighbours apart.
// Induction needs the token before each token; a small model takes most of its training to find that by
// itself.
void Decoder::LookBack(int64_t count, Layer* layer) const {
  constexpr double kPeak = 8;        // length of each pair of the biases
  constexpr double kSlowest = 0.03;  // radians per token
  constexpr double kContentShare = 0.1;
  const Rope& rope = plan_.ropes[0];
  const auto key_dim = static_cast<int64_t>(attention(0).key_dim);
  const auto group = static_cast<int64_t>(attention(0).num_heads / attention(0).num_kv_heads);
  const auto half = static_cast<int64_t>(rope.frequencies.size());
  torch::NoGradGuard no_grad;
  const bool halves = rope.layout == RopeLayout::kHalves;
  for (int64_t head = 0; head < count; ++head) {
    const int64_t kv_head = head / group;
    layer->q.narrow(0, head * key_dim, key_dim).mul_(kContentShare);
    if (head % group == 0) layer->k.narrow(0, kv_head * key_dim, key_dim).mul_(kContentShare);
    for (int64_t pair = 0; pair < half; ++pair) {
      const double frequency = rope.frequencies[static_cast<size_t>(pair)];
      if (frequency < kSlowest) continue;
      const double angle = -static_cast<double>(head + 1) * frequency;
      const int64_t first = halves ? pair : 2 * pair, second = halves ? pair + half : 2 * pair + 1;
      layer->k_bias[kv_head * key_dim + first].fill_(kPeak);
      layer->q_bias[head * key_dim + first].fill_(kPeak * std::cos(angle));
      layer->q_bias[head * key_dim + second].fill_(kPeak * std::sin(angle));
    }
  }
}

Parameter* Decoder::Find(const std::string& name) {
  for (Parameter& parameter : parameters_) {
    if (parameter.name == name) return &parameter;
  }
  return nullptr;
}

Tensor Decoder::Merged(const Parameter& parameter) const {
  const Parameter *a = nullptr, *b = nullptr;
  for (const Parameter& other : parameters_) {
    if (other.name == parameter.name + ".lora_a") a = &other;
    if (other.name == parameter.name + ".lora_b") b = &other;
  }
  if (a == nullptr || b == nullptr) return parameter.value;
  return parameter.value + adapter_scale_ * torch::matmul(b->value, a->value);
}

bool Decoder::has_neighbours(size_t layer) const {
  if (memory_.attention != "memorizing") return false;
  const int64_t wanted =
      memory_.knn_layer >= 0 ? memory_.knn_layer : static_cast<int64_t>(plan_.num_layers() * 3 / 4);
  return static_cast<int64_t>(layer) == wanted;
}

int64_t Decoder::kept_segments() const {
  if (memory_.attention == "dense") return -1;
  return memory_.attention == "infini" ? memory_.previous : 0;
}

Tensor Decoder::Product(const Tensor& x, const Tensor& weight) const {
  if (!bf16_products_) return torch::matmul(x, weight.t());
  return torch::matmul(x.to(torch::kBFloat16), weight.to(torch::kBFloat16).t()).to(torch::kFloat32);
}

Tensor Decoder::Project(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& a,
                        const Tensor& b) const {
  Tensor y = Product(x, weight);
  if (a.defined()) y = y + adapter_scale_ * Product(Product(x, a), b);
  return bias.defined() ? y + bias : y;
}

Tensor Decoder::Norm(const Tensor& x, const Tensor& weight) const {
  const double epsilon = static_cast<double>(plan_.norm_epsilon);
  return x * torch::rsqrt(x.square().mean(-1, true) + epsilon) * weight;
}

void Decoder::GrowRotations(int64_t num_positions) const {
  const Rope& rope = plan_.ropes[0];
  const auto half = static_cast<int64_t>(rope.rotary_dim / 2);
  if (rope_cos_.defined() && rope_cos_.size(0) >= num_positions) return;
  const int64_t positions = 2 * num_positions;
  std::vector<float> cos(static_cast<size_t>(positions * half)), sin(cos.size()), table(rope.rotary_dim);
  for (int64_t p = 0; p < positions; ++p) {
    RopeTable(rope, p, table.data());
    std::copy_n(table.begin(), half, cos.begin() + p * half);
    std::copy_n(table.begin() + half, half, sin.begin() + p * half);
  }
  torch::NoGradGuard no_grad;
  rope_cos_ = torch::tensor(cos).reshape({positions, half}).to(options_);
  rope_sin_ = torch::tensor(sin).reshape({positions, half}).to(options_);
}

Tensor Decoder::Turn(const Tensor& x, const Tensor& cos, const Tensor& sin) const {
  const Rope& rope = plan_.ropes[0];
  const auto half = static_cast<int64_t>(rope.rotary_dim / 2);
  const Tensor turned = x.narrow(-1, 0, 2 * half);
  Tensor result;
  if (rope.layout == RopeLayout::kHalves) {
    const Tensor first = turned.narrow(-1, 0, half), second = turned.narrow(-1, half, half);
    result = torch::cat({first * cos - second * sin, first * sin + second * cos}, -1);
  } else {
    const Tensor pairs = turned.unflatten(-1, {half, 2});
    const Tensor first = pairs.select(-1, 0), second = pairs.select(-1, 1);
    result = torch::stack({first * cos - second * sin, first * sin + second * cos}, -1).flatten(-2);
  }
  if (2 * half == x.size(-1)) return result;
  return torch::cat({result, x.narrow(-1, 2 * half, x.size(-1) - 2 * half)}, -1);
}

// Positions count from the oldest token that local attention sees: only differences matter.
Tensor Decoder::Rotate(const Tensor& x, int64_t first_position) const {
  const int64_t length = x.size(-2);
  GrowRotations(first_position + length);
  return Turn(x, rope_cos_.narrow(0, first_position, length), rope_sin_.narrow(0, first_position, length));
}

// x [B, K, ..., R, D]: row r of every head at positions[b, r].
Tensor Decoder::RotateAt(const Tensor& x, const Tensor& positions) const {
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape.front() = positions.size(0);
  shape[shape.size() - 2] = positions.size(1);
  shape.back() = -1;
  const auto rows = [&](const Tensor& table) {
    return table.index_select(0, positions.flatten()).reshape(shape);
  };
  return Turn(x, rows(rope_cos_), rows(rope_sin_));
}

void Decoder::ProjectKeys(size_t index, const Tensor& x, Tensor* k, Tensor* v) const {
  const Layer& layer = layers_[index];
  const auto kv_heads = static_cast<int64_t>(attention(index).num_kv_heads);
  *k = Project(x, layer.k, layer.k_bias, layer.k_a, layer.k_b)
           .unflatten(-1, {kv_heads, static_cast<int64_t>(attention(0).key_dim)});
  if (layer.k_norm.defined()) *k = Norm(*k, layer.k_norm);
  *k = k->transpose(1, 2);
  *v = Project(x, layer.v, layer.v_bias, layer.v_a, layer.v_b)
           .unflatten(-1, {kv_heads, static_cast<int64_t>(attention(0).value_dim)})
           .transpose(1, 2);
}

Decoder::Heads Decoder::Project(size_t index, const Tensor& x) const {
  const Layer& layer = layers_[index];
  const auto kv_heads = static_cast<int64_t>(attention(index).num_kv_heads);
  const auto group = static_cast<int64_t>(attention(0).num_heads) / kv_heads;
  Heads heads;
  Tensor q = Project(x, layer.q, layer.q_bias, layer.q_a, layer.q_b)
                 .unflatten(-1, {kv_heads, group, static_cast<int64_t>(attention(0).key_dim)});
  if (layer.q_norm.defined()) q = Norm(q, layer.q_norm);
  heads.q = q.permute({0, 2, 3, 1, 4});
  ProjectKeys(index, x, &heads.k, &heads.v);
  return heads;
}

// 0 where a query may look, -inf elsewhere: [N, L] or [B, 1, 1, N, L] over kept and own tokens.
Tensor Decoder::Mask(int64_t num_tokens, const Tensor& kept_valid) const {
  const Tensor own = torch::full({num_tokens, num_tokens}, -INFINITY, options_).triu(1);
  if (!kept_valid.defined() || kept_valid.size(1) == 0) return own;
  const Tensor kept = torch::zeros_like(kept_valid).masked_fill(kept_valid == 0, -INFINITY);
  const int64_t batch = kept.size(0);
  return torch::cat(
      {kept.view({batch, 1, 1, 1, -1}).expand({batch, 1, 1, num_tokens, kept.size(1)}),
       own.view({1, 1, 1, num_tokens, num_tokens}).expand({batch, 1, 1, num_tokens, num_tokens})},
      -1);
}

// The mask of the segment's own tokens, with the branches as further queries and keys: [B, 1, 1, N + R, L + N
// + R].
Tensor Decoder::BranchMask(const Tensor& mask, const BranchTokens& branches, int64_t num_tokens) const {
  const int64_t batch = branches.tokens.size(0), count = branches.tokens.size(1);
  const int64_t kept = mask.size(-1) - num_tokens;
  const auto index = torch::TensorOptions().dtype(torch::kInt64).device(options_.device());
  const Tensor own = torch::arange(num_tokens, index).view({1, 1, -1}) > branches.parents.unsqueeze(-1);
  // Slot j is of slot i's branch, at or before it: no more than depth - 1 slots back.
  const Tensor slots = torch::arange(count, index);
  const Tensor back = slots.view({1, -1, 1}) - slots.view({1, 1, -1});
  const Tensor other = torch::logical_or(back < 0, back >= branches.depths.unsqueeze(-1));
  const auto blocked = [&](const Tensor& where) {
    return torch::zeros(where.sizes(), options_).masked_fill(where, -INFINITY);
  };
  Tensor text = mask.dim() == 2 ? mask.view({1, 1, 1, num_tokens, -1}) : mask;
  text = text.expand({batch, 1, 1, num_tokens, kept + num_tokens});
  // Kept tokens are open to all queries of a row alike.
  const Tensor before = text.narrow(-1, 0, kept).narrow(-2, 0, 1).expand({batch, 1, 1, count, kept});
  const Tensor right = torch::full({batch, 1, 1, num_tokens, count}, -INFINITY, options_);
  const Tensor low = torch::cat({before, blocked(own).view({batch, 1, 1, count, num_tokens}),
                                 blocked(other).view({batch, 1, 1, count, count})},
                                -1);
  return torch::cat({torch::cat({text, right}, -1), low}, -2);
}

Tensor Decoder::Weights(const Layer& layer, const Tensor& logits) const {
  if (!layer.sinks.defined()) return torch::softmax(logits, -1);
  std::vector<int64_t> shape = logits.sizes().vec();
  const Tensor sinks = layer.sinks.view({1, shape[1], shape[2], 1, 1});
  shape.back() = 1;
  return torch::softmax(torch::cat({logits, sinks.expand(shape)}, -1), -1).narrow(-1, 0, logits.size(-1));
}

MemoryTensors Decoder::WriteSegment(LayerState* state, const DecoderState& shared, const Tensor& k,
                                    const Tensor& v, const Tensor& write) const {
  const MemoryTensors& memory = state->memory;
  if (!memory_.key_shift) return WriteMemory(update_, memory, k, v, write);
  const int64_t pairs = k.size(2) - 1;
  const Tensor before = state->left_k;
  const Tensor keys = k.narrow(2, 0, pairs);
  state->left_k = k.narrow(2, pairs, 1);
  if (write.defined() && before.size(2) > 0) {
    // The key before belongs to another document where the row has written nothing of its own yet.
    const Tensor open = shared.written.view({-1, 1, 1});
    const Tensor gates = torch::cat({write.narrow(2, 0, 1) * open, write.narrow(2, 1, pairs)}, 2);
    return WriteMemory(update_, memory, torch::cat({before, keys}, 2), v, gates);
  }
  if (pairs < 1) return memory;
  return WriteMemory(update_, memory, keys, v.narrow(2, 1, pairs),
                     write.defined() ? write.narrow(2, 1, pairs) : write);
}

Tensor Decoder::MixMemory(size_t index, const Tensor& x, const Heads& heads, const Tensor& local,
                          LayerState* state, const DecoderState& shared, SegmentWatch* watch) const {
  const Layer& layer = layers_[index];
  const auto kv_heads = static_cast<int64_t>(attention(index).num_kv_heads);
  const Tensor gate = torch::sigmoid(layer.memory_gate).view({1, kv_heads, -1, 1, 1});
  const Tensor has = shared.written.view({-1, 1, 1, 1, 1}) > 0;
  const Tensor read =
      torch::where(has, ReadMemory(update_, state->memory, heads.q), torch::zeros({1}, options_));
  const Tensor mixed = gate * read + (1 - gate) * local;
  const Tensor out = memory_.first == "literal" ? mixed : torch::where(has, mixed, local);

  // The oldest segment leaves the window and enters the memory.
  Tensor write;
  if (update_ == MemoryUpdate::kGatedDelta) {
    write = torch::sigmoid(torch::matmul(x, layer.write.t()) + layer.write_bias).transpose(1, 2);
    if (watch != nullptr) {
      // Before the floor, so that the penalty pushes gates that are shut away from their threshold.
      const Tensor mean = write.mean() / static_cast<double>(plan_.num_layers());
      watch->write_mean = watch->write_mean.defined() ? watch->write_mean + mean : mean;
    }
    const double floor = memory_.write_floor;
    if (floor > 0) write = ((write - floor) / (1 - floor)).clamp_min(0);
  }
  const int64_t num_tokens = x.size(1);
  if (memory_.previous == 0) {
    state->memory = WriteSegment(state, shared, heads.k, heads.v, write);
    return out;
  }
  const Tensor k = torch::cat({state->kept_k, heads.k}, 2), v = torch::cat({state->kept_v, heads.v}, 2);
  const Tensor w = write.defined() ? torch::cat({state->kept_write, write}, 2) : write;
  const int64_t leaves = k.size(2) - memory_.previous * num_tokens;
  if (leaves > 0) {
    const MemoryTensors after = WriteSegment(state, shared, k.narrow(2, 0, leaves), v.narrow(2, 0, leaves),
                                             w.defined() ? w.narrow(2, 0, leaves) : w);
    // Tokens of another document than the row's present one are left out.
    const Tensor stays = shared.kept_valid.select(1, 0) > 0;
    state->memory.m = torch::where(stays.view({-1, 1, 1, 1}), after.m, state->memory.m);
    state->memory.z = torch::where(stays.view({-1, 1, 1}), after.z, state->memory.z);
  }
  if (w.defined()) state->kept_write = leaves > 0 ? w.narrow(2, leaves, w.size(2) - leaves) : w;
  return out;
}

Tensor Decoder::MixNeighbours(size_t index, const Heads& heads, const Tensor& local, LayerState* state,
                              const Tensor& valid) const {
  const Layer& layer = layers_[index];
  const auto kv_heads = static_cast<int64_t>(attention(index).num_kv_heads);
  const auto unit = [](const Tensor& t) {
    return t * torch::rsqrt(t.square().sum(-1, true) + static_cast<double>(kMemoryEpsilon));
  };
  const Tensor keys = unit(heads.k).detach();
  Tensor out = local;
  if (state->knn_k.size(2) > 0) {
    const Tensor scale = layer.knn_scale.abs().view({1, kv_heads, -1, 1, 1});
    const Tensor q = unit(heads.q) * scale * std::sqrt(static_cast<double>(attention(0).key_dim));
    Tensor logits = torch::matmul(q, state->knn_k.unsqueeze(2).transpose(-1, -2));
    logits = logits.masked_fill(valid.view({valid.size(0), 1, 1, 1, -1}) == 0, -INFINITY);
    const int64_t count = std::min<int64_t>(memory_.knn_neighbours, logits.size(-1));
    const auto [best, places] = logits.topk(count, -1);
    // A row without any neighbour: its weights come out as NaN and are not used.
    const Tensor any = (valid.sum(1) > 0).view({-1, 1, 1, 1, 1});
    const Tensor weights = torch::softmax(torch::where(any, best, torch::zeros({1}, options_)), -1);
    const int64_t batch = q.size(0), group = q.size(2), num_tokens = q.size(3),
                  value_dim = state->knn_v.size(-1);
    const Tensor flat = places.reshape({batch, kv_heads, -1, 1}).expand({-1, -1, -1, value_dim});
    const Tensor values =
        state->knn_v.gather(2, flat).view({batch, kv_heads, group, num_tokens, count, value_dim});
    const Tensor read = torch::matmul(weights.unsqueeze(-2), values).squeeze(-2);
    const Tensor gate = torch::sigmoid(layer.knn_gate).view({1, kv_heads, -1, 1, 1});
    out = torch::where(any, gate * read + (1 - gate) * local, local);
  }
  const auto append = [&](const Tensor& old, const Tensor& added) {
    const Tensor all = torch::cat({old, added}, 2);
    const int64_t extra = all.size(2) - memory_.knn_size;
    return extra > 0 ? all.narrow(2, extra, memory_.knn_size) : all;
  };
  state->knn_k = append(state->knn_k, keys);
  state->knn_v = append(state->knn_v, heads.v.detach());
  return out;
}

// What local attention finds a value under: with shifted keys that of the token before, which may have left
// the window; and nothing (0) where there is none of the same document, or where segments are hard.
Tensor Decoder::ShiftKeys(const Tensor& k, const LayerState& state, const DecoderState& shared) const {
  if (memory_.attention != "infini" || !memory_.key_shift) return k;
  const Tensor within = k.narrow(2, 0, k.size(2) - 1);
  if (memory_.previous == 0) return torch::constant_pad_nd(within, {0, 0, 1, 0}, 0);
  const int64_t kept = shared.kept_valid.size(1);
  const Tensor ones = torch::ones({k.size(0), k.size(2) - 1 - kept}, options_);
  const bool has_left = state.left_k.size(2) > 0;
  const Tensor left = has_left ? state.left_k : torch::zeros_like(k.narrow(2, 0, 1));
  const Tensor is_own = torch::cat({shared.written.unsqueeze(1), shared.kept_valid, ones}, 1);
  return torch::cat({left, within}, 2) * is_own.view({k.size(0), 1, -1, 1});
}

Tensor Decoder::Attention(size_t index, const Tensor& x_all, const Tensor& mask, LayerState* state,
                          const DecoderState& shared, SegmentWatch* watch,
                          const BranchTokens* branches) const {
  const int64_t num_branches = branches == nullptr ? 0 : branches->tokens.size(1);
  const int64_t num_tokens = x_all.size(1) - num_branches;
  Heads heads = Project(index, x_all);
  // From here on heads.k, heads.v and x are the text's own; only queries of branches go along.
  Tensor x = x_all, branch_k, branch_v;
  if (num_branches > 0) {
    x = x_all.narrow(1, 0, num_tokens);
    branch_k = heads.k.narrow(2, num_tokens, num_branches);
    branch_v = heads.v.narrow(2, num_tokens, num_branches);
    heads.k = heads.k.narrow(2, 0, num_tokens);
    heads.v = heads.v.narrow(2, 0, num_tokens);
  }
  Tensor k = heads.k, v = heads.v;
  if (state->hidden.defined() && state->hidden.size(1) > 0) {
    Tensor old_k, old_v;
    ProjectKeys(index, state->hidden, &old_k, &old_v);
    k = torch::cat({old_k, k}, 2);
    v = torch::cat({old_v, v}, 2);
  } else if (state->kept_k.size(2) > 0) {
    k = torch::cat({state->kept_k, k}, 2);
    v = torch::cat({state->kept_v, v}, 2);
  }
  const int64_t before = k.size(2) - num_tokens;
  Tensor q_turned = Rotate(heads.q.narrow(3, 0, num_tokens), before);
  Tensor k_turned = Rotate(ShiftKeys(k, *state, shared), 0), v_seen = v;
  if (num_branches > 0) {
    const Tensor positions = branches->parents + branches->depths + before;
    GrowRotations(before + num_tokens + num_branches + 1);
    q_turned = torch::cat({q_turned, RotateAt(heads.q.narrow(3, num_tokens, num_branches), positions)}, 3);
    k_turned = torch::cat({k_turned, RotateAt(branch_k, positions)}, 2);
    v_seen = torch::cat({v, branch_v}, 2);
  }
  const auto scale = static_cast<double>(plan_.layers[index].attention()->scale);
  const Tensor logits = torch::matmul(q_turned * scale, k_turned.unsqueeze(2).transpose(-1, -2)) + mask;
  Tensor out = torch::matmul(Weights(layers_[index], logits), v_seen.unsqueeze(2));
  if (memory_.attention == "infini") out = MixMemory(index, x, heads, out, state, shared, watch);
  if (has_neighbours(index)) out = MixNeighbours(index, heads, out, state, shared.knn_valid);

  if (const int64_t kept = kept_segments(); kept != 0) {
    const int64_t length = kept < 0 ? k.size(2) : std::min(k.size(2), kept * num_tokens);
    state->kept_k = k.narrow(2, k.size(2) - length, length);
    state->kept_v = v.narrow(2, v.size(2) - length, length);
  }
  if (state->hidden.defined()) {
    const Tensor all = torch::cat({state->hidden, x.detach()}, 1);
    const int64_t length = std::min(all.size(1), memory_.previous * num_tokens);
    state->hidden = all.narrow(1, all.size(1) - length, length);
  }
  // [B, K, G, N, E] -> [B, N, heads * E]
  const Tensor joined = out.permute({0, 3, 1, 2, 4}).flatten(2);
  const Layer& layer = layers_[index];
  return Project(joined, layer.o, layer.o_bias, layer.o_a, layer.o_b);
}

DecoderState Decoder::EmptyState(int64_t batch) const {
  DecoderState state;
  const auto key_dim = static_cast<int64_t>(attention(0).key_dim);
  const auto value_dim = static_cast<int64_t>(attention(0).value_dim);
  for (size_t index = 0; index < plan_.num_layers(); ++index) {
    const auto kv_heads = static_cast<int64_t>(attention(index).num_kv_heads);
    LayerState layer;
    if (memory_.attention == "infini")
      layer.memory = EmptyMemory(batch, kv_heads, key_dim, value_dim, options_);
    layer.kept_k = torch::zeros({batch, kv_heads, 0, key_dim}, options_);
    layer.kept_v = torch::zeros({batch, kv_heads, 0, value_dim}, options_);
    layer.kept_write = torch::zeros({batch, kv_heads, 0}, options_);
    layer.left_k = torch::zeros({batch, kv_heads, 0, key_dim}, options_);
    if (memory_.attention == "xl" || memory_.attention == "memorizing") {
      layer.hidden = torch::zeros({batch, 0, static_cast<int64_t>(plan_.model_dim)}, options_);
    }
    layer.knn_k = torch::zeros({batch, kv_heads, 0, key_dim}, options_);
    layer.knn_v = torch::zeros({batch, kv_heads, 0, value_dim}, options_);
    state.layers.push_back(std::move(layer));
  }
  state.written = torch::zeros({batch}, options_);
  state.kept_valid = torch::zeros({batch, 0}, options_);
  state.knn_valid = torch::zeros({batch, 0}, options_);
  return state;
}

void Decoder::Reset(const Tensor& resets, DecoderState* state) const {
  const Tensor stay = 1 - resets;
  state->written = state->written * stay;
  state->kept_valid = state->kept_valid * stay.unsqueeze(1);
  state->knn_valid = state->knn_valid * stay.unsqueeze(1);
  for (LayerState& layer : state->layers) {
    if (!layer.memory.m.defined()) continue;
    layer.memory.m = layer.memory.m * stay.view({-1, 1, 1, 1});
    layer.memory.z = layer.memory.z * stay.view({-1, 1, 1});
  }
}

void Decoder::AdvanceShared(int64_t batch, int64_t num_tokens, DecoderState* state) const {
  const Tensor ones = torch::ones({batch, num_tokens}, options_);
  const auto append = [&](const Tensor& old, int64_t most) {
    const Tensor all = torch::cat({old, ones}, 1);
    const int64_t length = most < 0 ? all.size(1) : std::min(all.size(1), most);
    return all.narrow(1, all.size(1) - length, length);
  };
  const bool caches = memory_.attention == "xl" || memory_.attention == "memorizing";
  const int64_t kept = caches ? memory_.previous : kept_segments();
  const Tensor all_kept = torch::cat({state->kept_valid, ones}, 1);
  // The row's memory holds something once a token of its document left the window.
  const int64_t leaves = all_kept.size(1) - memory_.previous * num_tokens;
  if (memory_.attention == "infini" && leaves > 0) {
    const Tensor left = std::get<0>(all_kept.narrow(1, 0, leaves).max(1));
    state->written = torch::maximum(state->written, left);
  }
  state->kept_valid = append(state->kept_valid, kept < 0 ? -1 : kept * num_tokens);
  if (memory_.attention == "memorizing") state->knn_valid = append(state->knn_valid, memory_.knn_size);
}

Tensor Decoder::Segment(const Tensor& tokens, const Tensor& resets, DecoderState* state, SegmentWatch* watch,
                        const BranchTokens* branches) const {
  Reset(resets, state);
  Tensor mask = Mask(tokens.size(1), state->kept_valid);
  Tensor x = torch::embedding(embedding_, tokens);
  if (branches != nullptr) {
    mask = BranchMask(mask, *branches, tokens.size(1));
    x = torch::cat({x, torch::embedding(embedding_, branches->tokens)}, 1);
  }
  for (size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    x = x + Attention(index, Norm(x, layer.attn_norm), mask, &state->layers[index], *state, watch, branches);
    const Tensor input = Norm(x, layer.ffn_norm);
    x = x + Product(torch::silu(Product(input, layer.gate)) * Product(input, layer.up), layer.down);
  }
  AdvanceShared(tokens.size(0), tokens.size(1), state);
  return Norm(x, output_norm_);
}

Tensor Decoder::Logits(const Tensor& hidden) const {
  return Product(hidden, output_.defined() ? output_ : embedding_);
}

}  // namespace mneme::train
