// The ledger of a run in words and as JSON: what became of every token.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/export.h"
#include "mneme/types.h"

namespace mneme {

enum class TokenFate : uint8_t {
  kSink,
  kWindow,
  kMiddle,
  kCompressed,
  kStored,
  kRecalled,
  // No attention layer sees it any more, but the layers with a state of fixed size have read it: it is
  // neither kept nor dropped.
  kState,
  kDropped,
  kDamaged,  // was stored, and cannot be read any more
};
// "sink", "window", "middle", "compressed", "stored", "recalled", "state", "dropped", "damaged".
MNEME_API std::string_view TokenFateName(TokenFate fate);

// What became of the tokens at positions [begin, end).
struct LedgerRange {
  Position begin = 0;
  Position end = 0;
  TokenFate fate = TokenFate::kWindow;
  bool operator==(const LedgerRange&) const = default;
};

// A stretch of the stream that came back into attention: its first token's position, its tokens, and why.
struct RecalledRange {
  Position begin = 0;
  std::vector<TokenId> tokens;
  float score = 0;  // the votes of the turn's rows, in nats; larger is better
  float bias = 0;   // natural logarithm: how much its tokens count beside those of the best
};

// ---- all thread-safe, none throws but std::bad_alloc

// Neighbouring ranges of one fate as one.
MNEME_API std::vector<LedgerRange> MergeLedger(std::span<const LedgerRange> ranges);

// How many tokens met a fate; one row per fate that occurs, in the order of TokenFate.
struct LedgerTotal {
  TokenFate fate = TokenFate::kWindow;
  int64_t num_tokens = 0;
};
MNEME_API std::vector<LedgerTotal> LedgerTotals(std::span<const LedgerRange> ranges);

// "tokens 0-3: sink; 4-1,953,000: dropped; 1,953,001-1,954,020: window". Positions, both ends included.
// "no tokens" for an empty stream. At most max_ranges ranges; then a total of the rest.
MNEME_API std::string LedgerText(std::span<const LedgerRange> ranges, size_t max_ranges = 12);

// [{"begin": 0, "end": 4, "fate": "sink"}, ...]; end is exclusive.
MNEME_API std::string LedgerJson(std::span<const LedgerRange> ranges);

}  // namespace mneme
