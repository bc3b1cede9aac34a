#include "base/budget.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text/units.h"

namespace mneme {
namespace {

constexpr std::array<std::string_view, kNumMemoryTags> kTagNames = {
    "kv", "memory", "store", "scratch", "tokenizer", "session", "input", "weights", "packed"};

}  // namespace

std::string_view MemoryTagName(MemoryTag tag) { return kTagNames[static_cast<size_t>(tag)]; }

bool IsUnderCap(MemoryTag tag) { return tag != MemoryTag::kWeights && tag != MemoryTag::kPacked; }

struct Budget::State {
  State(size_t cap, std::shared_ptr<State> of) : cap_bytes(cap), whole(std::move(of)) {}

  void Take(MemoryTag tag, size_t bytes, std::string_view what);
  void Give(MemoryTag tag, size_t bytes);

  const size_t cap_bytes;
  const std::shared_ptr<State> whole;  // null: a budget of its own
  mutable std::mutex mutex;
  size_t used = 0;                               // guarded by mutex
  size_t peak = 0;                               // guarded by mutex
  std::array<size_t, kNumMemoryTags> used_by{};  // guarded by mutex
  std::array<size_t, kNumMemoryTags> peak_by{};  // guarded by mutex
};

void Budget::State::Take(MemoryTag tag, size_t bytes, std::string_view what) {
  std::lock_guard lock(mutex);
  const bool is_under_cap = IsUnderCap(tag);
  if (is_under_cap && bytes > cap_bytes - used) {
    const size_t needed = used > SIZE_MAX - bytes ? SIZE_MAX : used + bytes;
    if (whole != nullptr) {
      Fail(ErrorKind::kBudget,
           "{} need {}, and {} of the session's share of {} (session_memory) is already taken: it needs at "
           "least {}, "
           "or a smaller context",
           what, FormatBytes(bytes), FormatBytes(used), FormatBytes(cap_bytes), FormatBytesUp(needed));
    }
    Fail(ErrorKind::kBudget,
         "{} need {}, and {} of the memory cap of {} is already taken: give --memory at least {}, or make "
         "the context smaller",
         what, FormatBytes(bytes), FormatBytes(used), FormatBytes(cap_bytes), FormatBytesUp(needed));
  }
  if (whole != nullptr) whole->Take(tag, bytes, what);
  if (is_under_cap) {
    used += bytes;
    peak = std::max(peak, used);
  }
  const auto index = static_cast<size_t>(tag);
  used_by[index] += bytes;
  peak_by[index] = std::max(peak_by[index], used_by[index]);
}

void Budget::State::Give(MemoryTag tag, size_t bytes) {
  std::lock_guard lock(mutex);
  if (IsUnderCap(tag)) used -= bytes;
  used_by[static_cast<size_t>(tag)] -= bytes;
  if (whole != nullptr) whole->Give(tag, bytes);
}

// ---- Lease

struct MNEME_LOCAL Lease::Impl {
  std::shared_ptr<Budget::State> budget;
  MemoryTag tag;
  size_t bytes;
};

Lease::Lease() = default;
Lease::Lease(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Lease::Lease(Lease&& other) noexcept = default;

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    Release();
    impl_ = std::move(other.impl_);
  }
  return *this;
}

Lease::~Lease() { Release(); }

void Lease::Release() {
  if (impl_ != nullptr) impl_->budget->Give(impl_->tag, impl_->bytes);
  impl_.reset();
}

size_t Lease::bytes() const { return impl_ == nullptr ? 0 : impl_->bytes; }

void Lease::Resize(size_t new_bytes, std::string_view what) {
  if (impl_ == nullptr) Fail(ErrorKind::kInput, "an empty lease has no size to change ({})", what);
  if (new_bytes > impl_->bytes) impl_->budget->Take(impl_->tag, new_bytes - impl_->bytes, what);
  if (new_bytes < impl_->bytes) impl_->budget->Give(impl_->tag, impl_->bytes - new_bytes);
  impl_->bytes = new_bytes;
}

// ---- Budget

Budget::Budget(size_t cap_bytes) : state_(std::make_shared<State>(cap_bytes, nullptr)) {}
Budget::Budget(size_t cap_bytes, const Budget& whole)
    : state_(std::make_shared<State>(cap_bytes, whole.state_)) {}

Lease Budget::Reserve(MemoryTag tag, size_t bytes, std::string_view what) const {
  auto lease = std::make_unique<Lease::Impl>(Lease::Impl{state_, tag, 0});
  state_->Take(tag, bytes, what);
  lease->bytes = bytes;
  return Lease(std::move(lease));
}

size_t Budget::cap_bytes() const { return state_->cap_bytes; }
size_t Budget::used_bytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->used;
}
size_t Budget::free_bytes() const {
  std::lock_guard lock(state_->mutex);
  const size_t own = state_->cap_bytes - state_->used;
  if (state_->whole == nullptr) return own;
  std::lock_guard whole_lock(state_->whole->mutex);
  return std::min(own, state_->whole->cap_bytes - state_->whole->used);
}
size_t Budget::used_bytes(MemoryTag tag) const {
  std::lock_guard lock(state_->mutex);
  return state_->used_by[static_cast<size_t>(tag)];
}
size_t Budget::peak_bytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->peak;
}
size_t Budget::peak_bytes(MemoryTag tag) const {
  std::lock_guard lock(state_->mutex);
  return state_->peak_by[static_cast<size_t>(tag)];
}

MemoryReport Budget::Report() const {
  std::lock_guard lock(state_->mutex);
  MemoryReport report{
      .cap_bytes = state_->cap_bytes, .used_bytes = state_->used, .peak_bytes = state_->peak, .rows = {}};
  for (size_t i = 0; i < kNumMemoryTags; ++i) {
    if (state_->peak_by[i] == 0) continue;
    const auto tag = static_cast<MemoryTag>(i);
    report.rows.push_back({MemoryTagName(tag), state_->used_by[i], state_->peak_by[i], IsUnderCap(tag)});
  }
  return report;
}

}  // namespace mneme
