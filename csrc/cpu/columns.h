// How a matrix's columns (a convolution's output channels) split into register tiles of at most three vectors.
//
// Eight columns that are left over where a vector has 16 lanes share their vector between even and odd rows of the
// matrix: lane 2c takes w[k][c], lane 2c + 1 takes w[k + 1][c], and the two sums are added at the very end. So 24 and
// 40 channels cost exactly their share of multiplications. Kernels and packing read this one description of it.
#pragma once

#include <cstdint>

namespace modnas_fast {

struct Tile {
  int64_t column;  // of its first vector
  int full;        // vectors of `lanes` columns
  bool paired;     // one more, of the 8 left-over columns
  int vectors() const { return full + (paired ? 1 : 0); }
};

class ColumnTiles {
 public:
  ColumnTiles(int64_t columns, int lanes)
      : lanes_(lanes),
        full_(columns / lanes),
        vectors_(full_ + (columns % lanes != 0 ? 1 : 0)),
        count_((vectors_ + kMost - 1) / kMost) {}
  int64_t count() const { return count_; }
  int64_t vectors() const { return vectors_; }  // a row of sums is this many vectors
  int64_t first_vector(int64_t index) const {
    const int64_t even = vectors_ / count_, larger = vectors_ % count_;
    return index * even + (index < larger ? index : larger);
  }
  Tile operator[](int64_t index) const {
    const int64_t begin = first_vector(index), end = first_vector(index + 1);
    const bool paired = end > full_;
    return {begin * lanes_, static_cast<int>(end - begin - (paired ? 1 : 0)), paired};
  }
  // Floats in which two rows of tile `index` are packed: the full vectors of both, then the shared one.
  int64_t pair_size(int64_t index) const {
    const Tile tile = (*this)[index];
    return (2 * tile.full + (tile.paired ? 1 : 0)) * lanes_;
  }

 private:
  static constexpr int64_t kMost = 3;
  int64_t lanes_, full_, vectors_, count_;
};

}  // namespace modnas_fast
