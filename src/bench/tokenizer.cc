#include "bench/tokenizer.h"

#include <string>
#include <vector>

namespace mneme {

TokenizerSpeed MeasureTokenizer(const Tokenizer& tokenizer, std::string_view text, int64_t num_repeats,
                                StopToken stop) {
  std::vector<TokenId> ids;
  std::vector<double> encode_seconds, decode_seconds;
  for (int64_t i = 0; i < num_repeats && (i == 0 || !stop.stop_requested()); ++i) {
    ids.clear();
    const Clock::time_point start = Clock::now();
    StreamEncoder encoder(tokenizer);
    for (size_t begin = 0; begin < text.size(); begin += kTokenizerPieceBytes) {
      encoder.Feed(text.substr(begin, kTokenizerPieceBytes), &ids);
    }
    encoder.Finish(&ids);
    encode_seconds.push_back(SecondsSince(start));
    const Clock::time_point decode_start = Clock::now();
    StreamDecoder decoder(tokenizer);
    std::string decoded;
    for (const TokenId id : ids) {
      decoder.Feed(id, &decoded);
      if (decoded.size() > kTokenizerPieceBytes) decoded.clear();
    }
    decode_seconds.push_back(SecondsSince(decode_start));
  }
  return {ids.size(), MedianOf(std::move(encode_seconds)), MedianOf(std::move(decode_seconds))};
}

}  // namespace mneme
