// The register tile that all kernels share: a few rows of a matrix times a packed column tile (columns.h).
#pragma once

#include "cpu/columns.h"
#include "cpu/vector.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// Rows of a register tile with this many vectors: sums, one broadcast value and the weights fill the registers.
constexpr int tile_rows(int vectors) {
  if (kLanes == 16) return 8;  // of 32 registers
  return vectors == 1 ? 8 : 4;  // of 16
}

// sum += a · b, and no instruction more: GCC would put some sums into other registers and move them back.
MODNAS_FAST_INLINE void add_product(Vector& sum, Vector a, Vector b) {
#if defined(__AVX512F__)
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
  sum += a * b;
#endif
}

// sums[row] += a[row, 0…depth] · b; `depth` is even.
template <int kRows, int kFull, bool kPaired>
MODNAS_FAST_INLINE void multiply_add(Vector (&sums)[kRows][kFull + kPaired], const float* a, int64_t row_stride,
                                     int64_t depth, const float* b) {
  const float* rows[kRows];
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
    rows[row] = a + row * row_stride;
    asm("" : "+r"(rows[row]));
  }
  for (int64_t k = 0; k < depth; k += 2) {
    asm("" : "+r"(k));  // one counter for all rows, instead of a pointer each that has to be moved on
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Vector weights[kFull + 1];
#pragma GCC unroll 3
      for (int v = 0; v < kFull; ++v) weights[v] = load(b + (half * kFull + v) * kLanes);
#pragma GCC unroll 12
      for (int row = 0; row < (kFull > 0 ? kRows : 0); ++row) {
        const Vector value = broadcast(rows[row][k + half]);
#pragma GCC unroll 3
        for (int v = 0; v < kFull; ++v) add_product(sums[row][v], value, weights[v]);
      }
    }
    if (kPaired) {
      const Vector weights = load(b + 2 * kFull * kLanes);
#pragma GCC unroll 12
      for (int row = 0; row < kRows; ++row) {
        const Vector value = broadcast_pair(rows[row] + k);
        add_product(sums[row][kFull + kPaired - 1], value, weights);
      }
    }
    b += (2 * kFull + kPaired) * kLanes;
  }
}

// Calls function(full, paired), both compile-time constants, for a tile's shape.
template <int kFull, bool kPaired>
struct Shape {
  static constexpr int full = kFull;
  static constexpr bool paired = kPaired;
  static constexpr int vectors = kFull + kPaired;
};

template <typename Function>
MODNAS_FAST_INLINE void with_shape(const Tile& tile, const Function& function) {
  if (kLanes > 8 && tile.paired) {
    if constexpr (kLanes > 8) {
      if (tile.full == 2) function(Shape<2, true>());
      if (tile.full == 1) function(Shape<1, true>());
      if (tile.full == 0) function(Shape<0, true>());
    }
  } else {
    if (tile.full == 3) function(Shape<3, false>());
    if (tile.full == 2) function(Shape<2, false>());
    if (tile.full == 1) function(Shape<1, false>());
  }
}

}  // namespace
}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
