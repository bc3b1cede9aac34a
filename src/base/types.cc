#include "base/types.h"

#include <array>
#include <cctype>

#include "base/error.h"

namespace mneme {
namespace {

struct EncodingRow {
  Encoding encoding;
  std::string_view name;
  size_t block_values;
  size_t block_bytes;
};

constexpr std::array kEncodings = {
    EncodingRow{Encoding::kF32, "f32", 1, 4},
    EncodingRow{Encoding::kF16, "f16", 1, 2},
    EncodingRow{Encoding::kBF16, "bf16", 1, 2},
    EncodingRow{Encoding::kF64, "f64", 1, 8},
    EncodingRow{Encoding::kI8, "i8", 1, 1},
    EncodingRow{Encoding::kI16, "i16", 1, 2},
    EncodingRow{Encoding::kI32, "i32", 1, 4},
    EncodingRow{Encoding::kI64, "i64", 1, 8},
    EncodingRow{Encoding::kQ8_0, "q8_0", 32, 34},
    EncodingRow{Encoding::kQ4_0, "q4_0", 32, 18},
    EncodingRow{Encoding::kQ4_1, "q4_1", 32, 20},
    EncodingRow{Encoding::kQ5_0, "q5_0", 32, 22},
    EncodingRow{Encoding::kQ5_1, "q5_1", 32, 24},
    EncodingRow{Encoding::kQ2_K, "q2_k", 256, 84},
    EncodingRow{Encoding::kQ3_K, "q3_k", 256, 110},
    EncodingRow{Encoding::kQ4_K, "q4_k", 256, 144},
    EncodingRow{Encoding::kQ5_K, "q5_k", 256, 176},
    EncodingRow{Encoding::kQ6_K, "q6_k", 256, 210},
    EncodingRow{Encoding::kMXFP4, "mxfp4", 32, 17},
    EncodingRow{Encoding::kIQ4_NL, "iq4_nl", 32, 18},
    EncodingRow{Encoding::kIQ4_XS, "iq4_xs", 256, 136},
};

const EncodingRow& Row(Encoding encoding) {
  const auto index = static_cast<size_t>(encoding);
  MNEME_CHECK(index < kEncodings.size() && kEncodings[index].encoding == encoding);
  return kEncodings[index];
}

}  // namespace

std::string_view EncodingName(Encoding encoding) { return Row(encoding).name; }

std::optional<Encoding> ParseEncoding(std::string_view name) {
  for (const EncodingRow& row : kEncodings) {
    if (row.name.size() != name.size()) continue;
    bool same = true;
    for (size_t i = 0; i < name.size(); ++i) {
      same &= std::tolower(static_cast<unsigned char>(name[i])) == row.name[i];
    }
    if (same) return row.encoding;
  }
  return std::nullopt;
}

size_t EncodingBlockValues(Encoding encoding) { return Row(encoding).block_values; }
size_t EncodingBlockBytes(Encoding encoding) { return Row(encoding).block_bytes; }

size_t EncodedBytes(Encoding encoding, size_t num_values) {
  const EncodingRow& row = Row(encoding);
  MNEME_CHECK(num_values % row.block_values == 0);
  return num_values / row.block_values * row.block_bytes;
}

}  // namespace mneme
