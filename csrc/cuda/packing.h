// The order of packed weights: a matrix [K, channels] becomes what each lane of a warp takes into a product of depth
// 16, [K / 16, channels / 8, 32 lanes, 8 bytes]. Rows that are missing to a multiple of 16 are zeros.
#pragma once

#include <cstdint>

namespace modnas_fast::cuda {

constexpr int kStep = 16;            // rows of a step
constexpr int kFragmentBytes = 256;  // of a step's 8 columns
constexpr int kMostColumns = 6;      // eights of channels that a warp computes at most
constexpr int kMostAhead = 3;        // steps that a warp loads before it uses them, at most

constexpr int steps_of_rows(int rows) { return (rows + kStep - 1) / kStep; }

// Blocks that have fewer columns than the others read on, and so do loads ahead of the last steps; nobody uses it.
constexpr int64_t fragment_slack(int channels) {
  return int64_t{kMostAhead * (channels / 8) + kMostColumns - 1} * kFragmentBytes;
}

}  // namespace modnas_fast::cuda
