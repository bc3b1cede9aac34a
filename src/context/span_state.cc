// The stream of a SpanContext as a thing that is taken back, saved, copied and accounted for.
#include <algorithm>

#include "base/error.h"
#include "context/span_context.h"

namespace mneme {

bool SpanContext::IsIntact(int64_t row) const {
  if (row >= oldest_row_) return true;
  for (const Layer& layer : layers_) {
    for (const std::optional<LayerTrack>& track : layer.tracks) {
      if (track.has_value() && track->plan.Need(row) != track->plan.Need(oldest_row_)) return false;
    }
  }
  return true;
}

int64_t SpanContext::MaxRewind() const {
  int64_t low = 0, high = std::min(num_tokens_, settings_.max_rewind);
  while (low < high) {  // what holds for a row holds for later ones
    const int64_t middle = (low + high + 1) / 2;
    if (IsIntact(num_tokens_ - middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

void SpanContext::Rewind(int64_t count) {
  MNEME_CHECK(chunk_tokens_ == 0);
  const int64_t most = MaxRewind();
  if (count < 0 || count > most) {
    Fail(ErrorKind::kInput, "cannot take back {} tokens: {} can be taken back here (max_rewind is {})", count,
         most, settings_.max_rewind);
  }
  num_tokens_ -= count;
  CutTables(num_tokens_);
}

std::unique_ptr<SpanContext> SpanContext::ForkSpans(EvictionSink* sink) const {
  return std::unique_ptr<SpanContext>(new SpanContext(*this, sink));
}

std::span<const TokenId> SpanContext::BlockIds(int64_t block) const {
  constexpr int64_t kBlock = static_cast<int64_t>(kBlockTokens);
  return std::span(ids_).subspan(static_cast<size_t>(block * kBlock - ids_begin_), kBlockTokens);
}

// The tail of a state begins where the row after the longest rewind needs it; what was not evicted yet is
// kept for that.
int64_t SpanContext::SavedBegin(size_t track, const TrackPlan& plan, int64_t oldest_row) const {
  if (KeepsIds() && plan.evicts) {
    return num_evicted_[track] * static_cast<int64_t>(kBlockTokens);
  }
  return plan.Need(oldest_row);
}

void SpanContext::Save(StateWriter& writer) const {
  MNEME_CHECK(chunk_tokens_ == 0);
  const int64_t rewind = MaxRewind();
  writer.Put<int64_t>(num_tokens_);
  writer.Put<int64_t>(start_position_);
  writer.Put<uint64_t>(layers_.size());
  writer.Put<int64_t>(rewind);
  if (KeepsIds()) {
    writer.PutVector(num_evicted_);
    writer.Put<int64_t>(ids_begin_);
    writer.PutVector(ids_);
  }
  for (const Layer& layer : layers_) {
    for (size_t i = 0; i < layer.tracks.size(); ++i) {
      if (!layer.tracks[i].has_value()) continue;
      const TrackPlan& plan = layer.tracks[i]->plan;
      const int64_t end = plan.End(num_tokens_);
      layer.tracks[i]->table.Save(writer, std::min(end, SavedBegin(i, plan, num_tokens_ - rewind)), end);
    }
  }
}

void SpanContext::Restore(StateReader& reader) {
  MNEME_CHECK(chunk_tokens_ == 0 && num_tokens_ == 0);
  const auto num_tokens = reader.Get<int64_t>();
  const auto start = reader.Get<int64_t>();
  const auto num_layers = reader.Get<uint64_t>();
  const auto rewind = reader.Get<int64_t>();
  if (num_tokens < 0 || start != start_position_ || num_tokens > kMostPosition - start ||
      num_layers != layers_.size()) {
    Fail(ErrorKind::kMismatch,
         "state: {} tokens from position {} in {} layers do not fit a context of {} layers from {}",
         num_tokens, start, num_layers, layers_.size(), start_position_);
  }
  if (rewind < 0 || rewind > std::min(num_tokens, settings_.max_rewind)) {
    Fail(ErrorKind::kFile, "state: {} of its {} tokens can be taken back where {} may be", rewind, num_tokens,
         settings_.max_rewind);
  }
  if (KeepsIds()) RestoreIds(reader, num_tokens, num_tokens - rewind);
  // A hostile count must not make an unbounded context allocate more than the file could hold.
  for (const Layer& layer : layers_) {
    for (const std::optional<LayerTrack>& track : layer.tracks) {
      if (!track.has_value() || track->plan.is_bounded()) continue;
      if (static_cast<uint64_t>(num_tokens) / kBlockTokens >
          reader.remaining_bytes() / track->plan.layout.block_bytes()) {
        Fail(ErrorKind::kFile, "state: {} tokens cannot fit into the {} bytes that are left", num_tokens,
             reader.remaining_bytes());
      }
    }
  }
  Grow(num_tokens);
  for (Layer& layer : layers_) {
    for (size_t i = 0; i < layer.tracks.size(); ++i) {
      if (!layer.tracks[i].has_value()) continue;
      LayerTrack& track = *layer.tracks[i];
      const int64_t end = track.plan.End(num_tokens);
      track.table.Restore(reader, std::min(end, SavedBegin(i, track.plan, num_tokens - rewind)), end);
    }
  }
  num_tokens_ = num_tokens;
  oldest_row_ = num_tokens - rewind;
}

// With what will be evicted come its ids.
void SpanContext::RestoreIds(StateReader& reader, int64_t num_tokens, int64_t oldest_row) {
  num_evicted_ = reader.GetVector<int64_t>();
  ids_begin_ = reader.Get<int64_t>();
  ids_ = reader.GetVector<TokenId>();
  constexpr int64_t kBlock = static_cast<int64_t>(kBlockTokens);
  bool is_sound = num_evicted_.size() == policy_->tracks().size() && ids_begin_ >= 0 &&
                  ids_begin_ + static_cast<int64_t>(ids_.size()) == num_tokens;
  for (size_t i = 0; is_sound && i < num_evicted_.size(); ++i) {
    for (const Layer& layer : layers_) {
      if (!Evicts(layer, i)) continue;
      const int64_t need = layer.tracks[i]->plan.Need(oldest_row);
      is_sound = is_sound && num_evicted_[i] >= 0 && num_evicted_[i] <= need / kBlock &&
                 num_evicted_[i] * kBlock >= ids_begin_;
    }
  }
  if (!is_sound)
    Fail(ErrorKind::kFile, "state: what was evicted does not agree with its {} tokens", num_tokens);
}

std::vector<LedgerRange> SpanContext::Ledger() const {
  std::vector<LedgerRange> ranges;
  const auto add = [&](int64_t begin, int64_t end, TokenFate fate) {
    if (begin < end) ranges.push_back({start_position_ + begin, start_position_ + end, fate});
  };
  SpanList spans;
  policy_->View(num_tokens_, &spans);  // of the next token
  int64_t at = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    const SpanView& span = spans[i];
    int64_t begin = span.begin;
    if (slots_[i].is_here) {
      // What the layer with the longest window of its own still sees.
      int64_t seen = num_tokens_;
      for (const LayerAttention& layer : shape_.layers) {
        const int64_t window = layer.layer_window;
        seen = std::min(seen, window > 0 ? std::max(begin, num_tokens_ - window + 1) : begin);
      }
      begin = seen;
    }
    const int64_t end = std::min(span.end, num_tokens_);
    if (begin >= end) continue;
    add(at, begin, TokenFate::kDropped);
    add(begin, end,
        slots_[i].top_k > 0 ? TokenFate::kMiddle
        : slots_[i].is_here ? TokenFate::kWindow
                            : TokenFate::kSink);
    at = end;
  }
  add(at, num_tokens_, TokenFate::kDropped);
  return ranges;
}

}  // namespace mneme
