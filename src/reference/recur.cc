// Layers with a state of fixed size from their definitions, in double precision.
#include "kernels/recur/recur.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace mneme {
namespace {

double Silu(double x) { return x / (1 + std::exp(-x)); }

double Dot(const double* a, const double* b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// All channels of a row of a stream that begins with the call's first row.
std::vector<double> Convolved(const RecurCall& call, size_t row) {
  const RecurShape& shape = *call.shape;
  const size_t channels = shape.num_channels();
  std::vector<double> out(channels);
  for (size_t c = 0; c < channels; ++c) {
    if (call.conv_bias != nullptr) out[c] = static_cast<double>(call.conv_bias[c]);
    for (size_t back = 0; back < shape.conv_width && back <= row; ++back) {
      out[c] += static_cast<double>(call.conv_weight[(shape.conv_width - 1 - back) * channels + c]) *
                static_cast<double>(call.x[(row - back) * channels + c]);
    }
    if (shape.conv_activates) out[c] = Silu(out[c]);
  }
  return out;
}

void NormaliseHead(const RecurShape& shape, double scale, double* x) {
  if (shape.normalises) {
    scale /= std::sqrt(Dot(x, x, shape.key_dim) + static_cast<double>(kRecurNormEpsilon));
  }
  for (size_t i = 0; i < shape.key_dim; ++i) x[i] *= scale;
}

// Of each channel of the key. log_decay: of the head, one or one for each channel.
template <typename Float>
std::vector<double> Decays(const RecurShape& shape, const Float* log_decay) {
  std::vector<double> decays(shape.key_dim);
  for (size_t i = 0; i < decays.size(); ++i) {
    decays[i] = std::exp(static_cast<double>(log_decay[shape.decays_by_channel ? i : 0]));
  }
  return decays;
}

// S becomes that after a token; out = S^T q.
void Step(const RecurShape& shape, const double* q, const double* k, const double* v,
          const std::vector<double>& decays, double beta, double* state, double* out) {
  for (size_t i = 0; i < shape.key_dim * shape.value_dim; ++i) state[i] *= decays[i / shape.value_dim];
  for (size_t c = 0; c < shape.value_dim; ++c) {
    double recalled = 0;
    for (size_t i = 0; i < shape.key_dim && shape.rule == RecurRule::kDelta; ++i) {
      recalled += state[i * shape.value_dim + c] * k[i];
    }
    const double update = beta * (v[c] - recalled);
    out[c] = 0;
    for (size_t i = 0; i < shape.key_dim; ++i) {
      state[i * shape.value_dim + c] += k[i] * update;
      out[c] += state[i * shape.value_dim + c] * q[i];
    }
  }
}

// Where a value of rate or boost lies.
size_t InPanels(const RecurShape& shape, size_t channel, size_t depth, size_t i) {
  const size_t in_head = channel % shape.value_dim;
  const size_t panel = channel / shape.value_dim * shape.num_panels() + in_head / kRecurPanel;
  return (panel * depth + i) * kRecurPanel + in_head % kRecurPanel;
}

// state [num_value_heads, key_dim, value_dim].
void DiagonalReference(const RecurCall& call, double* out, double* state) {
  const RecurShape& shape = *call.shape;
  const size_t channels = shape.value_channels(), depth = shape.key_dim;
  std::fill_n(state, channels * depth, 0.0);
  for (size_t row = 0; row < call.num_rows; ++row) {
    for (size_t c = 0; c < channels; ++c) {
      const size_t at = row * channels + c;
      const double update = static_cast<double>(call.beta[at]) * static_cast<double>(call.x[at]);
      double sum =
          call.skip == nullptr ? 0 : static_cast<double>(call.skip[c]) * static_cast<double>(call.x[at]);
      for (size_t n = 0; n < depth; ++n) {
        double decay = static_cast<double>(call.log_decay[at]);
        if (call.rate != nullptr) decay *= static_cast<double>(call.rate[InPanels(shape, c, depth, n)]);
        const bool has_keys = call.keys != nullptr;
        const double key = has_keys ? static_cast<double>(call.keys[row * depth + n]) : 1;
        const double query = has_keys ? static_cast<double>(call.queries[row * depth + n]) : 1;
        double& h = state[(c / shape.value_dim * depth + n) * shape.value_dim + c % shape.value_dim];
        h = std::exp(decay) * h + key * update;
        sum += query * h;
      }
      out[at] = sum;
    }
  }
}

// The sums as they are defined, all terms of a token anew.
void WkvReference(const RecurCall& call, double* out) {
  const RecurShape& shape = *call.shape;
  const size_t channels = shape.value_channels();
  for (size_t c = 0; c < channels; ++c) {
    const auto rate = static_cast<double>(call.rate[InPanels(shape, c, 1, 0)]);
    const auto boost = static_cast<double>(call.boost[InPanels(shape, c, 1, 0)]);
    for (size_t row = 0; row < call.num_rows; ++row) {
      const auto log_weight = [&](size_t i) {
        const auto b = static_cast<double>(call.beta[i * channels + c]);
        return i == row ? b + boost : b - rate * static_cast<double>(row - 1 - i);
      };
      double largest = log_weight(row), weighted = 0, total = 0;
      for (size_t i = 0; i < row; ++i) largest = std::max(largest, log_weight(i));
      for (size_t i = 0; i <= row; ++i) {
        const double weight = std::exp(log_weight(i) - largest);
        weighted += weight * static_cast<double>(call.x[i * channels + c]);
        total += weight;
      }
      out[row * channels + c] = weighted / total;
    }
  }
}

}  // namespace

void RecurReference(const RecurCall& call, double* out, double* state) {
  const RecurShape& shape = *call.shape;
  if (shape.rule == RecurRule::kDiagonal) return DiagonalReference(call, out, state);
  if (shape.rule == RecurRule::kWkv) return WkvReference(call, out);
  if (shape.has_state()) std::fill_n(state, shape.num_value_heads * shape.key_dim * shape.value_dim, 0.0);
  for (size_t row = 0; row < call.num_rows; ++row) {
    std::vector<double> x = Convolved(call, row);
    double* const to = out + row * shape.value_channels();
    if (!shape.has_state()) {
      std::copy(x.begin(), x.end(), to);
      continue;
    }
    for (size_t head = 0; head < shape.num_key_heads; ++head) {
      NormaliseHead(shape, static_cast<double>(shape.query_scale),
                    &x[shape.q_channel() + head * shape.key_dim]);
      NormaliseHead(shape, 1.0, &x[shape.k_channel() + head * shape.key_dim]);
    }
    for (size_t head = 0; head < shape.num_value_heads; ++head) {
      const size_t of_key = shape.KeyHeadOf(head) * shape.key_dim;
      const double* const v = &x[shape.v_channel() + head * shape.value_dim];
      const size_t at = row * shape.num_value_heads + head;
      double* const result = to + head * shape.value_dim;
      Step(shape, &x[shape.q_channel() + of_key], &x[shape.k_channel() + of_key], v,
           Decays(shape, call.log_decay + (shape.decays_by_channel ? at * shape.key_dim : at)),
           static_cast<double>(call.beta[at]), state + head * shape.key_dim * shape.value_dim, result);
      for (size_t c = 0; c < shape.value_dim && call.skip != nullptr; ++c) {
        result[c] += static_cast<double>(call.skip[head]) * v[c];
      }
    }
  }
}

void RecurBlockReference(const RecurShape& shape, const double* q, const double* k, const double* v,
                         const double* a, const double* beta, size_t num_rows, double* out, double* state) {
  const size_t key_dim = shape.key_dim;
  const size_t value_dim = shape.value_dim;
  const size_t num_decays = shape.decays_by_channel ? key_dim : 1;
  std::vector<double> sums(num_rows * num_decays), updates(num_rows * value_dim);
  for (size_t at = 0; at < sums.size(); ++at)
    sums[at] = a[at] + (at < num_decays ? 0 : sums[at - num_decays]);
  const auto sum = [&](size_t t, size_t channel) { return sums[t * num_decays + channel % num_decays]; };
  // Of what token i left, as token t finds it.
  const auto product = [&](size_t i, const double* with, size_t t) {
    double total = 0;
    for (size_t c = 0; c < key_dim; ++c) {
      total += std::exp(sum(t, c) - sum(i, c)) * k[i * key_dim + c] * with[t * key_dim + c];
    }
    return total;
  };
  for (size_t t = 0; t < num_rows; ++t) {
    for (size_t c = 0; c < value_dim; ++c) {
      double recalled = 0, read = 0;
      for (size_t i = 0; i < key_dim; ++i) {
        recalled += std::exp(sum(t, i)) * state[i * value_dim + c] * k[t * key_dim + i];
        read += std::exp(sum(t, i)) * state[i * value_dim + c] * q[t * key_dim + i];
      }
      for (size_t i = 0; i < t; ++i) {
        recalled += product(i, k, t) * updates[i * value_dim + c];
        read += product(i, q, t) * updates[i * value_dim + c];
      }
      if (shape.rule != RecurRule::kDelta) recalled = 0;
      updates[t * value_dim + c] = beta[t] * (v[t * value_dim + c] - recalled);
      out[t * value_dim + c] = read + product(t, q, t) * updates[t * value_dim + c];
    }
  }
  for (size_t at = 0; at < key_dim * value_dim; ++at) {
    const size_t channel = at / value_dim;
    state[at] *= std::exp(sum(num_rows - 1, channel));
    for (size_t i = 0; i < num_rows; ++i) {
      state[at] += std::exp(sum(num_rows - 1, channel) - sum(i, channel)) * k[i * key_dim + channel] *
                   updates[i * value_dim + at % value_dim];
    }
  }
}

}  // namespace mneme
