// The points at which Winograd's polynomials are evaluated: 0, ±kNear, ±kFar and infinity.
//
// ±5/8 and ±3/2 halve the rounding error of the usual ±1 and ±2 at the same number of operations.
#pragma once

#include <cstdint>

namespace modnas_fast {

constexpr double kNear = 0.625;
constexpr double kFar = 1.5;
constexpr int64_t kWinogradPoints = 6;

}  // namespace modnas_fast
