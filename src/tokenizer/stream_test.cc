// Streams: any split of the input gives the ids of the whole, states go on elsewhere, memory and time stay
// bounded.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/files/file.h"
#include "base/testing.h"
#include "mneme/tokenizer.h"
#include "tokenizer/model.h"
#include "tokenizer/testing_util.h"
#include "tokenizer/text/unicode.h"

namespace mneme {
namespace {

using testing::RandomText;
using testing::TestRandom;

// A byte-level vocabulary of all bytes and a few merges, with special and user-defined tokens.
Tokenizer SmallByteBpe(PreTokenizer pre, bool nfc = false) {
  VocabularySpec spec;
  spec.name = "small";
  spec.pieces_are_raw_bytes = true;
  for (int byte = 0; byte < 256; ++byte) spec.tokens.push_back({std::string(1, static_cast<char>(byte))});
  for (const char* merge :
       {"a a", "  ", "h e", "t he", "l l", "he ll", "hell o", "1 1", ". .", ".. ..", "aa aa"}) {
    const std::string text = merge;
    const size_t space = text.find(' ', 1);
    spec.merges.emplace_back(text.substr(0, space), text == "  " ? " " : text.substr(space + 1));
    spec.tokens.push_back({spec.merges.back().first + spec.merges.back().second});
  }
  const auto add = [&](const char* piece, TokenType type) {
    Token token{piece};
    token.type = type;
    spec.tokens.push_back(token);
  };
  add("<|end|>", TokenType::kControl);
  add("<|end|>x", TokenType::kControl);
  add("</s>", TokenType::kControl);
  add("    ", TokenType::kUserDefined);
  add("Hello", TokenType::kUserDefined);
  spec.tokens[spec.tokens.size() - 3].strips_right = true;
  spec.bos_id = spec.eos_id = static_cast<TokenId>(spec.tokens.size() - 5);
  spec.pre_tokenizer = pre;
  spec.nfc = nfc;
  return Tokenizer(BuildModel(std::move(spec)));
}

Tokenizer SmallPieces(Algorithm algorithm, bool remove_extra, bool byte_fallback) {
  VocabularySpec spec;
  spec.name = "small";
  spec.algorithm = algorithm;
  spec.remove_extra_whitespaces = remove_extra;
  spec.dummy_prefix = DummyPrefix::kEverySegment;
  spec.byte_fallback = byte_fallback;
  spec.user_defined_inline = true;
  const auto add = [&](std::string piece, TokenType type, float score) {
    Token token{std::move(piece), score, type};
    spec.tokens.push_back(token);
  };
  add("<unk>", TokenType::kUnknown, 0);
  add("<s>", TokenType::kControl, 0);
  add("</s>", TokenType::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), TokenType::kByte, 0);
  float score = -1;
  for (const char* piece : {"▁", "▁t", "he", "▁the", "a",  "aa", "aaaa", "l",  "ll", "o",  "▁▁", "h",
                            "t", "e",  "1",  ".",    "..", "中", "中文", "文", "x",  "▁H", "e▁"})
    add(piece, TokenType::kNormal, score -= 0.25f);
  add("Hello", TokenType::kUserDefined, 0);
  add("ll▁", TokenType::kUnused, -1);
  spec.unk_id = 0;
  spec.bos_id = 1;
  spec.eos_id = 2;
  return Tokenizer(BuildModel(std::move(spec)));
}

std::vector<Tokenizer> SmallTokenizers() {
  std::vector<Tokenizer> all;
  for (PreTokenizer pre : {PreTokenizer::kGpt2, PreTokenizer::kLlama3, PreTokenizer::kFalcon,
                           PreTokenizer::kStarcoder, PreTokenizer::kDeepseekLlm, PreTokenizer::kDeepseek3,
                           PreTokenizer::kGpt4o, PreTokenizer::kOldDefault})
    all.push_back(SmallByteBpe(pre));
  all.push_back(SmallByteBpe(PreTokenizer::kQwen2, true));
  for (Algorithm algorithm : {Algorithm::kScoredBpe, Algorithm::kUnigram})
    for (bool remove_extra : {false, true})
      for (bool byte_fallback : {false, true})
        all.push_back(SmallPieces(algorithm, remove_extra, byte_fallback));
  return all;
}

// Feeds in random pieces, now and then through a saved state, some of it with FeedPlain.
std::vector<TokenId> EncodeInPieces(const Tokenizer& tokenizer, EncodeOptions options, std::string_view text,
                                    TestRandom* random, uint32_t most, bool save) {
  std::vector<TokenId> ids;
  auto encoder = std::make_unique<StreamEncoder>(tokenizer, options);
  for (size_t at = 0; at < text.size();) {
    const size_t size = std::min<size_t>(random->Below(most + 1), text.size() - at);
    encoder->Feed(text.substr(at, size), &ids);
    at += size;
    if (save && random->Below(4) == 0) {
      const std::string state = encoder->SaveState();
      encoder = std::make_unique<StreamEncoder>(tokenizer, options);
      encoder->RestoreState(state);
    }
  }
  encoder->Finish(&ids);
  EXPECT_EQ(encoder->pending_bytes(), 0u);
  return ids;
}

TEST(StreamEncoderTest, AnySplitGivesTheIdsOfTheWhole) {
  TestRandom random(1);
  for (const Tokenizer& tokenizer : SmallTokenizers()) {
    for (int i = 0; i < 60; ++i) {
      const std::string text = RandomText(&random, random.Below(60), i % 2 == 0);
      const EncodeOptions options{.parse_special = i % 3 == 0, .add_bos = i % 5 == 0, .add_eos = i % 7 == 0};
      const auto whole = tokenizer.Encode(text, options);
      for (uint32_t most : {1u, 3u, 20u})
        EXPECT_EQ(EncodeInPieces(tokenizer, options, text, &random, most, i % 2 == 1), whole)
            << tokenizer.kind() << " " << tokenizer.pre_tokenizer() << ": " << text;
    }
  }
}

TEST(StreamEncoderTest, RealVocabulariesAndBooks) {
  MNEME_REQUIRE_DATA(data);
  TestRandom random(2);
  for (const char* vocabulary :
       {"/tokenizers/llama.cpp-vocab/ggml-vocab-gpt-neox.gguf", "/tokenizers/hf/20B_tokenizer.json",
        "/tokenizers/llama.cpp-vocab/ggml-vocab-phi-3.gguf",
        "/tokenizers/sentencepiece/test_ja_model.model"}) {
    const Tokenizer tokenizer = LoadTokenizerFile(data + vocabulary);
    for (const char* book : {"/books/frankenstein.txt", "/corpora/wagahaiwa_nekodearu.txt"}) {
      const std::string text = ReadWholeFile(data + book).substr(0, 200000);
      const auto whole = tokenizer.Encode(text);
      for (uint32_t most : {5u, 5000u})
        EXPECT_TRUE(EncodeInPieces(tokenizer, {}, text, &random, most, most > 100) == whole)
            << vocabulary << book;
    }
  }
}

// Input without any place to cut: memory held stays under the stated bound, time linear, and the ids those of
// the whole.
TEST(StreamEncoderTest, EndlessWordsAreCut) {
  std::vector<std::string> texts = {std::string(150000, ' '),
                                    std::string(150000, 'a'),
                                    std::string(150000, '.'),
                                    std::string(150000, '\n'),
                                    std::string(150000, '1'),
                                    "",
                                    "",
                                    ""};
  for (int i = 0; i < 50000; ++i) {
    texts[5] += "\u0301";
    texts[6] += "中";
    texts[7] += "\u2581";
  }
  for (const Tokenizer& tokenizer : SmallTokenizers()) {
    for (const std::string& text : texts) {
      const auto whole = tokenizer.Encode(text);
      std::vector<TokenId> ids;
      StreamEncoder encoder(tokenizer);
      size_t most_pending = 0;
      for (size_t at = 0; at < text.size(); at += 1777) {
        encoder.Feed(std::string_view(text).substr(at, 1777), &ids);
        most_pending = std::max(most_pending, encoder.pending_bytes());
      }
      encoder.Finish(&ids);
      EXPECT_TRUE(ids == whole) << tokenizer.kind() << " " << tokenizer.pre_tokenizer() << " "
                                << text.substr(0, 3);
      EXPECT_LE(most_pending, 2 * kMaxWordBytes + 64);
    }
  }
}

TEST(StreamEncoderTest, ByteByByteStaysLinear) {
  const std::string text(2 * kMaxWordBytes, ' ');
  const auto start = std::chrono::steady_clock::now();
  for (const Tokenizer& tokenizer :
       {SmallByteBpe(PreTokenizer::kGpt2), SmallPieces(Algorithm::kScoredBpe, false, true)}) {
    std::vector<TokenId> ids;
    StreamEncoder encoder(tokenizer);
    for (char c : text) encoder.Feed({&c, 1}, &ids);
    encoder.Finish(&ids);
    EXPECT_EQ(ids, tokenizer.Encode(text));
  }
  // Quadratic would be 10^10 steps.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(StreamEncoderTest, InvalidUtf8AndNul) {
  const std::string text = std::string("a\0b", 3) + "\xFF\xC3" + "c\xE4\xB8";
  // Byte-level: bytes pass.
  const Tokenizer bytes = SmallByteBpe(PreTokenizer::kGpt2);
  std::string back;
  for (TokenId id : bytes.Encode(text)) back += bytes.Bytes(id);
  EXPECT_EQ(back, text);
  EXPECT_EQ(bytes.Decode(bytes.Encode(text)), std::string("a\0b", 3) + "\uFFFD\uFFFDc\uFFFD");
  // SentencePiece: each bad byte reads as U+FFFD, here by its bytes.
  const Tokenizer pieces = SmallPieces(Algorithm::kScoredBpe, false, true);
  EXPECT_EQ(pieces.Decode(pieces.Encode(text)), std::string("a\0b", 3) + "\uFFFD\uFFFDc\uFFFD\uFFFD");
  for (const Tokenizer& tokenizer : SmallTokenizers()) EXPECT_TRUE(tokenizer.Encode("").empty());
}

TEST(StreamEncoderTest, PlainTextNeverBecomesAControlToken) {
  const Tokenizer tokenizer = SmallByteBpe(PreTokenizer::kGpt2);
  const TokenId end = tokenizer.FindToken("<|end|>").value();
  std::vector<TokenId> ids;
  StreamEncoder encoder(tokenizer, {.parse_special = true});
  encoder.Feed("a<|end|>", &ids);
  encoder.FeedPlain("<|end|>", &ids);
  encoder.Feed("<|en", &ids);
  encoder.FeedPlain("d|>", &ids);
  encoder.Feed("<|end|>", &ids);
  encoder.Finish(&ids);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 2);
  EXPECT_EQ(ids[1], end);
  EXPECT_EQ(ids.back(), end);
  EXPECT_EQ(tokenizer.Decode(ids, {.show_special = true}), "a<|end|><|end|><|end|><|end|>");
}

TEST(StreamEncoderTest, SpecialTokensTakeTheLongestAndStripRight) {
  const Tokenizer tokenizer = SmallByteBpe(PreTokenizer::kGpt2);
  const auto id = [&](const char* piece) { return tokenizer.FindToken(piece).value(); };
  EXPECT_EQ(tokenizer.Encode("<|end|>x<|end|>", {.parse_special = true}),
            (std::vector<TokenId>{id("<|end|>x"), id("<|end|>")}));
  EXPECT_EQ(tokenizer.Encode("</s> \n a", {.parse_special = true}), (std::vector<TokenId>{id("</s>"), 'a'}));
  EXPECT_EQ(tokenizer.Encode("Hello", {}), (std::vector<TokenId>{id("Hello")}));
}

TEST(StreamEncoderTest, StatesOfOthersAndDamagedOnesAreRefused) {
  const Tokenizer tokenizer = SmallByteBpe(PreTokenizer::kGpt2);
  const Tokenizer other = SmallByteBpe(PreTokenizer::kLlama3);
  StreamEncoder encoder(tokenizer);
  std::vector<TokenId> ids;
  encoder.Feed("hello wor", &ids);
  const std::string state = encoder.SaveState();
  StreamEncoder of_other(other);
  try {
    of_other.RestoreState(state);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kMismatch);
  }
  StreamEncoder with_bos(tokenizer, {.add_bos = true});
  EXPECT_THROW(with_bos.RestoreState(state), Error);
  for (size_t size = 0; size < state.size(); ++size)
    EXPECT_THROW(encoder.RestoreState(state.substr(0, size)), Error);
  EXPECT_THROW(encoder.RestoreState(state + "x"), Error);
  // The failed attempts left it as it was.
  encoder.Feed("ld", &ids);
  encoder.Finish(&ids);
  EXPECT_EQ(ids, tokenizer.Encode("hello world"));
}

TEST(StreamDecoderTest, NeverGivesHalfACharacter) {
  const Tokenizer tokenizer = SmallByteBpe(PreTokenizer::kGpt2);
  TestRandom random(4);
  for (int i = 0; i < 200; ++i) {
    const std::string text = RandomText(&random, 20, i % 2 == 0);
    const auto ids = tokenizer.Encode(text);
    const std::string whole = tokenizer.Decode(ids);
    StreamDecoder decoder(tokenizer);
    std::string out;
    for (TokenId id : ids) {
      std::string piece;
      decoder.Feed(id, &piece);
      for (size_t at = 0; at < piece.size();) {
        const Utf8Char c = DecodeUtf8(piece.data() + at, piece.size() - at);
        ASSERT_TRUE(c.valid) << "half a character in '" << piece << "'";
        at += c.length;
      }
      out += piece;
      if (i % 3 == 0) {
        const std::string state = decoder.SaveState();
        decoder = StreamDecoder(tokenizer);
        decoder.RestoreState(state);
      }
    }
    decoder.Finish(&out);
    EXPECT_EQ(out, whole);
    if (i % 2 == 1) {
      EXPECT_EQ(out, text);
    }
  }
}

TEST(StreamDecoderTest, ReplacementComesAsSoonAsItIsCertain) {
  const Tokenizer tokenizer = SmallByteBpe(PreTokenizer::kGpt2);
  StreamDecoder decoder(tokenizer);
  std::string out;
  decoder.Feed(0xE4, &out);
  decoder.Feed(0xB8, &out);
  EXPECT_EQ(out, "");
  decoder.Feed('x', &out);
  EXPECT_EQ(out, "\uFFFDx");
  decoder.Feed(0xFF, &out);
  EXPECT_EQ(out, "\uFFFDx\uFFFD");
  decoder.Feed(0xC3, &out);
  decoder.Finish(&out);
  EXPECT_EQ(out, "\uFFFDx\uFFFD\uFFFD");
  EXPECT_THROW(decoder.Feed(100000, &out), Error);
  EXPECT_THROW(decoder.RestoreState(""), Error);
  EXPECT_THROW(decoder.RestoreState(std::string("\1abc")), Error);
}

TEST(StreamDecoderTest, TheSpaceInFrontGoesOnlyAtTheStart) {
  const Tokenizer tokenizer = SmallPieces(Algorithm::kScoredBpe, false, true);
  const auto ids = tokenizer.Encode("the the");
  EXPECT_EQ(tokenizer.Decode(ids), "the the");
  EXPECT_EQ(tokenizer.Decode(ids, {.at_text_start = false}), " the the");
}

}  // namespace
}  // namespace mneme
