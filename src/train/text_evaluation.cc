#include "train/text_evaluation.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace mneme::train {
namespace {

using torch::Tensor;

int64_t BytesOfRow(const Tensor& tensor) {
  if (!tensor.defined() || tensor.numel() == 0) return 0;
  return tensor.numel() / tensor.size(0) * static_cast<int64_t>(tensor.element_size());
}

// The ids of the front of a text, in pieces of a few kilobytes.
class Reader {
 public:
  Reader(const Tokenizer& tokenizer, std::string_view text) : text_(text), encoder_(tokenizer) {}

  // One id more; false at the end.
  bool Next(TokenId* id) {
    while (at_ == ids_.size() && !is_over_) {
      ids_.clear();
      at_ = 0;
      const size_t count = std::min<size_t>(4096, text_.size() - offset_);
      encoder_.Feed(text_.substr(offset_, count), &ids_);
      offset_ += count;
      is_over_ = offset_ == text_.size();
      if (is_over_) encoder_.Finish(&ids_);
    }
    if (at_ == ids_.size()) return false;
    *id = ids_[at_++];
    return true;
  }

 private:
  std::string_view text_;
  StreamEncoder encoder_;
  std::vector<TokenId> ids_;
  size_t at_ = 0;
  size_t offset_ = 0;
  bool is_over_ = false;
};

// Inputs and targets of one segment; the rest is padding without loss, which nothing before it can see.
struct SegmentIds {
  std::vector<int64_t> inputs, targets;
  std::vector<bool> counts;
};

struct SegmentSum {
  double nll = 0;
  int64_t num_tokens = 0;
};

SegmentSum Score(const Decoder& decoder, const SegmentIds& ids, DecoderState* state) {
  const auto device = decoder.options().device();
  const Tensor tokens = torch::tensor(ids.inputs, torch::kInt64).unsqueeze(0).to(device);
  const Tensor targets = torch::tensor(ids.targets, torch::kInt64).unsqueeze(0).to(device);
  const Tensor resets = torch::zeros({1}, decoder.options());
  const Tensor logits = decoder.Logits(decoder.Segment(tokens, resets, state));
  const Tensor nll = -torch::log_softmax(logits, -1)
                          .gather(-1, targets.unsqueeze(-1))
                          .flatten()
                          .to(torch::kCPU, torch::kFloat64)
                          .contiguous();
  SegmentSum sum;
  for (size_t i = 0; i < ids.counts.size(); ++i) {
    if (!ids.counts[i]) continue;
    sum.nll += nll.data_ptr<double>()[i];
    ++sum.num_tokens;
  }
  return sum;
}

// Neighbouring segments are alike, so the error comes from the means of longer stretches.
void Summarise(const std::vector<SegmentSum>& segments, TextScore* score) {
  constexpr size_t kMaxBlocks = 64;
  const size_t size = (segments.size() + kMaxBlocks - 1) / kMaxBlocks;
  double total = 0;
  for (size_t first = 0; first < segments.size(); first += size) {
    SegmentSum block;
    for (size_t i = first; i < std::min(first + size, segments.size()); ++i) {
      block.nll += segments[i].nll;
      block.num_tokens += segments[i].num_tokens;
    }
    total += block.nll;
    score->num_tokens += block.num_tokens;
    // A shorter last one would count as much as the others.
    const bool is_whole = first + size <= segments.size() || first == 0;
    if (is_whole && block.num_tokens > 0) {
      score->blocks.push_back(block.nll / static_cast<double>(block.num_tokens));
    }
  }
  score->nll = total / static_cast<double>(score->num_tokens);
  const auto count = static_cast<double>(score->blocks.size());
  double mean = 0, square = 0;
  for (const double block : score->blocks) mean += block / count;
  for (const double block : score->blocks) square += (block - mean) * (block - mean);
  score->standard_error = count < 2 ? std::nan("") : std::sqrt(square / (count - 1) / count);
}

}  // namespace

HeldBytes CountHeldBytes(const Decoder& decoder, const DecoderState& state) {
  HeldBytes held;
  for (const LayerState& layer : state.layers) {
    held.memory += BytesOfRow(layer.memory.m);
    if (decoder.update() != MemoryUpdate::kGatedDelta) held.memory += BytesOfRow(layer.memory.z);
    held.window += BytesOfRow(layer.kept_k) + BytesOfRow(layer.kept_v) + BytesOfRow(layer.kept_write);
    held.cache += BytesOfRow(layer.hidden);
    held.neighbours += BytesOfRow(layer.knn_k) + BytesOfRow(layer.knn_v);
  }
  return held;
}

TextScore EvaluateText(const Decoder& decoder, const Tokenizer& tokenizer, std::string_view text,
                       const TextEvaluation& options) {
  torch::NoGradGuard no_grad;
  TextScore score;
  Reader reader(tokenizer, text);
  TokenId next = 0;
  bool has_next = reader.Next(&next);
  DecoderState state = decoder.EmptyState(1);
  std::vector<SegmentSum> segments;
  int64_t num_read = 0, since_reset = 0;
  std::vector<TokenId> front = options.front;
  const auto segment = static_cast<size_t>(options.segment);
  MNEME_CHECK(front.size() < segment);
  while (has_next && num_read + 1 < options.max_tokens) {
    if (options.stop.stop_requested()) {
      score.stopped = true;
      return score;
    }
    SegmentIds ids;
    const auto put = [&](TokenId input, TokenId target, bool counts) {
      ids.inputs.push_back(input);
      ids.targets.push_back(target);
      ids.counts.push_back(counts);
    };
    for (const TokenId id : front) put(id, 0, false);
    front.clear();
    while (ids.inputs.size() < segment && has_next && num_read + 1 < options.max_tokens) {
      const TokenId input = next;
      has_next = reader.Next(&next);
      if (!has_next) break;
      ++num_read;
      put(input, next, true);
      score.num_bytes += static_cast<int64_t>(tokenizer.Bytes(next).size());
    }
    if (std::find(ids.counts.begin(), ids.counts.end(), true) == ids.counts.end()) break;
    while (ids.inputs.size() < segment) put(0, 0, false);
    segments.push_back(Score(decoder, ids, &state));
    if (++since_reset == options.reset_segments) {
      state = decoder.EmptyState(1);
      since_reset = 0;
      front = options.front;
    }
    const HeldBytes held = CountHeldBytes(decoder, state);
    if (held.total() > score.held.total()) score.held = held;
  }
  if (segments.empty()) Fail(ErrorKind::kInput, "a text to evaluate has fewer than two tokens");
  Summarise(segments, &score);
  return score;
}

}  // namespace mneme::train
