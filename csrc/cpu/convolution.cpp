// Dense convolutions of training and their gradients in the weights, by Winograd's minimal filtering: F(4×4, 3×3) on
// 6×6 tiles, F(4×4, 5×5) on 8×8 ones.
//
// A run of tiles goes through steps whose operands stay in the L2 cache. At the images' borders a tile's patch is
// copied with zeros around it; everywhere else it is read in place.
#include "cpu/multiply.h"
#include "cpu/parts.h"
#include "cpu/training.h"
#include "cpu/variant.h"
#include "cpu/winograd_transforms.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

constexpr int64_t kLine = 16;  // floats in a cache line
constexpr int kOutputs = 4;    // a tile's, both ways
constexpr int64_t kRun = 8;    // neighbouring tiles whose column transforms are shared: few enough for the L1 cache

// Transformed tiles, a plane for each pair of points.
struct Stack {
  float* data;           // [points², kTrainingTiles, channels in whole cache lines]
  int64_t tile_stride;   // floats
  int64_t plane_stride;  // one line more than a multiple of tiles, so that planes do not meet in one cache set
};

Stack lay_out(float* memory, int64_t channels) {
  const int64_t tile_stride = (channels + kLine - 1) / kLine * kLine;
  return {memory, tile_stride, kTrainingTiles * tile_stride + kLine};
}

// Where a tile is: its image, and its place in the image's grid of tiles.
struct Grid {
  explicit Grid(const Images& size)
      : rows(size.rows),
        columns(size.columns),
        down((size.rows + kOutputs - 1) / kOutputs),
        across((size.columns + kOutputs - 1) / kOutputs) {}
  int64_t rows, columns, down, across;

  // Calls function(image, row, column, count, first) for runs of neighbouring tiles of [begin, end).
  template <typename Function>
  void for_runs(int64_t begin, int64_t end, const Function& function) const {
    for (int64_t tile = begin; tile < end;) {
      const int64_t x = tile % across;
      int64_t count = end - tile < kRun ? end - tile : kRun;
      if (count > across - x) count = across - x;
      function(tile / across / down, tile / across % down, x, count, tile - begin);
      tile += count;
    }
  }
};

// Pixels [top, top + height) × [left, left + width) of an image, as they lie there or, where some are outside it, from
// a copy with zeros.
template <typename Element>
struct Patch {
  const Element* data;
  int64_t row_stride;
};

template <typename Element>
Patch<Element> patch_of(const Element* image, const Images& size, int64_t channels, int64_t top, int64_t left,
                        int64_t height, int64_t width, Element* copy) {
  if (top >= 0 && left >= 0 && top + height <= size.rows && left + width <= size.columns) {
    return {image + (top * size.columns + left) * channels, size.columns * channels};
  }
  // Columns [begin, end) of the patch are the image's.
  const int64_t begin = left < 0 ? -left : 0, end = size.columns - left < width ? size.columns - left : width;
  for (int64_t y = 0; y < height; ++y) {
    Element* to = copy + y * width * channels;
    if (top + y < 0 || top + y >= size.rows) {
      std::memset(to, 0, width * channels * sizeof(Element));
      continue;
    }
    std::memset(to, 0, begin * channels * sizeof(Element));
    std::memcpy(to + begin * channels, image + ((top + y) * size.columns + left + begin) * channels,
                (end - begin) * channels * sizeof(Element));
    std::memset(to + end * channels, 0, (width - end) * channels * sizeof(Element));
  }
  return {copy, width * channels};
}

// Bᵀ d B of `count` neighbouring tiles, one vector of channels.
template <int kTaps, typename Element>
MODNAS_FAST_INLINE void transform_tiles(const Element* from, int64_t row_stride, int64_t pixel_stride, Part part,
                                        int64_t count, float* to, const Stack& stack) {
  constexpr int kPoints = Winograd<kOutputs, kTaps>::kPoints;
  Vector columns[kOutputs * kRun + kPoints - kOutputs][kPoints];
  const int64_t width = kOutputs * count + kPoints - kOutputs;
  for (int64_t x = 0; x < width; ++x, from += pixel_stride) {
    Vector d[kPoints];
#pragma GCC unroll 8
    for (int i = 0; i < kPoints; ++i) d[i] = load(from + i * row_stride, part);
    Winograd<kOutputs, kTaps>::input(d, columns[x]);
  }
  for (int64_t tile = 0; tile < count; ++tile, to += stack.tile_stride) {
    float* plane = to;
#pragma GCC unroll 8
    for (int i = 0; i < kPoints; ++i) {
      Vector d[kPoints], t[kPoints];
#pragma GCC unroll 8
      for (int j = 0; j < kPoints; ++j) d[j] = columns[kOutputs * tile + j][i];
      Winograd<kOutputs, kTaps>::input(d, t);
#pragma GCC unroll 8
      for (int j = 0; j < kPoints; ++j, plane += stack.plane_stride) store(plane, t[j]);
    }
  }
}

// A y Aᵀ of one tile, one vector of channels; returns y's sum.
template <int kTaps, typename Element>
MODNAS_FAST_INLINE Vector transform_gradient(const Element* from, int64_t row_stride, int64_t pixel_stride, Part part,
                                           float* to, const Stack& stack) {
  constexpr int kPoints = Winograd<kOutputs, kTaps>::kPoints;
  Vector rows[kOutputs][kPoints], sum = {};
#pragma GCC unroll 4
  for (int i = 0; i < kOutputs; ++i) {
    Vector y[kOutputs];
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; ++j) y[j] = load(from + i * row_stride + j * pixel_stride, part);
    sum += (y[0] + y[1]) + (y[2] + y[3]);
    Winograd<kOutputs, kTaps>::output_gradient(y, rows[i]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < kPoints; ++j) {
    Vector y[kOutputs], m[kPoints];
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) y[i] = rows[i][j];
    Winograd<kOutputs, kTaps>::output_gradient(y, m);
#pragma GCC unroll 8
    for (int i = 0; i < kPoints; ++i) store(to + (i * kPoints + j) * stack.plane_stride, m[i]);
  }
  return sum;
}

template <bool kFlag>
struct Flag {
  static constexpr bool value = kFlag;
};

// Calls function(flag), which is a compile-time constant.
template <typename Function>
MODNAS_FAST_INLINE void with_flag(bool flag, const Function& function) {
  if (flag) {
    function(Flag<true>());
  } else {
    function(Flag<false>());
  }
}

// Aᵀ m A of one tile, one vector of sums (`shared`: of 8 channels in pairs), to all its pixels (`kWhole`) or those that
// lie in the image. Where kRectified, only values at positive ones of `rectified`, which lies as `to` does, stay.
template <int kTaps, bool kRectified, bool kWhole, typename Element>
MODNAS_FAST_INLINE void transform_product(const float* from, const Stack& stack, bool shared, Vector bias, Element* to,
                                          const Element* rectified, int64_t row_stride, int64_t pixel_stride, Part part,
                                          int64_t height, int64_t width) {
  constexpr int kPoints = Winograd<kOutputs, kTaps>::kPoints;
  Vector rows[kOutputs][kPoints];
#pragma GCC unroll 8
  for (int j = 0; j < kPoints; ++j) {
    Vector m[kPoints], r[kOutputs];
#pragma GCC unroll 8
    for (int i = 0; i < kPoints; ++i) m[i] = load(from + (i * kPoints + j) * stack.plane_stride);
    Winograd<kOutputs, kTaps>::output(m, r);
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) rows[i][j] = r[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kOutputs; ++i) {
    if (!kWhole && i >= height) break;
    Vector values[kOutputs];
    Winograd<kOutputs, kTaps>::output(rows[i], values);
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; ++j) {
      if (!kWhole && j >= width) break;
      const int64_t offset = i * row_stride + j * pixel_stride;
      Vector value = (shared ? pair_sums(values[j]) : values[j]) + bias;
      if (kRectified) value = load(rectified + offset, part) <= 0 ? Vector{} : value;
      store(to + offset, value, part);
    }
  }
}

// Floats of the transformed weights, or their gradient, of one pair of points.
int64_t point_stride(const ConvolutionArguments& arguments) {
  return arguments.channels_in * vectors_of(arguments.channels_out) * kLanes;
}

// The vectors of a row of sums: where they have 16 lanes, 8 or 4 channels that are left over share theirs.
ColumnTiles column_tiles(int64_t channels) {
  constexpr int64_t least = kLanes > 8 ? 8 : kLanes;
  return ColumnTiles((channels + least - 1) / least * least, kLanes);
}

// x's tiles to `transformed`.
template <int kTaps, typename Element>
void transform_x(const ConvolutionArguments& arguments, const Grid& grid, int64_t begin, int64_t end,
                 const Stack& transformed, Element* copy) {
  constexpr int kPoints = Winograd<kOutputs, kTaps>::kPoints;
  constexpr int64_t kPadding = kTaps / 2;
  const Images& size = arguments.size;
  const int64_t channels = arguments.channels_in;
  grid.for_runs(begin, end, [&](int64_t image, int64_t y, int64_t x, int64_t count, int64_t first) {
    const Element* from = static_cast<const Element*>(arguments.x) + image * size.rows * size.columns * channels;
    const auto patch = patch_of(from, size, channels, y * kOutputs - kPadding, x * kOutputs - kPadding, kPoints,
                                kOutputs * count + kPoints - kOutputs, copy);
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      transform_tiles<kTaps>(patch.data + channel, patch.row_stride, channels, Part(channels - channel), count,
                                transformed.data + first * transformed.tile_stride + channel, transformed);
    }
  });
}

// What follows has functions of its own for the matrix products: among all else GCC would not keep sums in registers.

// Products of `count` transformed tiles and the packed weights.
__attribute__((noinline)) void multiply(const ConvolutionArguments& arguments, int64_t points, const Stack& transformed,
                                        const Stack& products, int64_t count) {
  const int64_t depth = arguments.channels_in;
  const ColumnTiles tiles = column_tiles(arguments.channels_out);
  for (int64_t point = 0; point < points; ++point) {
    const float* weights = arguments.weights + point * point_stride(arguments);
    for (int64_t index = 0; index < tiles.count(); ++index) {
      with_shape(tiles[index], [&](auto shape) {
        using TileShape = decltype(shape);
        constexpr int vectors = TileShape::vectors, rows = tile_rows(vectors);
        static_assert(kTrainingTiles % rows == 0, "the last rows may be computed in vain, but lie in the scratch");
        for (int64_t tile = 0; tile < count; tile += rows) {
          const float* a = transformed.data + point * transformed.plane_stride + tile * transformed.tile_stride;
          Vector sums[rows][vectors] = {};
          multiply_add<rows, TileShape::full, TileShape::paired>(sums, a, transformed.tile_stride, depth, weights);
          float* to = products.data + point * products.plane_stride + tile * products.tile_stride +
                      tiles.first_vector(index) * kLanes;
#pragma GCC unroll 12
          for (int row = 0; row < rows; ++row, to += products.tile_stride) {
#pragma GCC unroll 3
            for (int v = 0; v < vectors; ++v) store(to + v * kLanes, sums[row][v]);
          }
        }
      });
      weights += depth / 2 * tiles.pair_size(index);
    }
  }
}

// Adds to `sums` the products of `count` transformed tiles of x and of the gradient in y. A vector that two rows share
// (columns.h) has row k's product with channel c in lane 2c, and that of row k + 1 in lane 2c + 1.
__attribute__((noinline)) void add_products(const ConvolutionArguments& arguments, int64_t points,
                                            const Stack& transformed, const Stack& gradients, int64_t count,
                                            float* sums) {
  const int64_t depth = arguments.channels_in, columns = vectors_of(arguments.channels_out) * kLanes;
  const ColumnTiles tiles = column_tiles(arguments.channels_out);
  for (int64_t point = 0; point < points; ++point) {
    for (int64_t index = 0; index < tiles.count(); ++index) {
      const int64_t first = tiles.first_vector(index) * kLanes;
      with_shape(tiles[index], [&](auto shape) {
        using TileShape = decltype(shape);
        constexpr int full = TileShape::full, rows = tile_rows(TileShape::vectors);
        for (int64_t row = 0; row < depth; row += rows) {  // some computed in vain, beyond the last
          const float* a = transformed.data + point * transformed.plane_stride + row;
          const float* b = gradients.data + point * gradients.plane_stride + first;
          float* to = sums + (point * depth + row) * columns + first;
          // Of a run, before they join the long sums: its rounding error is less.
          Vector products[rows][full + 1] = {}, shared[rows / 2] = {};
          for (int64_t tile = 0; tile < count; ++tile, a += transformed.tile_stride, b += gradients.tile_stride) {
            Vector values[full + 1];
#pragma GCC unroll 3
            for (int v = 0; v < full; ++v) values[v] = load(b + v * kLanes);
#pragma GCC unroll 8
            for (int r = 0; r < (full > 0 ? rows : 0); ++r) {
              const Vector value = broadcast(a[r]);
#pragma GCC unroll 3
              for (int v = 0; v < full; ++v) add_product(products[r][v], value, values[v]);
            }
            if (TileShape::paired) {
              const Vector twice = load_twice(b + full * kLanes);
#pragma GCC unroll 4
              for (int r = 0; r < rows; r += 2) add_product(shared[r / 2], broadcast_pair(a + r), twice);
            }
          }
#pragma GCC unroll 8
          for (int r = 0; r < rows; ++r, to += columns) {
            if (row + r >= depth) break;
#pragma GCC unroll 3
            for (int v = 0; v < full; ++v) store(to + v * kLanes, load(to + v * kLanes) + products[r][v]);
            if (TileShape::paired) add_every_second(to + full * kLanes, shared[r / 2], r % 2);
          }
        }
      });
    }
  }
}

template <int kTaps, typename Element>
void convolve(const ConvolutionArguments& arguments, float* scratch, int64_t begin, int64_t end) {
  constexpr int kPoints = Winograd<kOutputs, kTaps>::kPoints;
  const Images& size = arguments.size;
  const Grid grid(size);
  const int64_t depth = arguments.channels_in, channels = arguments.channels_out;
  const Stack transformed = lay_out(scratch, depth);
  const Stack products = lay_out(scratch + kPoints * kPoints * transformed.plane_stride, channels);
  auto* copy = reinterpret_cast<Element*>(products.data + kPoints * kPoints * products.plane_stride);
  transform_x<kTaps>(arguments, grid, begin, end, transformed, copy);

  multiply(arguments, kPoints * kPoints, transformed, products, end - begin);
  grid.for_runs(begin, end, [&](int64_t image, int64_t y, int64_t x, int64_t count, int64_t first) {
    for (int64_t tile = 0; tile < count; ++tile) {
      const int64_t top = y * kOutputs, left = (x + tile) * kOutputs;
      const int64_t pixel = ((image * size.rows + top) * size.columns + left) * channels;
      Element* to = static_cast<Element*>(arguments.y) + pixel;
      const auto* rectified = static_cast<const Element*>(arguments.rectified);
      const float* from = products.data + (first + tile) * products.tile_stride;
      const int64_t height = size.rows - top, width = size.columns - left;
      with_flag(rectified != nullptr, [&](auto has_rectified) {
        with_flag(height >= kOutputs && width >= kOutputs, [&](auto is_whole) {
          constexpr bool kRectified = decltype(has_rectified)::value, kWhole = decltype(is_whole)::value;
          for (int64_t channel = 0; channel < channels; channel += kLanes) {
            const Part part(channels - channel);
            const Vector bias = arguments.bias == nullptr ? Vector{} : load(arguments.bias + channel, part);
            const bool shared = kLanes > 8 && channels - channel <= 8;
            transform_product<kTaps, kRectified, kWhole>(from + channel, products, shared, bias, to + channel,
                                                         kRectified ? rectified + pixel + channel : nullptr,
                                                         size.columns * channels, channels, part, height, width);
          }
        });
      });
    }
  });
}

template <int kTaps, typename Element>
void accumulate(const ConvolutionArguments& arguments, float* scratch, int64_t begin, int64_t end, float* sums,
                float* dbias) {
  constexpr int kPoints = Winograd<kOutputs, kTaps>::kPoints;
  const Images& size = arguments.size;
  const Grid grid(size);
  const int64_t depth = arguments.channels_in, channels = arguments.channels_out;
  const Stack transformed = lay_out(scratch, depth);
  const Stack gradients = lay_out(scratch + kPoints * kPoints * transformed.plane_stride, channels);
  auto* copy = reinterpret_cast<Element*>(gradients.data + kPoints * kPoints * gradients.plane_stride);
  transform_x<kTaps>(arguments, grid, begin, end, transformed, copy);
  grid.for_runs(begin, end, [&](int64_t image, int64_t y, int64_t x, int64_t count, int64_t first) {
    const Element* dy = static_cast<const Element*>(arguments.y_given) + image * size.rows * size.columns * channels;
    const auto patch =
        patch_of(dy, size, channels, y * kOutputs, x * kOutputs, kOutputs, kOutputs * count, copy);
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      Vector sum = {};
      for (int64_t tile = 0; tile < count; ++tile) {
        sum += transform_gradient<kTaps>(patch.data + tile * kOutputs * channels + channel, patch.row_stride, channels,
                                         Part(channels - channel),
                                         gradients.data + (first + tile) * gradients.tile_stride + channel, gradients);
      }
      store(dbias + channel, load(dbias + channel) + sum);
    }
  });

  add_products(arguments, kPoints * kPoints, transformed, gradients, end - begin, sums);
}

// One vector of output channels of one input channel: G g Gᵀ, by put(point pair, value).
template <int kTaps, typename Put>
MODNAS_FAST_INLINE void transform_kernel(const float* from, int64_t tap_stride, Part part, const Put& put) {
  constexpr int kPoints = Winograd<kOutputs, kTaps>::kPoints;
  Vector rows[kTaps][kPoints];
#pragma GCC unroll 5
  for (int i = 0; i < kTaps; ++i) {
    Vector g[kTaps];
#pragma GCC unroll 5
    for (int j = 0; j < kTaps; ++j) g[j] = load(from + (i * kTaps + j) * tap_stride, part);
    Winograd<kOutputs, kTaps>::kernel(g, rows[i]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < kPoints; ++j) {
    Vector g[kTaps], u[kPoints];
#pragma GCC unroll 5
    for (int i = 0; i < kTaps; ++i) g[i] = rows[i][j];
    Winograd<kOutputs, kTaps>::kernel(g, u);
#pragma GCC unroll 8
    for (int i = 0; i < kPoints; ++i) put(i * kPoints + j, u[i]);
  }
}

// The adjoint: Gᵀ u G.
template <int kTaps>
MODNAS_FAST_INLINE void transform_kernel_gradient(const float* from, int64_t point_stride, float* to,
                                                  int64_t tap_stride, Part part) {
  constexpr int kPoints = Winograd<kOutputs, kTaps>::kPoints;
  Vector rows[kPoints][kTaps];
#pragma GCC unroll 8
  for (int i = 0; i < kPoints; ++i) {
    Vector u[kPoints];
#pragma GCC unroll 8
    for (int j = 0; j < kPoints; ++j) u[j] = load(from + (i * kPoints + j) * point_stride);
    Winograd<kOutputs, kTaps>::kernel_gradient(u, rows[i]);
  }
#pragma GCC unroll 5
  for (int j = 0; j < kTaps; ++j) {
    Vector u[kPoints], g[kTaps];
#pragma GCC unroll 8
    for (int i = 0; i < kPoints; ++i) u[i] = rows[i][j];
    Winograd<kOutputs, kTaps>::kernel_gradient(u, g);
#pragma GCC unroll 5
    for (int i = 0; i < kTaps; ++i) store(to + (i * kTaps + j) * tap_stride, g[i], part);
  }
}

template <int kTaps>
struct Kernel {
  static constexpr int taps = kTaps;
};

// Calls function(kernel, element), whose types alone matter.
template <typename Function>
void with_kernel(const ConvolutionArguments& arguments, const Function& function) {
  with_element(arguments.storage, [&](auto element) {
    if (arguments.kernel == 3) function(Kernel<3>(), element);
    if (arguments.kernel == 5) function(Kernel<5>(), element);
  });
}

// All weights, as multiply_add reads them (columns.h), a matrix for each pair of points.
template <int kTaps>
void pack_weights(const ConvolutionArguments& arguments, const float* weights, float* packed) {
  const int64_t depth = arguments.channels_in, channels = arguments.channels_out, stride = point_stride(arguments);
  const ColumnTiles tiles = column_tiles(channels);
  for (int64_t index = 0; index < tiles.count(); ++index) {
    const Tile tile = tiles[index];
    for (int64_t row = 0; row < depth; ++row) {
      float* pair = packed + row / 2 * tiles.pair_size(index);
      for (int v = 0; v < tile.vectors(); ++v) {
        const int64_t channel = tile.column + v * kLanes;
        const float* from = weights + row * channels + channel;
        const Part part(channels - channel);
        if (v < tile.full) {
          float* to = pair + (row % 2 * tile.full + v) * kLanes;
          transform_kernel<kTaps>(from, depth * channels, part,
                                  [&](int point, Vector value) { store(to + point * stride, value); });
        } else {  // shared by two rows
          float* to = pair + 2 * tile.full * kLanes + row % 2;
          transform_kernel<kTaps>(from, depth * channels, part, [&](int point, Vector value) {
            for (int lane = 0; lane < kLanes / 2; ++lane) to[point * stride + 2 * lane] = value[lane];
          });
        }
      }
    }
    packed += depth / 2 * tiles.pair_size(index);
  }
}

// The adjoint of the transform, from [points², channels in, channels out up to whole vectors].
template <int kTaps>
void gather_gradient(const ConvolutionArguments& arguments, const float* transformed, float* weights) {
  const int64_t channels = arguments.channels_out, columns = vectors_of(channels) * kLanes;
  for (int64_t row = 0; row < arguments.channels_in; ++row) {
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      transform_kernel_gradient<kTaps>(transformed + row * columns + channel, point_stride(arguments),
                                       weights + row * channels + channel, arguments.channels_in * channels,
                                       Part(channels - channel));
    }
  }
}

}  // namespace

void transform_weights(const ConvolutionArguments& arguments, const float* weights, float* transformed) {
  if (arguments.kernel == 3) pack_weights<3>(arguments, weights, transformed);
  if (arguments.kernel == 5) pack_weights<5>(arguments, weights, transformed);
}

void transform_weights_gradient(const ConvolutionArguments& arguments, const float* transformed, float* weights) {
  if (arguments.kernel == 3) gather_gradient<3>(arguments, transformed, weights);
  if (arguments.kernel == 5) gather_gradient<5>(arguments, transformed, weights);
}

void convolution(const ConvolutionArguments& arguments, float* scratch, int64_t tile_begin, int64_t tile_end) {
  with_kernel(arguments, [&](auto kernel, auto element) {
    convolve<decltype(kernel)::taps, decltype(element)>(arguments, scratch, tile_begin, tile_end);
  });
}

void convolution_dweight(const ConvolutionArguments& arguments, float* scratch, int64_t tile_begin, int64_t tile_end,
                         float* transformed, float* dbias) {
  with_kernel(arguments, [&](auto kernel, auto element) {
    accumulate<decltype(kernel)::taps, decltype(element)>(arguments, scratch, tile_begin, tile_end, transformed, dbias);
  });
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
