// Arbitrary bytes as text, cut anywhere, through every pre-tokenizer and every kind of vocabulary. First
// byte: which tokenizer; second: options and how often the text is repeated (long words are cut at a limit);
// the next eight: where the text is cut. The rest is the text.
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "fuzz/stream_check.h"
#include "fuzz/tiny_model.h"
#include "mneme/tokenizer.h"

namespace mneme::fuzz {
namespace {

std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

struct Entry {
  Tokenizer tokenizer;
  bool is_lossless;  // its ids decode to the very text, if that is UTF-8
};

std::vector<Entry> MakeAll() {
  std::vector<Entry> all;
  const std::string ranks = TinyRanks();
  for (const std::string_view pattern :
       {"gpt2", "llama3", "qwen2", "falcon", "default", "starcoder", "deepseek-llm", "deepseek-coder",
        "deepseek-v3", "gpt-4o", "tekken"}) {
    all.push_back({ParseTiktoken(BytesOf(ranks), pattern), true});
  }
  all.push_back({ParseTokenizerJson(BytesOf(TinyTokenizerJson())), true});
  all.push_back({ParseSentencePieceModel(BytesOf(TinySentencePiece(2))), false});
  all.push_back({ParseSentencePieceModel(BytesOf(TinySentencePiece(1))), false});
  return all;
}

}  // namespace
}  // namespace mneme::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mneme;
  if (size < 10) return 0;
  static const std::vector<fuzz::Entry> all = fuzz::MakeAll();
  const fuzz::Entry& entry = all[data[0] % all.size()];
  EncodeOptions options;
  options.parse_special = data[1] & 1;
  options.add_bos = data[1] & 2;
  options.add_eos = data[1] & 4;
  uint64_t splits;
  std::memcpy(&splits, data + 2, sizeof(splits));
  const std::string_view part(reinterpret_cast<const char*>(data + 10), size - 10);
  std::string text(part);
  if (data[1] == 0xFF && !part.empty()) {
    while (text.size() < kMaxWordBytes + 1000) text += part;
  }
  fuzz::CheckStreams(entry.tokenizer, text, options, splits);
  if (entry.is_lossless && !options.parse_special && fuzz::IsUtf8(text)) {
    DecodeOptions decode;
    decode.at_text_start = false;
    MNEME_CHECK(entry.tokenizer.Decode(entry.tokenizer.Encode(text), decode) == text);
  }
  return 0;
}
