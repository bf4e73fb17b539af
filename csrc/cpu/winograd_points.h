// The points at which Winograd's polynomials are evaluated: 0, infinity, and pairs ±p.
//
// With 6 points, ±5/8 and ±3/2 halve the rounding error of the usual ±1 and ±2 at the same number of operations: 6e-7 of
// a result. With 8 no other three pairs do better than ±½, ±1 and ±2: 3e-6.
#pragma once

namespace modnas_fast {

constexpr int winograd_pairs(int points) { return (points - 2) / 2; }

constexpr double winograd_point(int points, int pair) {
  constexpr double of_six[] = {0.625, 1.5}, of_eight[] = {0.5, 1, 2};
  return points == 6 ? of_six[pair] : of_eight[pair];
}

}  // namespace modnas_fast
