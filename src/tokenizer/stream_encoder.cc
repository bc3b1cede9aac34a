// The streaming encoder, in three stages: special tokens are found in the raw bytes; what lies between them,
// a segment, is normalised; the normal form is cut into words, and each word encoded on its own.
//
// Why every split of the input gives the same ids: each stage is a function of the bytes it has been fed in
// total, not of how they came. It decides about the front of what it holds only if the decision is the same
// for every continuation (no look-ahead ran into the end), or at a cut whose place depends on content alone
// (kMaxWordBytes from the front of the word).
//
// Why a SentencePiece text may be cut: a merge (or a unigram piece) that reaches over the boundary of two
// characters a|b gives a piece that holds "ab" side by side. Where no piece of the vocabulary does, no merge
// ever crosses, so what happens on either side cannot depend on the other: merges go by score, then position,
// and taking two independent sequences of merges in any interleaving gives the same result; for unigram the
// best path passes through the boundary, so it is the best path of each side. Frozen user-defined pieces
// count as pieces.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "mneme/tokenizer.h"
#include "tokenizer/model.h"
#include "tokenizer/text/piece_normalizer.h"
#include "tokenizer/text/unicode.h"
#include "tokenizer/word_encoder.h"

namespace mneme {
namespace {

constexpr size_t kFeedBytes = size_t{1} << 15;
constexpr char kStateVersion = 1;

// Bytes to wait for before the same undecided text is looked at again, so that feeding byte by byte stays
// linear.
size_t RetryAt(size_t undecided_bytes) { return undecided_bytes + undecided_bytes / 4 + 1; }

void PutU64(uint64_t value, std::string* out) {
  for (int i = 0; i < 8; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

class StateReader {
 public:
  explicit StateReader(std::string_view state) : state_(state) {}
  uint64_t U64() {
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value |= uint64_t{U8()} << (8 * i);
    return value;
  }
  uint8_t U8() {
    if (state_.empty()) Damaged();
    const uint8_t value = static_cast<uint8_t>(state_[0]);
    state_.remove_prefix(1);
    return value;
  }
  std::string Bytes(size_t max_bytes) {
    const uint64_t size = U64();
    if (size > state_.size() || size > max_bytes) Damaged();
    std::string bytes(state_.substr(0, size));
    state_.remove_prefix(size);
    return bytes;
  }
  void End() const {
    if (!state_.empty()) Damaged();
  }
  [[noreturn]] static void Damaged() {
    Fail(ErrorKind::kFile, "the saved state of the tokenizer is damaged; start again from the text");
  }

 private:
  std::string_view state_;
};

}  // namespace

struct MNEME_LOCAL StreamEncoder::Impl {
  Impl(Tokenizer t, EncodeOptions o)
      : tokenizer(std::move(t)), options(o), model(tokenizer.model()), words(&model), normalizer(&model) {
    Begin();
  }

  // Stage 1. Appends `bytes`, passes on what is decided.
  void FeedRaw(std::string_view bytes, bool final, std::vector<TokenId>* out);
  void SetPlain(bool value, std::vector<TokenId>* out);
  const ByteTrie& Specials() const {
    return options.parse_special && !plain ? model.all_special : model.always_special;
  }
  // Stage 2. Adds text to the segment; EndSegment ends it.
  void FeedSegment(std::string_view text, std::vector<TokenId>* out);
  void EndSegment(std::vector<TokenId>* out);
  // A user-defined token of SentencePiece: the text around it stays one segment.
  void PassSymbol(std::string_view symbol, std::vector<TokenId>* out);
  void NormalizeBytes(bool final);
  void NormalizePieces(bool final);
  // Stage 3.
  void EncodeWords(bool final, std::vector<TokenId>* out);
  void EncodeByteWords(bool final, std::vector<TokenId>* out);
  void EncodePieceWords(bool final, std::vector<TokenId>* out);
  void Emit(std::string_view word, std::vector<TokenId>* out);

  bool IsByteLevel() const { return model.spec.algorithm == Algorithm::kByteBpe; }
  void Clear();
  // Gets ready for a text at its place.
  void Begin();

  Tokenizer tokenizer;
  EncodeOptions options;
  const TokenizerModel& model;
  WordEncoder words;
  PieceNormalizer normalizer;

  // What a saved state holds.
  std::string raw;       // stage 1: may still be part of a special token
  std::string unnormal;  // stage 2: may still combine with what follows
  std::string normal;    // stage 3: the word that is not ended yet
  bool started = false;  // something was fed since Finish
  bool in_segment = false;
  bool skip_space = false;     // after a special token that takes the white space along
  bool after_unknown = false;  // further unknowns melt into the one before
  bool plain = false;          // `raw` came through FeedPlain

  // Where to go on looking; nothing depends on them but time.
  size_t retry_unnormal = 0;
  size_t retry_normal = 0;
  size_t scanned = 0;  // pieces: characters of `normal` before this have no cut among them
  std::vector<TokenId> word_ids;
  std::vector<uint32_t> word_lengths;
};

void StreamEncoder::Impl::Clear() {
  raw.clear();
  unnormal.clear();
  normal.clear();
  started = in_segment = skip_space = after_unknown = plain = false;
  retry_unnormal = retry_normal = scanned = 0;
  Begin();
}

void StreamEncoder::Impl::Begin() {
  normalizer.Restart(options.place == TextPlace::kStart);
  if (options.place != TextPlace::kWithin) return;
  in_segment = true;
  normalizer.set_state({.first_segment = 0, .started = 1});
}

void StreamEncoder::Impl::FeedRaw(std::string_view bytes, bool final, std::vector<TokenId>* out) {
  const ByteTrie& specials = Specials();
  if (specials.empty() && !skip_space) {
    FeedSegment(bytes, out);
    return;
  }
  raw.append(bytes);
  size_t start = 0, at = 0;
  while (at < raw.size()) {
    if (skip_space && (raw[at] == ' ' || (raw[at] >= '\t' && raw[at] <= '\r'))) {
      start = ++at;
      continue;
    }
    skip_space = false;
    if (!specials.Starts(static_cast<uint8_t>(raw[at]))) {
      ++at;
      continue;
    }
    TokenId id = -1;
    bool touched = false;
    const size_t length = specials.LongestMatch(std::string_view(raw).substr(at), &id, &touched);
    if (touched && !final) break;
    if (length == 0) {
      ++at;
      continue;
    }
    FeedSegment(std::string_view(raw).substr(start, at - start), out);
    const size_t index = static_cast<size_t>(id);
    if (model.is_format[index] && model.spec.user_defined_inline) {
      PassSymbol(model.pieces[index], out);
    } else {
      EndSegment(out);
      normalizer.Restart(false);
    }
    out->push_back(id);
    skip_space = model.strips_right[index];
    start = at += length;
  }
  FeedSegment(std::string_view(raw).substr(start, at - start), out);
  raw.erase(0, at);
}

void StreamEncoder::Impl::FeedSegment(std::string_view text, std::vector<TokenId>* out) {
  if (text.empty()) return;
  if (IsByteLevel() && !in_segment && model.spec.add_prefix_space && text[0] != ' ') normal.push_back(' ');
  in_segment = true;
  if (IsByteLevel() && !model.spec.nfc) {
    normal.append(text);
  } else {
    unnormal.append(text);
    if (unnormal.size() < retry_unnormal) return;
    if (IsByteLevel())
      NormalizeBytes(false);
    else
      NormalizePieces(false);
    retry_unnormal = unnormal.empty() ? 0 : RetryAt(unnormal.size());
  }
  EncodeWords(false, out);
}

void StreamEncoder::Impl::EndSegment(std::vector<TokenId>* out) {
  if (in_segment) {
    if (IsByteLevel())
      NormalizeBytes(true);
    else
      NormalizePieces(true);
    EncodeWords(true, out);
  }
  in_segment = after_unknown = false;
  retry_unnormal = retry_normal = scanned = 0;
}

void StreamEncoder::Impl::PassSymbol(std::string_view symbol, std::vector<TokenId>* out) {
  in_segment = true;
  NormalizePieces(true);
  normalizer.BeforeSymbol(symbol, &normal);
  EncodeWords(true, out);
  after_unknown = false;
  retry_unnormal = retry_normal = scanned = 0;
}

// NFC from one boundary to the next. Longer runs of combining characters are cut at kMaxWordBytes.
void StreamEncoder::Impl::NormalizeBytes(bool final) {
  const std::string_view text(unnormal);
  const size_t usable = final ? text.size() : text.size() - IncompleteTail(text);
  size_t done = 0, run = 0;
  for (size_t at = 0; at < usable;) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      run = at++;
      continue;
    }
    const Utf8Char c = DecodeUtf8(text.data() + at, usable - at);
    if (!c.valid || IsNormalizationBoundary(c.code)) {
      run = at;
    } else if (at + c.length - run > kMaxWordBytes) {
      AppendNfc(text.substr(done, at - done), &normal);
      done = run = at;
    }
    at += c.length;
  }
  if (final) run = text.size();
  AppendNfc(text.substr(done, run - done), &normal);
  unnormal.erase(0, run);
}

void StreamEncoder::Impl::NormalizePieces(bool final) {
  unnormal.erase(0, normalizer.Feed(unnormal, final, &normal));
}

void StreamEncoder::Impl::EncodeWords(bool final, std::vector<TokenId>* out) {
  if (normal.size() < retry_normal && !final) return;
  if (IsByteLevel())
    EncodeByteWords(final, out);
  else
    EncodePieceWords(final, out);
}

void StreamEncoder::Impl::EncodeByteWords(bool final, std::vector<TokenId>* out) {
  const PreTokenizer kind = model.spec.pre_tokenizer;
  const bool splits = SplitsUnits(kind);
  size_t done = 0;
  retry_normal = 0;
  while (done < normal.size()) {
    std::string_view window = std::string_view(normal).substr(done, kMaxWordBytes);
    // A full window is as good as the end of the text: the cut depends on the content alone.
    const bool full = window.size() == kMaxWordBytes;
    if (full || !final) window.remove_suffix(IncompleteTail(window));
    bool touched = false;
    const size_t length = window.empty() ? 0 : NextUnit(kind, window, &touched);
    if (length == 0 || (touched && !full && !final)) {
      retry_normal = RetryAt(normal.size() - done);
      break;
    }
    const std::string_view unit = window.substr(0, length);
    if (splits) {
      word_lengths.clear();
      SplitUnit(kind, unit, &word_lengths);
      size_t at = 0;
      for (uint32_t part : word_lengths) {
        Emit(unit.substr(at, part), out);
        at += part;
      }
    } else {
      Emit(unit, out);
    }
    done += length;
  }
  normal.erase(0, done);
}

void StreamEncoder::Impl::EncodePieceWords(bool final, std::vector<TokenId>* out) {
  const std::string_view text(normal);
  size_t start = 0, at = scanned;
  // `scanned` is where the last character seen ends; its code is found again from the bytes before.
  uint32_t before = 0;
  if (at > 0) {
    size_t back = at - 1;
    while (back > 0 && (static_cast<uint8_t>(text[back]) & 0xC0) == 0x80) --back;
    before = DecodeUtf8(text.data() + back, at - back).code;
  }
  while (at < text.size()) {
    const Utf8Char c = DecodeUtf8(text.data() + at, text.size() - at);
    if (at > start && (!model.joined.Has(before, c.code) || at + c.length - start > kMaxWordBytes)) {
      Emit(text.substr(start, at - start), out);
      start = at;
    }
    before = c.code;
    at += c.length;
  }
  if (final && at > start) {
    Emit(text.substr(start), out);
    start = at;
  }
  scanned = at - start;
  normal.erase(0, start);
}

void StreamEncoder::Impl::Emit(std::string_view word, std::vector<TokenId>* out) {
  if (IsByteLevel()) {
    words.Encode(word, out);
    return;
  }
  word_ids.clear();
  words.Encode(word, &word_ids);
  for (TokenId id : word_ids) {
    const bool unknown = id == model.spec.unk_id;
    if (!(unknown && after_unknown)) out->push_back(id);
    after_unknown = unknown;
  }
}

StreamEncoder::StreamEncoder(Tokenizer tokenizer, EncodeOptions options)
    : impl_(std::make_unique<Impl>(std::move(tokenizer), options)) {}
StreamEncoder::~StreamEncoder() = default;
StreamEncoder::StreamEncoder(StreamEncoder&&) noexcept = default;
StreamEncoder& StreamEncoder::operator=(StreamEncoder&&) noexcept = default;

// Text of one kind cannot be part of a special token that began in the other.
void StreamEncoder::Impl::SetPlain(bool value, std::vector<TokenId>* out) {
  if (value == plain) return;
  FeedRaw({}, true, out);
  plain = value;
}

void StreamEncoder::Feed(std::string_view bytes, std::vector<TokenId>* out) { FeedAs(false, bytes, out); }
void StreamEncoder::FeedPlain(std::string_view bytes, std::vector<TokenId>* out) { FeedAs(true, bytes, out); }

void StreamEncoder::FeedAs(bool plain, std::string_view bytes, std::vector<TokenId>* out) {
  if (bytes.empty()) return;
  impl_->SetPlain(plain, out);
  if (!impl_->started && impl_->options.add_bos && impl_->model.spec.bos_id >= 0)
    out->push_back(impl_->model.spec.bos_id);
  impl_->started = true;
  for (size_t at = 0; at < bytes.size(); at += kFeedBytes)
    impl_->FeedRaw(bytes.substr(at, kFeedBytes), false, out);
}

void StreamEncoder::Finish(std::vector<TokenId>* out) {
  const VocabularySpec& spec = impl_->model.spec;
  if (!impl_->started && impl_->options.add_bos && spec.bos_id >= 0) out->push_back(spec.bos_id);
  impl_->FeedRaw({}, true, out);
  impl_->EndSegment(out);
  if (impl_->options.add_eos && spec.eos_id >= 0) out->push_back(spec.eos_id);
  impl_->Clear();
}

size_t StreamEncoder::pending_bytes() const {
  return impl_->raw.size() + impl_->unnormal.size() + impl_->normal.size();
}

std::string StreamEncoder::SaveState() const {
  const Impl& impl = *impl_;
  std::string state(1, kStateVersion);
  PutU64(impl.model.fingerprint, &state);
  const EncodeOptions& o = impl.options;
  state.push_back(static_cast<char>(o.parse_special | o.add_bos << 1 | o.add_eos << 2));
  state.push_back(static_cast<char>(impl.started | impl.in_segment << 1 | impl.skip_space << 2 |
                                    impl.after_unknown << 3 | impl.plain << 4));
  const PieceNormalizer::State& n = impl.normalizer.state();
  state.push_back(static_cast<char>(n.first_segment | n.started << 1 | n.after_space << 2));
  PutU64(n.held_spaces, &state);
  for (const std::string* bytes : {&impl.raw, &impl.unnormal, &impl.normal}) {
    PutU64(bytes->size(), &state);
    state.append(*bytes);
  }
  return state;
}

void StreamEncoder::RestoreState(std::string_view state) {
  Impl& impl = *impl_;
  StateReader reader(state);
  if (reader.U8() != kStateVersion)
    Fail(ErrorKind::kMismatch,
         "the saved state of the tokenizer is of another version; start again from the text");
  const uint64_t fingerprint = reader.U64();
  if (fingerprint != impl.model.fingerprint)
    Fail(ErrorKind::kMismatch,
         "the saved state belongs to another tokenizer (fingerprint {:016x}, this one is {:016x}); use the "
         "model "
         "that it was saved with",
         fingerprint, impl.model.fingerprint);
  const EncodeOptions& o = impl.options;
  if (reader.U8() != (o.parse_special | o.add_bos << 1 | o.add_eos << 2))
    Fail(ErrorKind::kMismatch, "the state was saved with other options for special tokens, BOS or EOS");
  const uint8_t flags = reader.U8();
  const uint8_t normalizer_flags = reader.U8();
  if (flags > 31 || normalizer_flags > 7) StateReader::Damaged();
  PieceNormalizer::State n;
  n.first_segment = normalizer_flags & 1;
  n.started = normalizer_flags >> 1 & 1;
  n.after_space = normalizer_flags >> 2 & 1;
  n.held_spaces = reader.U64();
  if (n.held_spaces >= PieceNormalizer::kMaxHeldSpaces) StateReader::Damaged();
  std::string buffers[3];
  for (std::string& buffer : buffers) buffer = reader.Bytes(size_t{1} << 24);
  reader.End();
  // Only now is anything changed.
  impl.Clear();
  impl.started = (flags & 1) != 0;
  impl.in_segment = (flags & 2) != 0;
  impl.skip_space = (flags & 4) != 0;
  impl.after_unknown = (flags & 8) != 0;
  impl.plain = (flags & 16) != 0;
  impl.normalizer.set_state(n);
  impl.raw = std::move(buffers[0]);
  impl.unnormal = std::move(buffers[1]);
  impl.normal = std::move(buffers[2]);
}

}  // namespace mneme
