#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

namespace mneme {
TEST(TokenizerTest, Placeholder) { EXPECT_EQ(kMaxWordBytes, 65536u); }
}  // namespace mneme
