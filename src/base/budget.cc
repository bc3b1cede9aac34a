#include "base/budget.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/units.h"

namespace mneme {
namespace {

constexpr std::array<std::string_view, kNumMemoryTags> kTagNames = {
    "kv", "memory", "store", "scratch", "tokenizer", "session", "input", "weights", "packed"};

}  // namespace

std::string_view MemoryTagName(MemoryTag tag) { return kTagNames[static_cast<size_t>(tag)]; }

bool IsUnderCap(MemoryTag tag) { return tag != MemoryTag::kWeights && tag != MemoryTag::kPacked; }

Lease::Lease(Lease&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)),
      tag_(other.tag_),
      bytes_(std::exchange(other.bytes_, 0)) {}

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    Release();
    budget_ = std::exchange(other.budget_, nullptr);
    tag_ = other.tag_;
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Lease::~Lease() { Release(); }

void Lease::Release() {
  if (budget_ != nullptr) budget_->Give(tag_, bytes_);
  budget_ = nullptr;
  bytes_ = 0;
}

void Lease::Resize(size_t new_bytes, std::string_view what) {
  MNEME_CHECK(budget_ != nullptr);
  if (new_bytes > bytes_) budget_->Take(tag_, new_bytes - bytes_, what);
  if (new_bytes < bytes_) budget_->Give(tag_, bytes_ - new_bytes);
  bytes_ = new_bytes;
}

Lease Budget::Reserve(MemoryTag tag, size_t bytes, std::string_view what) {
  Take(tag, bytes, what);
  return Lease(this, tag, bytes);
}

void Budget::Take(MemoryTag tag, size_t bytes, std::string_view what) {
  std::lock_guard lock(mutex_);
  if (IsUnderCap(tag)) {
    if (bytes > cap_bytes_ - used_) {
      const size_t needed = used_ > SIZE_MAX - bytes ? SIZE_MAX : used_ + bytes;
      Fail(ErrorKind::kBudget,
           "{} need {}, and {} of the memory cap of {} is already taken: give --memory at least {}, or make "
           "the context smaller",
           what, FormatBytes(bytes), FormatBytes(used_), FormatBytes(cap_bytes_), FormatBytesUp(needed));
    }
    used_ += bytes;
    peak_ = std::max(peak_, used_);
  }
  const auto index = static_cast<size_t>(tag);
  used_by_[index] += bytes;
  peak_by_[index] = std::max(peak_by_[index], used_by_[index]);
}

void Budget::Give(MemoryTag tag, size_t bytes) {
  std::lock_guard lock(mutex_);
  if (IsUnderCap(tag)) used_ -= bytes;
  used_by_[static_cast<size_t>(tag)] -= bytes;
}

size_t Budget::used_bytes() const {
  std::lock_guard lock(mutex_);
  return used_;
}
size_t Budget::free_bytes() const {
  std::lock_guard lock(mutex_);
  return cap_bytes_ - used_;
}
size_t Budget::used_bytes(MemoryTag tag) const {
  std::lock_guard lock(mutex_);
  return used_by_[static_cast<size_t>(tag)];
}
size_t Budget::peak_bytes() const {
  std::lock_guard lock(mutex_);
  return peak_;
}
size_t Budget::peak_bytes(MemoryTag tag) const {
  std::lock_guard lock(mutex_);
  return peak_by_[static_cast<size_t>(tag)];
}

MemoryReport Budget::Report() const {
  std::lock_guard lock(mutex_);
  MemoryReport report{.cap_bytes = cap_bytes_, .used_bytes = used_, .peak_bytes = peak_, .rows = {}};
  for (size_t i = 0; i < kNumMemoryTags; ++i) {
    if (peak_by_[i] == 0) continue;
    const auto tag = static_cast<MemoryTag>(i);
    report.rows.push_back({MemoryTagName(tag), used_by_[i], peak_by_[i], IsUnderCap(tag)});
  }
  return report;
}

}  // namespace mneme
