#include "eval/tasks/recall_stream.h"

#include <algorithm>

#include "base/error.h"
#include "base/text/units.h"

namespace mneme {
namespace {

// Control tokens are what a template writes; in all other text they stay letters (FeedPlain).
EncodeOptions OptionsFor(const Tokenizer& tokenizer, const RecallTurn* turn) {
  EncodeOptions options;
  options.parse_special = turn != nullptr;
  options.add_bos = turn != nullptr ? turn->adds_bos : tokenizer.adds_bos();
  return options;
}

}  // namespace

RecallTurn TurnAround(const Tokenizer& tokenizer, const std::vector<Segment>& prompt,
                      std::string_view marker) {
  RecallTurn turn;
  size_t times = 0;
  for (const Segment& segment : prompt) {
    const size_t at = segment.text.find(marker);
    if (at == std::string::npos) {
      (times == 0 ? turn.before : turn.after).push_back(segment);
      continue;
    }
    ++times;
    turn.before.push_back({segment.text.substr(0, at), segment.kind});
    turn.after.push_back({segment.text.substr(at + marker.size()), segment.kind});
  }
  if (times != 1) {
    Fail(ErrorKind::kInput, "the chat template writes a user's words {} times into the prompt", times);
  }
  const auto count = [&](std::span<const Segment> segments) {
    return std::ssize(EncodeSegments(tokenizer, segments, /*add_bos=*/false));
  };
  turn.adds_bos = std::ssize(EncodePrompt(tokenizer, prompt)) > count(prompt);
  turn.num_before = count(turn.before) + (turn.adds_bos ? 1 : 0);
  turn.num_after = count(turn.after);
  return turn;
}

RecallStream::RecallStream(Session session, const Haystack& haystack, size_t used_before,
                           const TokensRead& on_read, StopToken stop, const RecallTurn* turn)
    : session_(std::move(session)),
      encoder_(session_.model().tokenizer(), OptionsFor(session_.model().tokenizer(), turn)),
      chunk_(static_cast<size_t>(session_.max_rows())),
      haystack_(&haystack),
      used_before_(used_before),
      on_read_(&on_read),
      stop_(stop),
      turn_(turn) {
  NotePeak();
}

size_t RecallStream::UsedBytes(const Model& model) {
  return model.engine().memory().used_bytes - model.activation_bytes();
}

void RecallStream::NotePeak() {
  const size_t used = UsedBytes(session_.model());
  peak_bytes_ = std::max(peak_bytes_, used > used_before_ ? used - used_before_ : size_t{0});
}

void RecallStream::Take() {
  const size_t count = waiting_.size() / chunk_ * chunk_;
  if (count == 0) return;
  const auto fed = static_cast<size_t>(session_.Feed(std::span(waiting_).first(count), stop_));
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(fed));
  NotePeak();
  (*on_read_)(static_cast<int64_t>(fed));
  if (fed < count) Fail(ErrorKind::kInterrupted, "interrupted");
}

void RecallStream::Flush() {
  Take();
  if (waiting_.empty()) return;
  const size_t count = waiting_.size();
  const auto fed = static_cast<size_t>(session_.Feed(waiting_, stop_));
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(fed));
  NotePeak();
  (*on_read_)(static_cast<int64_t>(fed));
  if (fed < count) Fail(ErrorKind::kInterrupted, "interrupted");
}

void RecallStream::Text(std::string_view text) {
  encoder_.FeedPlain(text, &waiting_);
  Take();
}

void RecallStream::BeginTurn() {
  if (turn_ == nullptr) return;
  FeedSegments(turn_->before, &encoder_, &waiting_);
  Take();
}

void RecallStream::Append(const Haystack::Unit& unit) {
  if (in_filler_) encoder_.FeedPlain(unit.gap, &waiting_);
  in_filler_ = true;
  Text(unit.text);
}

std::vector<TokenId> RecallStream::Ending(std::string_view text) const {
  StreamEncoder copy(session_.model().tokenizer(), OptionsFor(session_.model().tokenizer(), turn_));
  copy.RestoreState(encoder_.SaveState());
  std::vector<TokenId> ids;
  copy.FeedPlain(text, &ids);
  copy.Finish(&ids);
  return ids;
}

std::vector<TokenId> RecallStream::Ending(std::string_view question, std::string_view answer) const {
  StreamEncoder copy(session_.model().tokenizer(), OptionsFor(session_.model().tokenizer(), turn_));
  copy.RestoreState(encoder_.SaveState());
  std::vector<TokenId> ids;
  copy.FeedPlain(question, &ids);
  if (turn_ != nullptr) FeedSegments(turn_->after, &copy, &ids);
  copy.FeedPlain(answer, &ids);
  copy.Finish(&ids);
  return ids;
}

int64_t RecallStream::CountWith(std::string_view text) const {
  return num_tokens() + static_cast<int64_t>(Ending(text).size());
}

void RecallStream::Filler(int64_t end, std::string_view suffix, FillerCut cut) {
  // A token stands for a byte or more (a few at the edges apart), so far from the end there is nothing to
  // count.
  constexpr size_t kEdgeTokens = 4;
  for (;;) {
    Haystack::Cursor next = cursor_;
    Haystack::Unit unit;
    if (!haystack_->Next(&next, &unit)) {
      // Less than a unit may be missing.
      if (CountWith(suffix) + static_cast<int64_t>(kEdgeTokens) >= end) return;
      Fail(
          ErrorKind::kInput,
          "the haystack {} ends after {} tokens, and {} are asked for; ask for less, or repeat it (--repeat)",
          haystack_->name(), FormatCount(num_tokens()), FormatCount(end));
    }
    const size_t bytes =
        encoder_.pending_bytes() + unit.gap.size() + unit.text.size() + suffix.size() + kEdgeTokens;
    if (num_tokens() + static_cast<int64_t>(bytes) > end) break;
    Append(unit);
    cursor_ = next;
  }
  FillExactly(end, suffix, cut);
}

void RecallStream::FillExactly(int64_t end, std::string_view suffix, FillerCut cut) {
  struct Place {
    size_t bytes;
    Haystack::Cursor cursor;
  };
  std::string text;
  std::vector<Place> places = {{0, cursor_}};
  const auto fits = [&](size_t bytes) {
    return CountWith(text.substr(0, bytes) + std::string(suffix)) <= end;
  };
  Haystack::Cursor cursor = cursor_;
  bool ended = false;
  for (size_t batch = 1; !ended && fits(text.size()); batch *= 2) {
    for (size_t i = 0; i < batch && !ended; ++i) {
      const Haystack::Cursor before = cursor;
      Haystack::Unit unit;
      ended = !haystack_->Next(&cursor, &unit);
      if (ended) break;
      if (in_filler_ || !text.empty()) text += unit.gap;
      const size_t begin = text.size();
      text += unit.text;
      for (const size_t point : CutPoints(unit.text, cut))
        places.push_back({begin + point, point == unit.text.size()
                                             ? cursor
                                             : haystack_->Inside(before, cursor, unit, point)});
    }
  }
  // Counts grow with the text, but for a token at the cut.
  size_t low = 0, high = places.size();
  while (high - low > 1) {
    const size_t middle = (low + high) / 2;
    (fits(places[middle].bytes) ? low : high) = middle;
  }
  while (low > 0 && !fits(places[low].bytes)) --low;
  if (ended && low + 1 == places.size() && CountWith(text + std::string(suffix)) + 4 < end) {
    Fail(ErrorKind::kInput,
         "the haystack {} ends after {} tokens, and {} are asked for; ask for less, or repeat it (--repeat)",
         haystack_->name(), FormatCount(num_tokens()), FormatCount(end));
  }
  if (low == 0) return;
  Text(std::string_view(text).substr(0, places[low].bytes));
  in_filler_ = true;
  cursor_ = places[low].cursor;
}

void RecallStream::EndFiller(std::string_view end) {
  if (in_filler_) Text(end);
  in_filler_ = false;
}

std::unique_ptr<RecallStream> RecallStream::Clone() {
  Flush();
  const size_t used_before = UsedBytes(session_.model());
  auto copy =
      std::make_unique<RecallStream>(session_.Clone(), *haystack_, used_before, *on_read_, stop_, turn_);
  copy->encoder_.RestoreState(encoder_.SaveState());
  copy->cursor_ = cursor_;
  copy->in_filler_ = in_filler_;
  copy->peak_bytes_ = std::max(copy->peak_bytes_, peak_bytes_);
  return copy;
}

}  // namespace mneme
