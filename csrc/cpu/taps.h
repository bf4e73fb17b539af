// Rows of pixels times packed weights, tap by tap: direct convolution, and the 1×1 parts of other kernels.
#pragma once

#include "cpu/elements.h"
#include "cpu/multiply.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// What is written: values, or, for who adds to them, the sums before bias, ReLU and the adding of pairs: whole vectors.
enum Result { kValues, kSums };

// `kRows` pixels of an output row × one column tile.
template <int kRows, typename TileShape, Result kResult>
MODNAS_FAST_INLINE void taps_tile(const TapsArguments& arguments, int64_t row, int64_t column, const Tile& tile,
                                  const float* weights, const float* bias) {
  constexpr int full = TileShape::full, vectors = TileShape::vectors;
  constexpr bool paired = TileShape::paired;
  Vector sums[kRows][vectors];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) sums[r][v] = kResult == kSums ? Vector{} : load(bias + v * kLanes);
  }
  for (int64_t t = 0; t < arguments.num_taps; ++t) {
    const Source& tap = arguments.taps[t];
    const float* a = pixel_of<float>(tap, row, column);
    multiply_add<kRows, full, paired>(sums, a, tap.pixel_stride, tap.channels, weights);
    weights += tap.channels / 2 * (2 * full + paired) * kLanes;
  }
  const Target& out = arguments.out;
  float* to = pixel_of<float>(out, row, column) + tile.column;
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r, to += out.pixel_stride) {
    if (kResult == kSums) {
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) store(to + v * kLanes, sums[r][v]);
      continue;
    }
#pragma GCC unroll 3
    for (int v = 0; v < full; ++v) store(to + v * kLanes, out.relu ? relu(sums[r][v]) : sums[r][v]);
    if (paired) {
      const Vector last = pair_sums(sums[r][vectors - 1]);
      store_eight(to + full * kLanes, out.relu ? relu(last) : last);
    }
  }
}

// Of float32 alone; taps are read as they are: `relu` is for the caller to have done.
template <Result kResult = kValues>
void taps_window(const TapsArguments& arguments, const Window& window) {
  int64_t depth = 0;
  for (int64_t t = 0; t < arguments.num_taps; ++t) depth += arguments.taps[t].channels;
  const ColumnTiles tiles(arguments.out.channels, kLanes);
  const float* weights = arguments.weights;
  const float* bias = arguments.bias;
  const int64_t width = window.column_end - window.column_begin;
  for (int64_t index = 0; index < tiles.count(); ++index) {
    const Tile tile = tiles[index];
    with_shape(tile, [&](auto shape) {
      constexpr int rows = tile_rows(decltype(shape)::vectors);
      for (int64_t y = window.row_begin; y < window.row_end; ++y) {
        if (width < rows) {
          for (int64_t x = window.column_begin; x < window.column_end; ++x) {
            taps_tile<1, decltype(shape), kResult>(arguments, y, x, tile, weights, bias);
          }
          continue;
        }
        for (int64_t x = window.column_begin; x < window.column_end; x += rows) {
          // The last tile of a row overlaps its neighbour and computes the same values again.
          const int64_t begin = x + rows <= window.column_end ? x : window.column_end - rows;
          taps_tile<rows, decltype(shape), kResult>(arguments, y, begin, tile, weights, bias);
        }
      }
    });
    weights += depth / 2 * tiles.pair_size(index);
    bias += tile.vectors() * kLanes;
  }
}

// The first `count` pixels of row 0 to whatever is stored there, through `staging`, [count, scratch_stride].
inline void taps_row(const TapsArguments& arguments, int64_t count, float* staging) {
  if (arguments.out.storage == Storage::kFloat32) return taps_window(arguments, {0, 1, 0, count});
  const Target& out = arguments.out;
  TapsArguments staged = arguments;
  staged.out.data = staging;
  staged.out.pixel_stride = scratch_stride(out.channels);
  taps_window(staged, {0, 1, 0, count});
  for (int64_t x = 0; x < count; ++x, staging += staged.out.pixel_stride) {
    Bfloat16* to = pixel_of<Bfloat16>(out, 0, x);
    for (int64_t c = 0; c < out.channels; c += kLanes) store_channels(to + c, load(staging + c), out.channels - c);
  }
}

// What `count` neighbouring pixels of row 0 have, as float32 and rectified if the tap asks for it, to `to`.
inline void copy_tap(const Source& tap, int64_t count, float* to) {
  const int64_t elements = (count - 1) * tap.pixel_stride + tap.channels;
  with_element(tap.storage, [&](auto element) {
    const auto* from = pixel_of<decltype(element)>(tap, 0, 0);
    if (tap.relu) {
      for (int64_t i = 0; i < elements; i += kLanes) store(to + i, relu(load(from + i)));
    } else {
      for (int64_t i = 0; i < elements; i += kLanes) store(to + i, load(from + i));
    }
  });
}

}  // namespace
}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
