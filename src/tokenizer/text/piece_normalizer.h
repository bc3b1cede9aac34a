// SentencePiece's normalisation as a stream: character map, spaces to U+2581, the space put in front, runs of
// spaces made one. Internal to the folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tokenizer/model.h"

namespace mneme {

// One thread at a time. The model must outlive it.
class PieceNormalizer {
 public:
  explicit PieceNormalizer(const TokenizerModel* model) : model_(model) {}

  // Takes from the front of `text` what no later text can change and appends its normal form to *out; returns
  // the bytes taken. With `final` takes all.
  size_t Feed(std::string_view text, bool final, std::string* out);
  // Before a token that stands in the middle of a segment, after a final Feed: what its first character would
  // bring about.
  void BeforeSymbol(std::string_view symbol, std::string* out);
  // After the final Feed: drops trailing spaces where the model does, and gets ready for a new segment.
  // `first` tells whether that is the first one of a text.
  void Restart(bool first);

  static constexpr uint64_t kMaxHeldSpaces = 4096;
  // What Feed remembers, for saved states.
  struct State {
    uint8_t first_segment = 1;  // no special token has come yet
    uint8_t started = 0;        // the first character is past
    uint8_t after_space = 0;    // further spaces melt into the one before
    uint64_t held_spaces = 0;   // U+2581 that are written once something follows
  };
  const State& state() const { return state_; }
  void set_state(const State& state) { state_ = state; }

 private:
  // Length of the next piece of input to normalise as one and its result; *touched as in Charsmap.
  size_t NextPrefix(std::string_view text, std::string_view* result, bool* touched) const;
  // The first character of a segment, with what is put before it; false if it is dropped.
  bool Start(std::string_view normalized, std::string* out);
  void Write(std::string_view normalized, std::string* out);
  void WriteHeldSpaces(std::string* out);
  void WriteSpace(std::string* out);

  const TokenizerModel* model_;
  State state_;
};

}  // namespace mneme
