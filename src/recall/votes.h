// What a row of a turn says to which slices are to come back.
#pragma once

#include <span>

namespace mneme {

// scores: of one row and head, the largest product of each slice, before softmax; changed where soft_cap > 0.
// The share of a slice is softmax over all of them. What its logarithm exceeds that of an equal share by, and
// a floor, is added to its votes: a flat row has none. The floor is 2 nats, or less where there are so few
// slices that none could exceed it. largest: the largest share so far. Sums are in the order of the slices.
void AddVotes(float soft_cap, std::span<float> scores, std::span<float> votes, std::span<float> largest);

}  // namespace mneme
