// Attention and the scan of Mamba 2 side by side, of the same rows (Falcon-H1).
#pragma once

#include "model/blocks/attention.h"
#include "model/blocks/state/scan.h"

namespace mneme {

struct HybridWeights {
  AttentionWeights attention;
  ScanWeights scan;
};

}  // namespace mneme
