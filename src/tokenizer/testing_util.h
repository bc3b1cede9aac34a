// Helpers of the tokenizer tests: SHA-256, files of ids, random texts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace mneme::testing {

// FIPS 180-4, as lower-case hexadecimal.
inline std::string Sha256Hex(std::string_view bytes) {
  static constexpr uint32_t kRound[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  std::string message(bytes);
  message.push_back(static_cast<char>(0x80));
  while (message.size() % 64 != 56) message.push_back('\0');
  for (int i = 7; i >= 0; --i) message.push_back(static_cast<char>(uint64_t{bytes.size()} * 8 >> (8 * i)));
  for (size_t block = 0; block < message.size(); block += 64) {
    uint32_t w[64];
    for (size_t i = 0; i < 16; ++i) {
      w[i] = 0;
      for (size_t j = 0; j < 4; ++j) w[i] = w[i] << 8 | static_cast<uint8_t>(message[block + 4 * i + j]);
    }
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    uint32_t v[8];
    for (size_t i = 0; i < 8; ++i) v[i] = state[i];
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
      const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
      const uint32_t t1 = v[7] + s1 + choice + kRound[i] + w[i];
      const uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
      const uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      for (size_t j = 7; j > 0; --j) v[j] = v[j - 1];
      v[4] += t1;
      v[0] = t1 + t2;
    }
    for (size_t i = 0; i < 8; ++i) state[i] += v[i];
  }
  std::string hex;
  for (uint32_t word : state)
    for (int i = 28; i >= 0; i -= 4) hex.push_back("0123456789abcdef"[word >> i & 15]);
  return hex;
}

inline std::string Sha256OfIds(const std::vector<TokenId>& ids) {
  std::string bytes;
  bytes.reserve(ids.size() * 4);
  for (TokenId id : ids)
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(static_cast<uint32_t>(id) >> (8 * i)));
  return Sha256Hex(bytes);
}

// A small generator with a fixed sequence on every platform.
class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : state_(seed * 2 + 1) {}
  uint32_t Below(uint32_t limit) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>((state_ >> 33) % limit);
  }

 private:
  uint64_t state_;
};

// Text of the characters that pre-tokenizers and normalisers treat differently, in short runs.
inline std::string RandomText(TestRandom* random, size_t num_runs, bool with_invalid) {
  static const std::vector<std::string> kUnits = {"a",
                                                  "B",
                                                  "the",
                                                  " ",
                                                  "  ",
                                                  "\n",
                                                  "\r\n",
                                                  "\t",
                                                  "1",
                                                  "23",
                                                  "4567",
                                                  "'s",
                                                  "'LL",
                                                  "'re",
                                                  "'",
                                                  "don't",
                                                  ".",
                                                  ",",
                                                  "...",
                                                  "$",
                                                  "+=",
                                                  "`",
                                                  "~",
                                                  "_",
                                                  "/",
                                                  "é",
                                                  "e\u0301",
                                                  "ß",
                                                  "Ä",
                                                  "ж",
                                                  "Ж",
                                                  "中",
                                                  "文字",
                                                  "ひ",
                                                  "カナ",
                                                  "한",
                                                  "\u1112\u1161\u11ab",
                                                  "ा",
                                                  "क्",
                                                  "١",
                                                  "½",
                                                  "Ⅷ",
                                                  "\u00A0",
                                                  "\u3000",
                                                  "\u2028",
                                                  "🙂",
                                                  "👩‍👩‍👧",
                                                  "\u200b",
                                                  "\u00ad",
                                                  "ǅ",
                                                  "ʰ",
                                                  "ª",
                                                  "«",
                                                  "。",
                                                  "、",
                                                  "‘",
                                                  "”",
                                                  "€",
                                                  "°",
                                                  "\u2581",
                                                  "<|",
                                                  "|>",
                                                  "</s>",
                                                  "\x01",
                                                  "x",
                                                  "Hello",
                                                  "world",
                                                  "ﬁ",
                                                  "ſ",
                                                  "'ſ",
                                                  "ABCdef",
                                                  "iPhone",
                                                  "Ａｂ",
                                                  "①"};
  static const std::vector<std::string> kInvalid = {
      "\xFF", "\xC3",     "\xE4\xB8",          "\xED\xA0\x80", "\xF4\x90\x80\x80",
      "\x80", "\xC0\xAF", std::string(1, '\0')};
  std::string text;
  for (size_t i = 0; i < num_runs; ++i) {
    const auto& set = with_invalid && random->Below(10) == 0 ? kInvalid : kUnits;
    const std::string& unit = set[random->Below(static_cast<uint32_t>(set.size()))];
    for (uint32_t n = 1 + (random->Below(4) == 0 ? random->Below(5) : 0); n > 0; --n) text += unit;
  }
  return text;
}

}  // namespace mneme::testing
