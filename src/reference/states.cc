#include "reference/states.h"

#include <algorithm>
#include <cmath>

#include "kernels/recur/recur.h"

namespace mneme::reference {

Rows Delta(const ModelPlan& m, const DeltaPlan& plan, const DeltaWeights& w, const Rows& input) {
  const RecurShape& shape = plan.shape;
  const size_t heads = shape.num_value_heads;
  const std::vector<float> x = Flat(Product(w.qkv, input));
  Rows decay = Product(w.alpha, input), beta = Product(w.beta, input);
  for (size_t r = 0; r < input.size(); ++r) {
    for (size_t h = 0; h < heads; ++h) {
      const double step = std::log1p(std::exp(decay[r][h] + static_cast<double>(w.step_bias[h])));
      decay[r][h] = static_cast<double>(w.rate[h]) * step;
      beta[r][h] = static_cast<double>(plan.most_strength) / (1 + std::exp(-beta[r][h]));
    }
  }
  const std::vector<float> log_decay = Flat(decay), strength = Flat(beta);
  std::vector<double> out(input.size() * shape.value_channels());
  std::vector<double> state(heads * shape.key_dim * shape.value_dim);
  RecurReference({.shape = &shape,
                  .conv_weight = w.convolution.data(),
                  .num_rows = input.size(),
                  .x = x.data(),
                  .log_decay = log_decay.data(),
                  .beta = strength.data()},
                 out.data(), state.data());
  const Rows gate = Product(w.gate, input);
  const NormWeights norm{.weight = w.norm, .bias = {}};
  ModelPlan with_epsilon = m;
  if (plan.norm_epsilon > 0) with_epsilon.norm_epsilon = plan.norm_epsilon;
  Rows normed(input.size(), Row(shape.value_channels()));
  for (size_t r = 0; r < input.size(); ++r) {
    for (size_t i = 0; i < normed[r].size(); ++i) normed[r][i] = out[r * normed[r].size() + i];
    for (size_t h = 0; h < heads; ++h)
      NormPart(with_epsilon, norm, 0, h * shape.value_dim, shape.value_dim, &normed[r]);
    for (size_t i = 0; i < normed[r].size(); ++i) normed[r][i] *= Activated(Activation::kSilu, gate[r][i]);
  }
  return Product(w.out, normed);
}

Rows ChannelDelta(const ModelPlan& m, const ChannelDeltaPlan& plan, const ChannelDeltaWeights& w,
                  const Rows& input) {
  const RecurShape& shape = plan.shape;
  const size_t heads = shape.num_value_heads;
  Rows mixed = Product(w.q, input);
  for (const LinearLayer* part : {&w.k, &w.v}) {
    const Rows more = Product(*part, input);
    for (size_t r = 0; r < mixed.size(); ++r) mixed[r].insert(mixed[r].end(), more[r].begin(), more[r].end());
  }
  Rows decay = Product(w.decay, Product(w.decay_down, input)), beta = Product(w.beta, input);
  for (size_t r = 0; r < input.size(); ++r) {
    for (size_t i = 0; i < decay[r].size(); ++i) {
      const double step = std::log1p(std::exp(decay[r][i] + static_cast<double>(w.step_bias[i])));
      decay[r][i] = static_cast<double>(w.rate[i]) * step;
    }
    for (double& value : beta[r]) value = 1 / (1 + std::exp(-value));
  }
  const std::vector<float> x = Flat(mixed), log_decay = Flat(decay), strength = Flat(beta);
  std::vector<double> out(input.size() * shape.value_channels());
  std::vector<double> state(heads * shape.key_dim * shape.value_dim);
  RecurReference({.shape = &shape,
                  .conv_weight = w.convolution.data(),
                  .num_rows = input.size(),
                  .x = x.data(),
                  .log_decay = log_decay.data(),
                  .beta = strength.data()},
                 out.data(), state.data());
  const NormWeights norm{.weight = w.norm, .bias = {}};
  Rows normed = RowsOf(out, shape.value_channels()), gate = Product(w.gate, Product(w.gate_down, input));
  for (size_t r = 0; r < normed.size(); ++r) {
    for (size_t h = 0; h < heads; ++h) NormPart(m, norm, 0, h * shape.value_dim, shape.value_dim, &normed[r]);
    for (double& value : gate[r]) value = 1 / (1 + std::exp(-value));
  }
  Multiply(gate, &normed);
  return Product(w.out, normed);
}

Rows ShortConv(const ShortConvPlan& plan, const ShortConvWeights& w, const Rows& input) {
  Rows gated = Product(w.value, input);
  Multiply(Product(w.input_gate, input), &gated);
  const std::vector<float> x = Flat(gated);
  std::vector<double> convolved(x.size());
  RecurReference({.shape = &plan.shape,
                  .conv_weight = w.convolution.data(),
                  .conv_bias = DataOrNull(w.convolution_bias),
                  .num_rows = input.size(),
                  .x = x.data()},
                 convolved.data(), nullptr);
  Rows out = RowsOf(convolved, plan.shape.num_channels());
  Multiply(Product(w.output_gate, input), &out);
  return Product(w.out, out);
}

Rows Scan(const ModelPlan& m, const ScanPlan& plan, const ScanWeights& w, const Rows& input) {
  const RecurShape& shape = plan.shape;
  const size_t heads = shape.num_value_heads, values = shape.value_channels();
  Rows step = Product(w.step, input), decay = step;
  for (size_t r = 0; r < input.size(); ++r) {
    for (size_t h = 0; h < heads; ++h) {
      const double plain = std::log1p(std::exp(step[r][h] + static_cast<double>(w.step_bias[h])));
      step[r][h] = std::clamp(plain, static_cast<double>(plan.min_step), static_cast<double>(plan.max_step));
      decay[r][h] = static_cast<double>(w.rate[h]) * step[r][h];
    }
  }
  const std::vector<float> x = Flat(Product(w.mixed, input)), log_decay = Flat(decay), strength = Flat(step);
  std::vector<double> scanned(input.size() * values), state(heads * shape.key_dim * shape.value_dim);
  RecurReference({.shape = &shape,
                  .conv_weight = w.convolution.data(),
                  .conv_bias = DataOrNull(w.convolution_bias),
                  .skip = w.skip.data(),
                  .num_rows = input.size(),
                  .x = x.data(),
                  .log_decay = log_decay.data(),
                  .beta = strength.data()},
                 scanned.data(), state.data());
  Rows out = RowsOf(scanned, values), gate = Product(w.gate, input);
  for (Row& row : gate) {
    for (double& value : row) value = Activated(Activation::kSilu, value);
  }
  if (!plan.gates_normed) Multiply(gate, &out);
  const size_t group = values / shape.num_key_heads;
  for (Row& row : out) {
    for (size_t first = 0; plan.has_norm && first < values; first += group) {
      NormPart(m, w.norm, w.norm.weight.size() == group ? 0 : first, first, group, &row);
    }
  }
  if (plan.gates_normed) Multiply(gate, &out);
  return Product(w.out, out);
}

namespace {

Rows Convolved(const RecurShape& shape, const std::vector<float>& taps, const std::vector<float>& bias,
               const Rows& rows) {
  const std::vector<float> x = Flat(rows);
  std::vector<double> out(x.size());
  RecurReference({.shape = &shape,
                  .conv_weight = taps.data(),
                  .conv_bias = DataOrNull(bias),
                  .num_rows = rows.size(),
                  .x = x.data()},
                 out.data(), nullptr);
  return RowsOf(out, shape.num_channels());
}

}  // namespace

Rows Selective(const ModelPlan& m, const SelectivePlan& plan, const SelectiveWeights& w, const Rows& input) {
  const RecurShape& scan = plan.scan;
  const Rows x = Convolved(plan.convolution, w.convolution, w.convolution_bias, Product(w.value, input));
  Rows narrow = Product(w.narrow, x), key = Product(w.key, x), query = Product(w.query, x);
  ModelPlan with_epsilon = m;
  if (plan.norm_epsilon > 0) with_epsilon.norm_epsilon = plan.norm_epsilon;
  for (size_t r = 0; plan.has_norms && r < x.size(); ++r) {
    NormPart(with_epsilon, w.step_norm, 0, 0, narrow[r].size(), &narrow[r]);
    NormPart(with_epsilon, w.key_norm, 0, 0, key[r].size(), &key[r]);
    NormPart(with_epsilon, w.query_norm, 0, 0, query[r].size(), &query[r]);
  }
  Rows step = Product(w.step, narrow);
  for (Row& row : step) {
    for (double& value : row) value = std::max(value, 0.0) + std::log1p(std::exp(-std::abs(value)));
  }
  Rows decay = step;
  Scale(-1, &decay);
  const std::vector<float> values = Flat(x), log_decay = Flat(decay), beta = Flat(step), keys = Flat(key),
                           queries = Flat(query);
  std::vector<double> scanned(values.size()), state(scan.value_channels() * scan.key_dim);
  RecurReference({.shape = &scan,
                  .skip = w.skip.data(),
                  .num_rows = x.size(),
                  .x = values.data(),
                  .log_decay = log_decay.data(),
                  .beta = beta.data(),
                  .keys = keys.data(),
                  .queries = queries.data(),
                  .rate = w.rate.data()},
                 scanned.data(), state.data());
  Rows out = RowsOf(scanned, scan.value_channels()), gate = Product(w.gate, input);
  for (Row& row : gate) {
    for (double& value : row) value = Activated(Activation::kSilu, value);
  }
  Multiply(gate, &out);
  return Product(w.out, out);
}

namespace {

// Each head's matrix with its own columns of x.
Rows ProductOfHeads(const std::vector<LinearLayer>& heads, size_t head_dim, const Rows& x) {
  Rows out(x.size());
  for (size_t head = 0; head < heads.size(); ++head) {
    Rows part(x.size());
    for (size_t r = 0; r < x.size(); ++r) {
      part[r].assign(&x[r][head * head_dim], &x[r][head * head_dim] + head_dim);
    }
    part = Product(heads[head], part);
    for (size_t r = 0; r < x.size(); ++r) out[r].insert(out[r].end(), part[r].begin(), part[r].end());
  }
  return out;
}

}  // namespace

Rows Lru(const LruPlan& plan, const LruWeights& w, const Rows& input) {
  const RecurShape& scan = plan.scan;
  const Rows x = Convolved(plan.convolution, w.convolution, w.convolution_bias, Product(w.value, input));
  Rows strength = ProductOfHeads(w.input_gates, plan.head_dim(), x);
  Rows decay = ProductOfHeads(w.decay_gates, plan.head_dim(), x);
  for (size_t r = 0; r < x.size(); ++r) {
    for (size_t i = 0; i < decay[r].size(); ++i) {
      decay[r][i] = static_cast<double>(w.rate[i]) / (1 + std::exp(-decay[r][i]));
      // What is let in keeps the size of the state; the first token counts in full.
      const double size = r == 0 ? 1 : std::sqrt(-std::expm1(2 * decay[r][i]));
      strength[r][i] = size / (1 + std::exp(-strength[r][i]));
    }
  }
  const std::vector<float> values = Flat(x), log_decay = Flat(decay), beta = Flat(strength);
  std::vector<double> scanned(values.size()), state(scan.value_channels());
  RecurReference({.shape = &scan,
                  .num_rows = x.size(),
                  .x = values.data(),
                  .log_decay = log_decay.data(),
                  .beta = beta.data()},
                 scanned.data(), state.data());
  Rows out = RowsOf(scanned, scan.value_channels()), gate = Product(w.gate, input);
  for (Row& row : gate) {
    for (double& value : row) value = Activated(Activation::kGeluTanh, value);
  }
  Multiply(gate, &out);
  return Product(w.out, out);
}

namespace {

Rows ProductOfMixture(const RecurShape& shift, const ShiftedLinear& w, const Rows& input) {
  return Product(w.linear, Convolved(shift, w.taps, {}, input));
}

void OpenGates(const Rows& gate, Rows* x) {
  for (size_t r = 0; r < gate.size(); ++r) {
    for (size_t i = 0; i < gate[r].size(); ++i) (*x)[r][i] /= 1 + std::exp(-gate[r][i]);
  }
}

}  // namespace

Rows TimeMix(const TimeMixPlan& plan, const TimeMixWeights& w, const Rows& input) {
  const std::vector<float> key = Flat(ProductOfMixture(plan.shift, w.key, input));
  const std::vector<float> value = Flat(ProductOfMixture(plan.shift, w.value, input));
  std::vector<double> means(value.size());
  RecurReference({.shape = &plan.scan,
                  .num_rows = input.size(),
                  .x = value.data(),
                  .beta = key.data(),
                  .rate = w.rate.data(),
                  .boost = w.boost.data()},
                 means.data(), nullptr);
  Rows out = RowsOf(means, plan.scan.value_channels());
  OpenGates(ProductOfMixture(plan.shift, w.gate, input), &out);
  return Product(w.out, out);
}

Rows ChannelMix(const ChannelMixPlan& plan, const ChannelMixWeights& w, const Rows& input) {
  Rows up = ProductOfMixture(plan.shift, w.up, input);
  for (Row& row : up) {
    for (double& value : row) value = Activated(Activation::kRelu2, value);
  }
  Rows out = Product(w.down, up);
  OpenGates(ProductOfMixture(plan.shift, w.gate, input), &out);
  return out;
}

}  // namespace mneme::reference
