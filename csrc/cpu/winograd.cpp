// Winograd's minimal filtering: y = Aᵀ[(G g) ⊙ (Bᵀ d)] along rows and columns, with products of pixels summed over
// channels by 36 matrix products, one a point pair.
//
// A call takes a run of tiles through three steps whose operands stay in the L2 cache: Bᵀ d B of all channels to
// `transformed`, the 36 products to `products`, Aᵀ m A to the output. Only the weights stream.
#include "cpu/winograd_points.h"

#include "cpu/prefetch.h"
#include "cpu/taps.h"
#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

constexpr int64_t kPoints = kWinogradPoints;
constexpr int64_t kLine = 16;   // floats in a cache line
constexpr int64_t kShared = 8;  // tiles whose column transforms are shared: few enough for the L1 cache
constexpr float kNear2 = kNear * kNear, kFar2 = kFar * kFar;
constexpr float kNear3 = kNear * kNear2, kFar3 = kFar * kFar2;

struct Scratch {
  float* transformed;     // [36, kWinogradTiles, channels in]
  int64_t tile_stride;    // a whole number of cache lines
  int64_t plane_stride;   // one line more than a multiple of them, so that planes do not meet in one cache set
  float* products;        // [36, kWinogradTiles, vectors · kLanes]
  int64_t product_stride;
  int64_t product_plane;
};

Scratch lay_out(float* scratch, int64_t channels_in, int64_t channels_out) {
  Scratch result;
  result.transformed = scratch;
  result.tile_stride = winograd_stride(channels_in);
  result.plane_stride = kWinogradTiles * result.tile_stride + kLine;
  result.products = scratch + kPoints * kPoints * result.plane_stride + kLine;
  result.product_stride = winograd_stride(channels_out);
  result.product_plane = kWinogradTiles * result.product_stride + kLine;
  return result;
}

// Bᵀ d: six neighbouring values to their six points.
MODNAS_FAST_INLINE void transform_input(const Vector (&d)[kPoints], Vector (&t)[kPoints]) {
  const Vector even_far = d[4] - kFar2 * d[2], odd_far = d[3] - kFar2 * d[1];
  const Vector even_near = d[4] - kNear2 * d[2], odd_near = d[3] - kNear2 * d[1];
  t[0] = d[4] - (kNear2 + kFar2) * d[2] + (kNear2 * kFar2) * d[0];
  t[1] = even_far + static_cast<float>(kNear) * odd_far;
  t[2] = even_far - static_cast<float>(kNear) * odd_far;
  t[3] = even_near + static_cast<float>(kFar) * odd_near;
  t[4] = even_near - static_cast<float>(kFar) * odd_near;
  t[5] = d[5] - (kNear2 + kFar2) * d[3] + (kNear2 * kFar2) * d[1];
}

// Aᵀ m: six points' products to kOutputs neighbouring outputs.
template <int kOutputs>
MODNAS_FAST_INLINE void transform_output(const Vector (&m)[kPoints], Vector (&y)[kOutputs]) {
  const Vector near_sum = m[1] + m[2], far_sum = m[3] + m[4];
  const Vector near_difference = m[1] - m[2], far_difference = m[3] - m[4];
  y[0] = m[0] + near_sum + far_sum;
  y[1] = static_cast<float>(kNear) * near_difference + static_cast<float>(kFar) * far_difference;
  if constexpr (kOutputs == 4) {
    y[2] = kNear2 * near_sum + kFar2 * far_sum;
    y[3] = kNear3 * near_difference + kFar3 * far_difference + m[5];
  } else {
    y[1] += m[5];
  }
}

// `count` ≤ kShared neighbouring tiles of one tile row, one vector of channels: `from` is the first tile's corner.
template <int kOutputs, bool kRelu>
void transform_tiles(const float* from, int64_t row_stride, int64_t pixel_stride, int64_t count, float* to,
                     int64_t tile_stride, int64_t plane_stride) {
  Vector columns[kOutputs * kShared + kPoints - kOutputs][kPoints];
  const int64_t width = kOutputs * count + kPoints - kOutputs;
  for (int64_t x = 0; x < width; ++x, from += pixel_stride) {
    Vector d[kPoints];
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; ++i) {
      d[i] = load(from + i * row_stride);
      if (kRelu) d[i] = relu(d[i]);
    }
    transform_input(d, columns[x]);
  }
  for (int64_t tile = 0; tile < count; ++tile, to += tile_stride) {
    float* plane = to;
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; ++i) {
      Vector d[kPoints], t[kPoints];
#pragma GCC unroll 6
      for (int j = 0; j < kPoints; ++j) d[j] = columns[kOutputs * tile + j][i];
      transform_input(d, t);
#pragma GCC unroll 6
      for (int j = 0; j < kPoints; ++j, plane += plane_stride) store(plane, t[j]);
    }
  }
}

template <int kOutputs>
void transform_source(const Source& source, int64_t y, int64_t x, int64_t count, float* to, const Scratch& scratch) {
  constexpr int64_t kPadding = (kPoints - kOutputs) / 2;
  const float* corner = source.data + (y * kOutputs - kPadding) * source.row_stride +
                        (x * kOutputs - kPadding) * source.pixel_stride;
  for (int64_t channel = 0; channel < source.channels; channel += kLanes) {
    const auto transform = source.relu ? transform_tiles<kOutputs, true> : transform_tiles<kOutputs, false>;
    transform(corner + channel, source.row_stride, source.pixel_stride, count, to + channel, scratch.tile_stride,
              scratch.plane_stride);
  }
}

void multiply(const WinogradArguments& arguments, const Scratch& scratch, int64_t depth, int64_t count,
              Prefetcher& prefetcher) {
  const ColumnTiles tiles(arguments.out.channels, kLanes);
  prefetcher.spread(kPoints * kPoints * tiles.count() * (count / kShared));
  for (int64_t point = 0; point < kPoints * kPoints; ++point) {
    const float* weights = arguments.weights + point * arguments.weight_stride;
    for (int64_t index = 0; index < tiles.count(); ++index) {
      with_shape(tiles[index], [&](auto shape) {
        using TileShape = decltype(shape);
        constexpr int rows = tile_rows(TileShape::vectors);
        static_assert(kWinogradTiles % rows == 0, "the last rows may be computed in vain, but lie in the scratch");
        for (int64_t tile = 0; tile < count; tile += rows) {
          prefetcher.step();
          Vector sums[rows][TileShape::vectors] = {};
          multiply_add<rows, TileShape::full, TileShape::paired>(
              sums, scratch.transformed + point * scratch.plane_stride + tile * scratch.tile_stride,
              scratch.tile_stride, depth, weights);
          float* to = scratch.products + point * scratch.product_plane + tile * scratch.product_stride +
                      tiles.first_vector(index) * kLanes;
#pragma GCC unroll 12
          for (int row = 0; row < rows; ++row, to += scratch.product_stride) {
#pragma GCC unroll 3
            for (int v = 0; v < TileShape::vectors; ++v) store(to + v * kLanes, sums[row][v]);
          }
        }
      });
      weights += depth / 2 * tiles.pair_size(index);
    }
  }
}

// One tile, one vector of sums (`shared`: of 8 channels in pairs). Writes the pixels that lie in the image.
template <int kOutputs>
MODNAS_FAST_INLINE void transform_product(const float* from, int64_t plane, Vector bias, bool shared, bool add,
                                          const Target& out, int64_t y, int64_t x, float* to) {
  Vector rows[kOutputs][kPoints];
#pragma GCC unroll 6
  for (int j = 0; j < kPoints; ++j) {
    Vector m[kPoints], r[kOutputs];
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; ++i) m[i] = load(from + (i * kPoints + j) * plane);
    transform_output<kOutputs>(m, r);
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) rows[i][j] = r[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kOutputs; ++i) {
    if (y + i >= out.rows) break;
    Vector values[kOutputs];
    transform_output<kOutputs>(rows[i], values);
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; ++j) {
      if (x + j >= out.columns) break;
      float* pixel = to + i * out.row_stride + j * out.pixel_stride;
      Vector value = values[j] + bias;
      if (shared) {
        store_pairs(pixel, value, out.relu, add ? pixel : nullptr);
      } else {
        if (add) value += load(pixel);
        store(pixel, out.relu ? relu(value) : value);
      }
    }
  }
}

template <int kOutputs>
void transform_products(const WinogradArguments& arguments, const Scratch& scratch, int64_t y, int64_t x,
                        int64_t count, int64_t first) {
  const Target& out = arguments.out;
  const bool add = arguments.shortcut != nullptr;
  const int64_t vectors = ColumnTiles(out.channels, kLanes).vectors();
  for (int64_t tile = 0; tile < count; ++tile) {
    const int64_t top = y * kOutputs, left = (x + tile) * kOutputs;
    for (int64_t v = 0; v < vectors; ++v) {
      const bool shared = v >= out.channels / kLanes;
      const Vector bias = add ? Vector{} : load(arguments.bias + v * kLanes);
      transform_product<kOutputs>(scratch.products + (first + tile) * scratch.product_stride + v * kLanes,
                                  scratch.product_plane, bias, shared, add, out, top, left,
                                  out.data + top * out.row_stride + left * out.pixel_stride + v * kLanes);
    }
  }
}

// Calls function(y, x, count, first) for the runs of neighbouring tiles, at most `most` long, of [begin, end).
template <typename Function>
MODNAS_FAST_INLINE void for_runs(int64_t begin, int64_t end, int64_t across, int64_t most, const Function& function) {
  for (int64_t tile = begin; tile < end;) {
    const int64_t y = tile / across, x = tile % across;
    int64_t count = end - tile < most ? end - tile : most;
    if (count > across - x) count = across - x;
    function(y, x, count, tile - begin);
    tile += count;
  }
}

// The pixels [top, top + rows) × [left, left + columns) of a tensor.
void prefetch_source(const Source& source, int64_t top, int64_t left, int64_t rows, int64_t columns,
                     Prefetcher& prefetcher) {
  prefetcher.add(source.data + top * source.row_stride + left * source.pixel_stride, source.row_stride,
                 columns * source.pixel_stride, rows, false);
}

// At most kWinogradTiles tiles, [begin, end); the next ones, up to `next_end`, have their inputs fetched.
template <int kOutputs>
void winograd_block(const WinogradArguments& arguments, const Scratch& scratch, int64_t depth, int64_t begin,
                    int64_t end, int64_t next_end) {
  const Target& out = arguments.out;
  const int64_t across = (out.columns + kOutputs - 1) / kOutputs;
  for_runs(begin, end, across, kShared, [&](int64_t y, int64_t x, int64_t count, int64_t first) {
    float* to = scratch.transformed + first * scratch.tile_stride;
    for (int64_t s = 0; s < arguments.num_sources; ++s) {
      transform_source<kOutputs>(arguments.sources[s], y, x, count, to, scratch);
      to += arguments.sources[s].channels;
    }
  });
  Prefetcher prefetcher;
  for_runs(begin, end, across, kWinogradTiles, [&](int64_t y, int64_t x, int64_t count, int64_t) {
    const int64_t top = y * kOutputs, left = x * kOutputs, columns = count * kOutputs;
    if (arguments.shortcut != nullptr) {
      prefetch_source(arguments.shortcut->taps[0], top, left, kOutputs, columns, prefetcher);
    }
    prefetcher.add(out.data + top * out.row_stride + left * out.pixel_stride, out.row_stride,
                   columns * out.pixel_stride, kOutputs, true);
  });
  for_runs(end, next_end, across, kWinogradTiles, [&](int64_t y, int64_t x, int64_t count, int64_t) {
    constexpr int64_t kPadding = (kPoints - kOutputs) / 2;
    for (int64_t s = 0; s < arguments.num_sources; ++s) {  // the rows that the tiles above have not read
      prefetch_source(arguments.sources[s], y * kOutputs + kPadding, x * kOutputs - kPadding, kOutputs,
                      count * kOutputs + 2 * kPadding, prefetcher);
    }
  });
  multiply(arguments, scratch, depth, end - begin, prefetcher);
  for_runs(begin, end, across, kShared, [&](int64_t y, int64_t x, int64_t count, int64_t first) {
    if (arguments.shortcut != nullptr) {
      const int64_t bottom = (y + 1) * kOutputs, right = (x + count) * kOutputs;
      taps_window(*arguments.shortcut, {y * kOutputs, bottom < out.rows ? bottom : out.rows, x * kOutputs,
                                        right < out.columns ? right : out.columns});
    }
    transform_products<kOutputs>(arguments, scratch, y, x, count, first);
  });
}

template <int kOutputs>
void winograd_tiles(const WinogradArguments& arguments, float* memory, int64_t tile_begin, int64_t tile_end) {
  int64_t depth = 0;
  for (int64_t s = 0; s < arguments.num_sources; ++s) depth += arguments.sources[s].channels;
  const Scratch scratch = lay_out(memory, depth, arguments.out.channels);
  // Blocks of equal size, since each streams all weights; whole register tiles.
  const int64_t tiles = tile_end - tile_begin, blocks = (tiles + kWinogradTiles - 1) / kWinogradTiles;
  const int64_t size = ((tiles + blocks - 1) / blocks + kShared - 1) / kShared * kShared;
  for (int64_t begin = tile_begin; begin < tile_end; begin += size) {
    const int64_t end = begin + size < tile_end ? begin + size : tile_end;
    winograd_block<kOutputs>(arguments, scratch, depth, begin, end, end + size < tile_end ? end + size : tile_end);
  }
}

}  // namespace

void winograd(const WinogradArguments& arguments, float* scratch, int64_t tile_begin, int64_t tile_end) {
  if (arguments.kernel == 3) {
    winograd_tiles<4>(arguments, scratch, tile_begin, tile_end);
  } else {
    winograd_tiles<2>(arguments, scratch, tile_begin, tile_end);
  }
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
