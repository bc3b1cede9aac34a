// Layers with a state of fixed size in double precision, by the twin of their kernel, for a stream that
// begins with these rows [num_rows, model_dim]. What a layer adds to them comes back.
#pragma once

#include "model/blocks/state/channel_delta.h"
#include "model/blocks/state/delta.h"
#include "model/blocks/state/lru.h"
#include "model/blocks/state/rwkv_mix.h"
#include "model/blocks/state/scan.h"
#include "model/blocks/state/selective.h"
#include "model/blocks/state/short_conv.h"
#include "reference/rows.h"

namespace mneme::reference {

Rows Delta(const ModelPlan& m, const DeltaPlan& plan, const DeltaWeights& w, const Rows& input);
Rows ChannelDelta(const ModelPlan& m, const ChannelDeltaPlan& plan, const ChannelDeltaWeights& w,
                  const Rows& input);
Rows ShortConv(const ShortConvPlan& plan, const ShortConvWeights& w, const Rows& input);
Rows Scan(const ModelPlan& m, const ScanPlan& plan, const ScanWeights& w, const Rows& input);
Rows Selective(const ModelPlan& m, const SelectivePlan& plan, const SelectiveWeights& w, const Rows& input);
Rows Lru(const LruPlan& plan, const LruWeights& w, const Rows& input);
Rows TimeMix(const TimeMixPlan& plan, const TimeMixWeights& w, const Rows& input);
Rows ChannelMix(const ChannelMixPlan& plan, const ChannelMixWeights& w, const Rows& input);

}  // namespace mneme::reference
