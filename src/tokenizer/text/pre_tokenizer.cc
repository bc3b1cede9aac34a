#include "tokenizer/text/pre_tokenizer.h"

#include <array>

#include "tokenizer/text/scanner.h"

namespace mneme {
namespace {

struct Row {
  std::string_view name;
  PreTokenizer kind;
  bool ignore_merges = false;
  bool adds_bos = false;
};

// The first row of a kind has its own name. Others are the names that GGUF files carry.
constexpr Row kRows[] = {
    {"gpt2", PreTokenizer::kGpt2},
    {"gpt-2", PreTokenizer::kGpt2},
    {"r50k_base", PreTokenizer::kGpt2},
    {"p50k_base", PreTokenizer::kGpt2},
    {"p50k_edit", PreTokenizer::kGpt2},
    {"gptneox", PreTokenizer::kGpt2},
    {"gpt-neox", PreTokenizer::kGpt2},
    {"olmo", PreTokenizer::kGpt2},
    {"mpt", PreTokenizer::kGpt2},
    {"phi-2", PreTokenizer::kGpt2},
    {"phi2", PreTokenizer::kGpt2},
    {"exaone4", PreTokenizer::kGpt2},
    {"gigachat", PreTokenizer::kGpt2},
    {"a.x-4.0", PreTokenizer::kGpt2},
    {"mellum", PreTokenizer::kGpt2},
    {"jais", PreTokenizer::kGpt2},
    {"trillion", PreTokenizer::kGpt2},
    {"granite-docling", PreTokenizer::kGpt2},
    {"llama3", PreTokenizer::kLlama3, true, true},
    {"llama-v3", PreTokenizer::kLlama3, true, true},
    {"llama-bpe", PreTokenizer::kLlama3, true, true},
    {"falcon3", PreTokenizer::kLlama3, true, true},
    {"falcon-h1", PreTokenizer::kLlama3, true, true},
    {"pixtral", PreTokenizer::kLlama3, true, true},
    {"midm-2.0", PreTokenizer::kLlama3, true, true},
    {"lfm2", PreTokenizer::kLlama3, true, true},
    {"dbrx", PreTokenizer::kLlama3},
    {"smaug-bpe", PreTokenizer::kLlama3},
    {"cl100k_base", PreTokenizer::kLlama3},
    {"dolma2", PreTokenizer::kLlama3},
    {"phi-4", PreTokenizer::kLlama3},
    {"chatglm-bpe", PreTokenizer::kLlama3},
    {"glm4", PreTokenizer::kLlama3, true},
    {"glm5", PreTokenizer::kLlama3, true},
    {"qwen2", PreTokenizer::kQwen2},
    {"stablelm2", PreTokenizer::kQwen2},
    {"hunyuan", PreTokenizer::kQwen2},
    {"megrez", PreTokenizer::kQwen2},
    {"deepseek-r1-qwen", PreTokenizer::kQwen2},
    {"kormo", PreTokenizer::kQwen2},
    {"grok-2", PreTokenizer::kQwen2},
    {"solar-open", PreTokenizer::kQwen2},
    {"bailingmoe", PreTokenizer::kQwen2},
    {"bailingmoe2", PreTokenizer::kQwen2},
    {"llada-moe", PreTokenizer::kQwen2},
    {"qwen35", PreTokenizer::kQwen35},
    {"seed-coder", PreTokenizer::kSeedCoder},
    {"ufakzeka", PreTokenizer::kUfakzeka},
    {"laguna", PreTokenizer::kLaguna},
    {"minicpm5", PreTokenizer::kMinicpm5, true},
    {"falcon", PreTokenizer::kFalcon},
    {"falcon-digits", PreTokenizer::kFalconDigits},
    {"default", PreTokenizer::kOldDefault},
    {"starcoder", PreTokenizer::kStarcoder},
    {"smollm", PreTokenizer::kStarcoder},
    {"refact", PreTokenizer::kStarcoder},
    {"command-r", PreTokenizer::kStarcoder},
    {"codeshell", PreTokenizer::kStarcoder},
    {"exaone", PreTokenizer::kStarcoder},
    {"minerva-7b", PreTokenizer::kStarcoder},
    {"mellum2", PreTokenizer::kStarcoder},
    {"bloom", PreTokenizer::kBloom},
    {"poro-chat", PreTokenizer::kBloom},
    {"gpt3-finnish", PreTokenizer::kBloom},
    {"viking", PreTokenizer::kViking},
    {"deepseek-llm", PreTokenizer::kDeepseekLlm},
    {"deepseek-coder", PreTokenizer::kDeepseekCoder},
    {"deepseek-v3", PreTokenizer::kDeepseek3},
    {"hunyuan-dense", PreTokenizer::kDeepseek3},
    {"joyai-llm", PreTokenizer::kDeepseek3},
    {"hy_v4", PreTokenizer::kDeepseek3},
    {"spark2_5", PreTokenizer::kSpark},
    {"gpt-4o", PreTokenizer::kGpt4o},
    {"o200k_base", PreTokenizer::kGpt4o},
    {"llama4", PreTokenizer::kGpt4o},
    {"kanana2", PreTokenizer::kGpt4o},
    {"talkie", PreTokenizer::kGpt4o},
    {"minimax-m2", PreTokenizer::kGpt4o},
    {"tekken", PreTokenizer::kTekken, true, true},
    {"none", PreTokenizer::kWhole},
};

bool InRange(uint32_t code, uint32_t low, uint32_t high) { return code >= low && code <= high; }

// The letters of the deepseek-llm pattern: cased letters of the Unicode version it was written in.
bool IsDeepseekLetter(const Scanned& c) {
  if (c.code < 0x80) return Has(kCasedLetters, c.cls);
  if (!Has(kLetters, c.cls)) return false;
  struct Range {
    uint32_t low, high;
  };
  static constexpr Range kRanges[] = {
      {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},       {0xF8, 0x1BA},      {0x1BC, 0x1BF},
      {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},     {0x376, 0x377},     {0x37B, 0x37D},
      {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},     {0x38C, 0x38C},     {0x38E, 0x3A1},
      {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},     {0x531, 0x556},     {0x10A0, 0x10C5},
      {0x13A0, 0x13F5},   {0x13F8, 0x13FD},   {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},
      {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},
      {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},
      {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},   {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},
      {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},   {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},
      {0x1FF6, 0x1FFC},   {0x2102, 0x2102},   {0x2107, 0x2107},   {0x210A, 0x2113},   {0x2115, 0x2115},
      {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},   {0x2128, 0x2128},   {0x212A, 0x212D},
      {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},   {0x2145, 0x2149},   {0x214E, 0x214E},
      {0x2183, 0x2184},   {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},
      {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},
      {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},
      {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2},
      {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
  };
  for (const Range& range : kRanges)
    if (InRange(c.code, range.low, range.high)) return true;
  return false;
}

bool IsDeepseekPunctuation(const Scanned& c) {
  return InRange(c.code, '!', '/') || InRange(c.code, ':', '~') || InRange(c.code, 0xFF01, 0xFF0F) ||
         InRange(c.code, 0xFF1A, 0xFF5E) || InRange(c.code, 0x2018, 0x201F) ||
         InRange(c.code, 0x3000, 0x3002);
}

bool IsDeepseekCjk(const Scanned& c) {
  return InRange(c.code, 0x800, 0x9FA5) || InRange(c.code, 0xAC00, 0xD7FF);
}

bool IsDeepseek3Cjk(const Scanned& c) {
  return InRange(c.code, 0x4E00, 0x9FA5) || InRange(c.code, 0x3040, 0x30FF);
}

bool IsDigit(const Scanned& c) { return InRange(c.code, '0', '9') && c.valid; }
bool IsNumber(const Scanned& c) { return c.cls == CharClass::kNumber; }

// Where a stage's pattern ends that starts at `at`; `at` itself if it does not match there.
using Matcher = size_t (*)(Scanner& text, size_t at);

// One run of a class, with one white space character before it if `led`.
template <bool kLed, bool (*kIs)(const Scanned&)>
size_t MatchRun(Scanner& text, size_t at) {
  size_t from = at;
  const Scanned first = text.At(at);
  if (kLed && first.cls == CharClass::kSpace) {
    from += first.length;
    // The run itself may start with white space where its set holds some (U+3000).
    if (!kIs(text.At(from))) from = at;
  }
  size_t end = from;
  for (Scanned c = text.At(end); c.cls != CharClass::kEnd && kIs(c); c = text.At(end)) end += c.length;
  return end > from ? end : at;
}

template <bool (*kIs)(const Scanned&)>
size_t MatchOne(Scanner& text, size_t at) {
  const Scanned c = text.At(at);
  return c.cls != CharClass::kEnd && kIs(c) ? at + c.length : at;
}

size_t MatchThreeDigits(Scanner& text, size_t at) {
  for (size_t i = 0; i < 3; ++i)
    if (!IsDigit(text.At(at + i))) return at;
  return at + 3;
}

size_t MatchTrailingSpace(Scanner& text, size_t at) {
  const size_t end = text.RunOf(Bit(CharClass::kSpace), at);
  return text.At(end).cls == CharClass::kEnd ? end : at;
}

// [!-/:-@[-`{-~][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ | ?[\p{P}\p{S}]+[\r\n]* | spaces
// Without newlines after signs, and each of them apart, for kSpark.
template <bool kSpark>
size_t MatchDeepseek3(Scanner& text, size_t at) {
  constexpr uint32_t kWordMask = kLetters | Bit(CharClass::kMark);
  constexpr uint32_t kSignMask = Bit(CharClass::kPunctuation) | Bit(CharClass::kSymbol);
  const auto is_ascii_letter = [](const Scanned& c) {
    return InRange(c.code, 'A', 'Z') || InRange(c.code, 'a', 'z');
  };
  const Scanned c = text.At(at);
  if (c.valid && c.code < 0x80 && Has(kSignMask, c.cls) && is_ascii_letter(text.At(at + 1))) {
    size_t end = at + 1;
    while (is_ascii_letter(text.At(end))) ++end;
    return end;
  }
  if (!Has(kLetters | kSignMask, c.cls) && !IsNewline(c)) {
    if (Has(kWordMask, text.At(at + c.length).cls)) return text.RunOf(kWordMask, at + c.length);
  }
  if (Has(kWordMask, c.cls)) return text.RunOf(kWordMask, at);
  const size_t sign = at + (c.code == ' ' ? 1 : 0);
  if (Has(kSignMask, text.At(sign).cls)) {
    const size_t end = text.RunOf(kSignMask, sign);
    return kSpark ? end : NewlineRun(text, end, false);
  }
  if (kSpark && IsNewline(c)) return at + 1;
  if (c.cls == CharClass::kSpace) return kSpark ? SpaceRun(text, at) : SpaceRunWithNewlines(text, at);
  return at;
}

// Splits each piece at the matches of one stage; what lies between matches stays a piece.
void ApplyStage(Matcher match, std::string_view unit, std::vector<uint32_t>* lengths, size_t from_index) {
  std::vector<uint32_t> result;
  size_t piece_start = 0;
  for (size_t i = from_index; i < lengths->size(); ++i) {
    Scanner piece(unit.substr(piece_start, (*lengths)[i]));
    size_t gap_start = 0, at = 0;
    while (at < piece.size()) {
      const size_t end = match(piece, at);
      if (end == at) {
        at += piece.At(at).length;
        continue;
      }
      if (at > gap_start) result.push_back(static_cast<uint32_t>(at - gap_start));
      result.push_back(static_cast<uint32_t>(end - at));
      gap_start = at = end;
    }
    if (at > gap_start) result.push_back(static_cast<uint32_t>(at - gap_start));
    piece_start += (*lengths)[i];
  }
  lengths->resize(from_index);
  lengths->insert(lengths->end(), result.begin(), result.end());
}

bool IsPunctuationClass(const Scanned& c) { return c.cls == CharClass::kPunctuation; }
bool IsLetterClass(const Scanned& c) { return Has(kLetters, c.cls); }

std::vector<Matcher> StagesOf(PreTokenizer kind) {
  switch (kind) {
    case PreTokenizer::kFalcon:
      return {MatchThreeDigits};
    case PreTokenizer::kFalconDigits:
    case PreTokenizer::kOldDefault:
      return {MatchRun<false, IsNumber>, MatchThreeDigits};
    case PreTokenizer::kDeepseekLlm:
      return {MatchRun<true, IsDeepseekLetter>, MatchRun<true, IsDeepseekPunctuation>, MatchTrailingSpace,
              MatchRun<false, IsDeepseekCjk>, MatchRun<false, IsNumber>};
    case PreTokenizer::kDeepseekCoder:
      return {MatchRun<true, IsLetterClass>, MatchRun<true, IsPunctuationClass>,
              MatchRun<false, IsDeepseekCjk>, MatchOne<IsNumber>};
    case PreTokenizer::kViking:
      return {MatchOne<IsNumber>};
    default:
      return {};
  }
}

// One character [\r\n], or everything up to the next.
size_t LineUnit(Scanner& text) {
  if (IsNewline(text.At(0))) return 1;
  size_t end = 0;
  for (;;) {
    const Scanned c = text.At(end);
    if (c.cls == CharClass::kEnd || IsNewline(c)) return end;
    end += c.length;
  }
}

// The three stages of deepseek-v3 in one pass: numbers and CJK end what the third stage sees.
template <bool kSpark>
size_t Deepseek3Unit(Scanner& text) {
  if (IsNumber(text.At(0))) return NumberRun(text, 0, kSpark ? 1 : 3);
  if (const size_t end = MatchRun<false, IsDeepseek3Cjk>(text, 0); end > 0) return end;
  text.StopAt([](const Scanned& c) { return IsNumber(c) || IsDeepseek3Cjk(c); });
  size_t end = MatchDeepseek3<kSpark>(text, 0);
  // Characters that no alternative takes (controls, say) stay together as a gap.
  if (end > 0) return end;
  do {
    end += text.At(end).length;
  } while (text.At(end).cls != CharClass::kEnd && MatchDeepseek3<kSpark>(text, end) == end);
  return end;
}

// Not in  ?[^(\s|[.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C])]+
bool IsBloomLetter(const Scanned& c) {
  if (c.cls == CharClass::kSpace || c.cls == CharClass::kEnd) return false;
  for (const uint32_t sign : {0x28u, 0x29u, 0x7Cu, 0x2Eu, 0x2Cu, 0x21u, 0x3Fu, 0x2026u, 0x3002u, 0xFF0Cu,
                              0x3001u, 0x964u, 0x6D4u, 0x60Cu}) {
    if (c.code == sign) return false;
  }
  return true;
}

// A word with a space before it, or what lies between two of them.
size_t BloomUnit(Scanner& text) {
  const auto starts = [&](size_t at) {
    const Scanned c = text.At(at);
    return IsBloomLetter(c) || (c.code == ' ' && IsBloomLetter(text.At(at + 1)));
  };
  size_t end = 0;
  if (starts(0)) {
    if (text.At(0).code == ' ') end = 1;
    for (Scanned c = text.At(end); IsBloomLetter(c); c = text.At(end)) end += c.length;
    return end;
  }
  do {
    end += text.At(end).length;
  } while (text.At(end).cls != CharClass::kEnd && !starts(end));
  return end;
}

bool IsLineFeed(const Scanned& c) { return c.code == '\n' && c.length != 0; }

// Line feeds apart, then the words of qwen2.
size_t LagunaUnit(Scanner& text) {
  if (const size_t end = MatchRun<false, IsLineFeed>(text, 0); end > 0) return end;
  text.StopAt(IsLineFeed);
  return Llama3Word(text, {.most_digits = 1});
}

// Numbers by three, then the words of llama3, to whom a number is the end.
size_t Minicpm5Unit(Scanner& text) {
  if (IsNumber(text.At(0))) return NumberRun(text, 0, 3);
  text.StopAt(IsNumber);
  return Llama3Word(text, {});
}

bool EndsFalconWord(const Scanned& c) {
  return IsPunctuationClass(c) || (c.code < 0x80 && IsAsciiSign(c.code));
}
bool EndsOldDefaultWord(const Scanned& c) { return EndsFalconWord(c) && c.code != '`'; }

// Runs of punctuation apart, and the rest as gpt2 sees it when punctuation ends the text.
template <bool (*kEnds)(const Scanned&)>
size_t PunctuationApart(Scanner& text) {
  if (const size_t end = MatchRun<false, kEnds>(text, 0); end > 0) return end;
  text.StopAt(kEnds);
  return Gpt2Word(text);
}

size_t StarcoderUnit(Scanner& text) {
  if (IsNumber(text.At(0))) return text.At(0).length;
  text.StopAt(IsNumber);
  return Gpt2Word(text);
}

}  // namespace

std::string_view PreTokenizerName(PreTokenizer kind) {
  for (const Row& row : kRows)
    if (row.kind == kind) return row.name;
  return "none";
}

std::string_view GgufPreTokenizerName(PreTokenizer kind, bool ignore_merges) {
  if (kind == PreTokenizer::kGpt2) return "gpt-2";
  if (kind == PreTokenizer::kLlama3) return ignore_merges ? "llama-bpe" : "dbrx";
  return PreTokenizerName(kind);
}

std::optional<NamedPreTokenizer> FindPreTokenizer(std::string_view name) {
  for (const Row& row : kRows)
    if (row.name == name) return NamedPreTokenizer{row.kind, row.ignore_merges, row.adds_bos};
  return std::nullopt;
}

size_t NextUnit(PreTokenizer kind, std::string_view text, bool* touched) {
  Scanner scanner(text);
  size_t end = 0;
  switch (kind) {
    case PreTokenizer::kGpt2:
      end = Gpt2Word(scanner);
      break;
    case PreTokenizer::kLlama3:
      end = Llama3Word(scanner, {});
      break;
    case PreTokenizer::kQwen2:
      end = Llama3Word(scanner, {.most_digits = 1});
      break;
    case PreTokenizer::kQwen35:
      end = Llama3Word(scanner, {.most_digits = 1, .letters = kLetters | Bit(CharClass::kMark)});
      break;
    case PreTokenizer::kSeedCoder:
      end = Llama3Word(scanner, {.most_digits = 1, .takes_newlines = false});
      break;
    case PreTokenizer::kUfakzeka:
      end = Llama3Word(scanner, {.most_digits = 1, .has_contractions = false});
      break;
    case PreTokenizer::kLaguna:
      end = LagunaUnit(scanner);
      break;
    case PreTokenizer::kMinicpm5:
      end = Minicpm5Unit(scanner);
      break;
    case PreTokenizer::kBloom:
    case PreTokenizer::kViking:
      end = BloomUnit(scanner);
      break;
    case PreTokenizer::kFalcon:
    case PreTokenizer::kFalconDigits:
      end = PunctuationApart<EndsFalconWord>(scanner);
      break;
    case PreTokenizer::kOldDefault:
      end = PunctuationApart<EndsOldDefaultWord>(scanner);
      break;
    case PreTokenizer::kStarcoder:
      end = StarcoderUnit(scanner);
      break;
    case PreTokenizer::kDeepseekLlm:
    case PreTokenizer::kDeepseekCoder:
      end = LineUnit(scanner);
      break;
    case PreTokenizer::kDeepseek3:
      end = Deepseek3Unit<false>(scanner);
      break;
    case PreTokenizer::kSpark:
      end = Deepseek3Unit<true>(scanner);
      break;
    case PreTokenizer::kGpt4o:
      end = Gpt4oWord(scanner, 3, true);
      break;
    case PreTokenizer::kTekken:
      end = Gpt4oWord(scanner, 1, false);
      break;
    case PreTokenizer::kWhole:
      scanner.At(text.size());
      end = text.size();
      break;
  }
  *touched = scanner.touched();
  return end;
}

bool SplitsUnits(PreTokenizer kind) { return !StagesOf(kind).empty(); }

void SplitUnit(PreTokenizer kind, std::string_view unit, std::vector<uint32_t>* lengths) {
  const size_t from_index = lengths->size();
  lengths->push_back(static_cast<uint32_t>(unit.size()));
  for (Matcher match : StagesOf(kind)) ApplyStage(match, unit, lengths, from_index);
}

}  // namespace mneme
