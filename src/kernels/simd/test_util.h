// What the kernel tests share: running a check once per SIMD target that this machine can run.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>

#include "kernels/simd/targets.h"
//
#include "hwy/highway.h"
#include "hwy/targets.h"

namespace mneme::testing {

// Calls fn() with the dynamic dispatch pinned to each compiled and supported target in turn.
template <typename Fn>
void ForEachTarget(const Fn& fn) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    fn();
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
}

}  // namespace mneme::testing
