#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <limits>
#include <vector>

#include "base/aligned.h"
#include "base/budget.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/files/file.h"
#include "base/half.h"
#include "base/hash.h"
#include "base/message.h"
#include "base/random.h"
#include "base/testing.h"
#include "base/text/fields.h"
#include "base/text/units.h"
#include "base/thread_pool.h"
#include "base/types.h"
#include "base/weighted_mean.h"

namespace mneme {
namespace {

TEST(Half, EveryF16RoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToF32(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(value))));
    } else {
      EXPECT_EQ(F32ToF16(value), bits);
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(F32ToF16(1.0f + 0x1p-11f), 0x3C00);             // tie goes to even
  EXPECT_EQ(F32ToF16(1.0f + 0x1p-11f + 0x1p-20f), 0x3C01);  // above the tie
  EXPECT_EQ(F32ToF16(65519.0f), 0x7BFF);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7C00);
  EXPECT_EQ(F32ToF16(0x1p-25f), 0);
  for (uint16_t bits = 0; bits < 0x7BFF; ++bits) {  // between all neighbours, subnormal ones too
    const float middle = (F16ToF32(bits) + F16ToF32(static_cast<uint16_t>(bits + 1))) / 2;
    EXPECT_EQ(F32ToF16(middle), bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(F32ToF16(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(F32ToF16(std::nextafter(middle, 1e9f)), bits + 1);
  }
  EXPECT_EQ(F32ToBF16(1.0f + 0x1p-8f), 0x3F80);
  EXPECT_EQ(F32ToBF16(1.0f + 0x1p-8f + 0x1p-20f), 0x3F81);
  EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Testing, ComparisonsCannotBeFooled) {
  using testing::MaxDifference;
  using testing::RelativeDifference;
  const std::vector<float> a = {-1.f, -2.f};
  const std::vector<float> b = {-2.f, -1.f};
  const std::vector<float> nan = {std::nanf(""), -2.f};
  const std::vector<float> inf = {std::numeric_limits<float>::infinity(), -2.f};
  EXPECT_GT(RelativeDifference(a, b), 0.5);
  EXPECT_EQ(RelativeDifference(a, a), 0.0);
  EXPECT_TRUE(std::isinf(RelativeDifference(a, nan)));
  EXPECT_TRUE(std::isinf(RelativeDifference(nan, nan)));
  EXPECT_TRUE(std::isinf(RelativeDifference(a, inf)));
  EXPECT_EQ(RelativeDifference(inf, inf), 0.0);
  EXPECT_TRUE(std::isinf(MaxDifference(a, nan)));
  EXPECT_TRUE(std::isinf(MaxDifference(a, std::vector<float>{1.f})));
  EXPECT_EQ(MaxDifference(a, b), 1.0);
}

TEST(Budget, RefusesWithNumbersAndKeepsState) {
  Budget budget(1000);
  Lease first = budget.Reserve(MemoryTag::kKv, 600, "blocks");
  EXPECT_EQ(budget.used_bytes(), 600u);
  try {
    Lease second = budget.Reserve(MemoryTag::kScratch, 500, "activations");
    FAIL() << "the cap was exceeded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBudget);
    EXPECT_NE(std::string(error.what()).find("activations"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("--memory at least 2K"), std::string::npos) << error.what();
  }
  EXPECT_EQ(budget.used_bytes(), 600u);
  Lease moved = std::move(first);
  EXPECT_EQ(budget.used_bytes(), 600u);
  moved.Resize(200, "blocks");
  EXPECT_EQ(budget.used_bytes(MemoryTag::kKv), 200u);
  EXPECT_EQ(budget.peak_bytes(MemoryTag::kKv), 600u);
  EXPECT_THROW(moved.Resize(2000, "blocks"), Error);
  EXPECT_EQ(moved.bytes(), 200u);
  moved = Lease();
  EXPECT_EQ(budget.used_bytes(), 0u);
}

TEST(Budget, WeightsAreCountedBesideTheCap) {
  Budget budget(1000);
  const Lease packed = budget.Reserve(MemoryTag::kPacked, 5000, "repacked weights");
  EXPECT_EQ(budget.used_bytes(), 0u);
  EXPECT_EQ(budget.free_bytes(), 1000u);
  const Lease blocks = budget.Reserve(MemoryTag::kKv, 1000, "blocks");
  const MemoryReport report = budget.Report();
  EXPECT_EQ(report.cap_bytes, 1000u);
  EXPECT_EQ(report.used_bytes, 1000u);
  EXPECT_EQ(report.peak_bytes, 1000u);
  ASSERT_EQ(report.rows.size(), 2u);
  EXPECT_EQ(report.rows[0].tag, "kv");
  EXPECT_TRUE(report.rows[0].is_under_cap);
  EXPECT_EQ(report.rows[1].tag, "packed");
  EXPECT_EQ(report.rows[1].used_bytes, 5000u);
  EXPECT_FALSE(report.rows[1].is_under_cap);
}

TEST(ThreadPool, EveryTaskOnceManyRegions) {
  for (size_t threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    std::vector<std::atomic<int>> counts(37);
    for (int region = 0; region < 2000; ++region) {
      pool.Run(counts.size(), [&](size_t task, size_t thread) {
        EXPECT_LT(thread, threads);
        counts[task].fetch_add(1);
      });
    }
    for (auto& count : counts) EXPECT_EQ(count.load(), 2000);
  }
}

TEST(ThreadPool, TakesTheThreadsThatThereAre) {
  const pid_t child = fork();
  if (child == 0) {  // the limit does not hold for root
    const rlimit none{1, 1};
    if ((geteuid() == 0 && setuid(65534) != 0) || setrlimit(RLIMIT_NPROC, &none) != 0) _exit(3);
    ThreadPool pool(4);
    std::vector<std::atomic<int>> counts(37);
    pool.Run(counts.size(), [&](size_t task, size_t) { counts[task].fetch_add(1); });
    bool is_right = pool.num_threads() < 4 && pool.num_threads_asked() == 4;
    for (auto& count : counts) is_right = is_right && count.load() == 1;
    _exit(is_right ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(Units, ParseAndFormat) {
  EXPECT_EQ(ParseBytes("256M", "x"), size_t{256} << 20);
  EXPECT_EQ(ParseBytes("1.5K", "x"), 1536u);
  EXPECT_EQ(ParseBytes("64KiB", "x"), 65536u);
  EXPECT_EQ(ParseCount("10M", "x"), 10 << 20);
  EXPECT_EQ(ParseCount("32K", "x"), 32768);
  for (const char* bad : {"", "M", "-5", "1e400", "5X", "nan", "1.5", "12 M"})
    EXPECT_THROW(ParseCount(bad, "x"), Error) << bad;
  EXPECT_EQ(FormatCount(1953125), "1,953,125");
  EXPECT_EQ(FormatCount(-100), "-100");
  EXPECT_EQ(FormatBytes(1536), "1.50 KiB");
  EXPECT_EQ(ParseBytes(FormatBytesUp(123456789), "x") >= 123456789, true);
}

TEST(Units, NothingIsRoundedCutOrWrappedAround) {
  // Beyond what a double holds.
  EXPECT_EQ(ParseCount("9007199254740993", "x"), 9007199254740993);
  EXPECT_EQ(ParseCount("4611686018427387904", "x"), int64_t{1} << 62);
  EXPECT_EQ(ParseUnsigned("18446744073709551615", "x", Unit::kNone, 0, UINT64_MAX), UINT64_MAX);
  EXPECT_EQ(ParseWhole("1.5M", "x", Unit::kCount, 0, 1 << 30), 3 << 19);
  EXPECT_EQ(ParseWhole("1e6", "x", Unit::kCount, 0, 1 << 30), 1000000);
}

TEST(Units, WhatIsNoSuchNumberIsRefused) {
  const auto message = [](const auto& parse) -> std::string {
    try {
      parse();
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInput ? error.what() : "another kind";
    }
    return "(no error)";
  };
  for (const char* bad :
       {"18446744073709551616", "99999999999999999999999", "-1", "1K", "nan", "0x10", "1.", "."}) {
    EXPECT_NE(message([&] { ParseUnsigned(bad, "--seed", Unit::kNone, 0, UINT64_MAX); }).find("--seed: '"),
              std::string::npos)
        << bad;
  }
  EXPECT_NE(message([] { ParseCount("-1", "--pin"); }).find("out of range"), std::string::npos);
  EXPECT_NE(message([] { ParseCount("4611686018427387905", "--pin"); }).find("out of range"),
            std::string::npos);
  EXPECT_NE(message([] { ParseBytes("1.5", "--memory"); }).find("whole number"), std::string::npos);
  EXPECT_NE(message([] { ParseBytes("17000000T", "--memory"); }).find("too large"), std::string::npos);
  for (const char* bad : {"nan", "inf", "-inf", "1e999", "", "0.5x", "-0.1", "1e7"}) {
    EXPECT_NE(message([&] { ParseReal(bad, "--temperature", 0, 1e6); }).find("--temperature: '"),
              std::string::npos)
        << bad;
  }
  EXPECT_EQ(ParseReal("0.8", "x", 0, 1), 0.8);
}

// Both messages of a range name both of its ends, whatever the type of the number.
TEST(Units, ARangeHasOneLowerEnd) {
  const auto message = [](const char* text, auto value, const Range& range) -> std::string {
    try {
      ParseField(text, "--threads", range, &value);
    } catch (const Error& error) {
      return error.what();
    }
    return "(no error)";
  };
  for (const char* text : {"0", "5000", "-1", "x"}) {
    for (const std::string& said : {message(text, size_t{1}, {1, 1024}), message(text, int64_t{1}, {1, 1024}),
                                    message(text, int32_t{1}, {1, 1024}), message(text, 1.0f, {1, 1024})}) {
      EXPECT_NE(said.find("it takes 1 to 1024"), std::string::npos) << said;
    }
  }
  EXPECT_NE(message("0", size_t{1}, {1, 0x1p62, Unit::kBytes}).find("a whole number from 1 up; such as"),
            std::string::npos);
  EXPECT_NE(message("-1", uint64_t{1}, {0, 0x1p64}).find("0 to 18446744073709551615"), std::string::npos);
}

TEST(Units, PrintedBytesCanBeGivenBack) {
  EXPECT_EQ(ParseBytes("1.50 KiB", "x"), 1536u);
  EXPECT_EQ(ParseBytes("64kb", "x"), 65536u);
  EXPECT_EQ(ParseBytes("1.7G", "x"), 1825361100u);
}

TEST(Checked, SizesStopAtTheLargest) {
  EXPECT_EQ(SaturatingAdd(SIZE_MAX - 1, 1), SIZE_MAX);
  EXPECT_EQ(SaturatingAdd(SIZE_MAX - 1, 2), SIZE_MAX);
  EXPECT_EQ(SaturatingMultiply(size_t{1} << 40, size_t{1} << 40), SIZE_MAX);
  EXPECT_EQ(SaturatingMultiply(size_t{1} << 40, 1000), (size_t{1} << 40) * 1000);
}

TEST(Random, SameSeedSameSequenceAndState) {
  Random a(7), b(7);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Next(), b.Next());
  Random c(8);
  c.set_state(a.state());
  EXPECT_EQ(a.Next(), c.Next());
  for (int i = 0; i < 1000; ++i) EXPECT_LT(a.Below(7), 7u);
}

TEST(File, AStopEndsAStream) {
  const std::string path = ::testing::TempDir() + "/whole.txt";
  std::ofstream(path) << "all of it";
  std::atomic<bool> stop{false};
  ByteSource source(path, &stop);
  char buffer[16];
  EXPECT_EQ(source.Read(std::span(buffer).first(4)), 4u);
  stop = true;
  EXPECT_EQ(source.Read(buffer), 0u);
  stop = false;
  EXPECT_EQ(source.Read(buffer), 5u);
}

// Of micro-batches with 1, 10, 0 and 4 answers: every answer counts once, wherever it stands.
TEST(WeightedMean, PartsCountByTheirWeight) {
  WeightedMean all;
  EXPECT_TRUE(std::isnan(all.value()));
  for (const auto& [mean, count] : {std::pair{8.0, 1.0}, {2.0, 10.0}, {0.0, 0.0}, {1.0, 4.0}}) {
    WeightedMean part;
    part.Add(mean * count, count);
    all.Add(part);
  }
  EXPECT_DOUBLE_EQ(all.value(), (8 + 20 + 4) / 15.0);  // pairwise it was ((8 + 2) / 2 + 1) / 2
  EXPECT_EQ(all.weight, 15);
}

// Whatever a message quotes, a terminal only sees text, and progress its own two marks.
TEST(Message, IsCleanedOnItsWay) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  WriteMessage("model: \x1b[2Jx\u202Ey\nnext\n", file);
  WriteMessage("\r\x1b[Kreading \x1b[31m", file);
  std::rewind(file);
  char buffer[200];
  const std::string text(buffer, std::fread(buffer, 1, sizeof(buffer), file));
  std::fclose(file);
  EXPECT_EQ(text, "model: \\x1b[2Jx\\u{202e}y\nnext\n\r\x1b[Kreading \\x1b[31m");
}

TEST(Hash, IsXxh3HoweverTheBytesArrive) {
  // Values that state files of xxHash 0.8 hold.
  EXPECT_EQ(HashBytes(""), 0x2d06800538d394c2u);
  EXPECT_EQ(HashBytes("mneme"), 0x98c3f069b8ddbdd1u);
  std::string text;
  for (int i = 0; i < 100000; ++i) text += static_cast<char>(i * i);
  const std::string path = ::testing::TempDir() + "/mneme_hash_" + std::to_string(::getpid());
  std::ofstream(path, std::ios::binary) << text;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{7}}) {
    Hasher hasher(seed);
    for (size_t at = 0, size = 1; at < text.size(); at += size, size = size * 3 % 1000 + 1) {
      size = std::min(size, text.size() - at);
      hasher.Write(text.data() + at, size);
    }
    EXPECT_EQ(hasher.value(), HashBytes(text, seed));
    EXPECT_EQ(HashFile(path, seed), HashBytes(text, seed));
  }
  std::remove(path.c_str());
  EXPECT_NE(HashBytes(text, 0), HashBytes(text, 7));
}

TEST(Types, EncodingNames) {
  EXPECT_EQ(ParseEncoding("Q4_K"), Encoding::kQ4_K);
  EXPECT_EQ(ParseEncoding("q9"), std::nullopt);
  EXPECT_EQ(EncodedBytes(Encoding::kQ6_K, 512), 420u);
}

TEST(Aligned, HugeMemoryIsAlignedAndRefusesWhatCannotBe) {
  for (const size_t bytes : {size_t{0}, size_t{100}, (size_t{4} << 20) + 1}) {
    const AlignedArray<uint8_t> memory = MakeHuge(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % kAlignment, 0u);
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
    if (bytes > 0) memory[bytes - 1] = 1;
  }
  EXPECT_THROW(MakeHuge(SIZE_MAX), std::bad_alloc);
}

}  // namespace
}  // namespace mneme
