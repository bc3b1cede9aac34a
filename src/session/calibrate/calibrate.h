// What calibration is made of. For the files of this folder only.
#pragma once

#include <string_view>

namespace mneme {

// Some 26 KiB of prose.
std::string_view CalibrationProse();

}  // namespace mneme
