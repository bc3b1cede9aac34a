// A hostile SentencePiece model (protobuf): the loader, and what it promises of any tokenizer that it
// accepts.
#include <cstdint>
#include <span>

#include "fuzz/guard.h"
#include "fuzz/stream_check.h"
#include "mneme/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mneme::fuzz::Accepts([&] {
    const mneme::Tokenizer tokenizer = mneme::ParseSentencePieceModel({data, size});
    for (mneme::TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
      tokenizer.Piece(id);
      tokenizer.Bytes(id);
    }
    mneme::EncodeOptions options;
    options.parse_special = size % 2 == 0;
    options.add_bos = options.add_eos = true;
    mneme::fuzz::CheckStreams(tokenizer,
                              "The cat's  hat, abc\n\n at 12:34 \xC3\xA9\xF0\x9F\x98\x80\xFF<|end|></s> the",
                              options, size);
  });
  return 0;
}
