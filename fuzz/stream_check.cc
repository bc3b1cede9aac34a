#include "fuzz/stream_check.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace mneme::fuzz {

bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const size_t length = lead < 0x80   ? 1
                          : lead < 0xC2 ? 0
                          : lead < 0xE0 ? 2
                          : lead < 0xF0 ? 3
                          : lead < 0xF5 ? 4
                                        : 0;
    if (length == 0 || i + length > text.size()) return false;
    uint32_t character = length == 1 ? lead : lead & (0x7Fu >> length);
    for (size_t j = 1; j < length; ++j) {
      const auto next = static_cast<uint8_t>(text[i + j]);
      if ((next & 0xC0) != 0x80) return false;
      character = character << 6 | (next & 0x3F);
    }
    if (length == 3 && (character < 0x800 || (character >= 0xD800 && character < 0xE000))) return false;
    if (length == 4 && (character < 0x10000 || character > 0x10FFFF)) return false;
    i += length;
  }
  return true;
}

namespace {

std::vector<TokenId> EncodePiecewise(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options,
                                     Random& random) {
  StreamEncoder encoder(tokenizer, options);
  std::vector<TokenId> ids;
  const uint64_t longest = 1 + random.Below(text.size() + 1);
  const uint64_t shortest = text.size() / 256;  // long texts in few pieces: a state holds what is pending
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = std::min<size_t>(std::max(shortest, random.Below(longest + 1)), text.size() - at);
    encoder.Feed(text.substr(at, bytes), &ids);
    at += bytes;
    if (random.Below(8) == 0) {
      StreamEncoder other(tokenizer, options);
      other.RestoreState(encoder.SaveState());
      encoder = std::move(other);
    }
  }
  encoder.Finish(&ids);
  return ids;
}

}  // namespace

void CheckStreams(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options, uint64_t splits) {
  Random random(splits);
  const std::vector<TokenId> whole = tokenizer.Encode(text, options);
  MNEME_CHECK(EncodePiecewise(tokenizer, text, options, random) == whole);
  for (const TokenId id : whole) MNEME_CHECK(id >= 0 && id < tokenizer.vocab_size());

  DecodeOptions decode;
  decode.show_special = random.Below(2) == 0;
  decode.at_text_start = random.Below(2) == 0;
  const std::string text_of_whole = tokenizer.Decode(whole, decode);
  MNEME_CHECK(IsUtf8(text_of_whole));
  StreamDecoder decoder(tokenizer, decode);
  std::string streamed;
  for (const TokenId id : whole) {
    decoder.Feed(id, &streamed);
    MNEME_CHECK(IsUtf8(streamed));
    if (random.Below(8) == 0) {
      StreamDecoder other(tokenizer, decode);
      other.RestoreState(decoder.SaveState());
      decoder = std::move(other);
    }
    if (streamed.size() > 4096) break;  // the check above is quadratic
  }
  if (streamed.size() <= 4096) {
    decoder.Finish(&streamed);
    MNEME_CHECK(streamed == text_of_whole);
  }
}

}  // namespace mneme::fuzz
