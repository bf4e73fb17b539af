// Winograd's minimal filtering: y = Aᵀ[(G g) ⊙ (Bᵀ d)] along rows and columns, with products of pixels summed over
// channels by 36 or 64 matrix products, one for every pair of points.
//
// A call takes a run of tiles through three steps whose operands stay in the L2 cache: Bᵀ d B of all channels to
// `transformed`, the products to `products`, Aᵀ m A to the output. Only the weights stream.
#include "cpu/taps.h"
#include "cpu/variant.h"
#include "cpu/winograd_transforms.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

constexpr int64_t kLine = 16;   // floats in a cache line
constexpr int64_t kShared = kWinogradShared;

template <int kOutputs, int kPoints>
using Transforms = Winograd<kOutputs, kPoints - kOutputs + 1>;

struct Scratch {
  float* transformed;     // [kPoints², tiles, channels in]
  int64_t tile_stride;    // a whole number of cache lines
  int64_t plane_stride;   // one line more than a multiple of them, so that planes do not meet in one cache set
  float* products;        // [kPoints², tiles, vectors · kLanes]
  int64_t product_stride;
  int64_t product_plane;
  float* shortcut;         // [outputs, kShared · outputs, scratch_stride]: what is added to a run of tiles
  int64_t shortcut_stride;
  float* shortcut_source;  // a row of such pixels
};

template <int kOutputs, int kPoints>
Scratch lay_out(float* scratch, int64_t channels_in, int64_t channels_out) {
  Scratch result;
  result.transformed = scratch;
  result.tile_stride = winograd_stride(channels_in);
  result.plane_stride = winograd_tiles(kPoints) * result.tile_stride + kLine;
  result.products = scratch + kPoints * kPoints * result.plane_stride + kLine;
  result.product_stride = winograd_stride(channels_out);
  result.product_plane = winograd_tiles(kPoints) * result.product_stride + kLine;
  result.shortcut = result.products + kPoints * kPoints * result.product_plane + kLine;
  result.shortcut_stride = scratch_stride(channels_out);
  result.shortcut_source = result.shortcut + kShared * kOutputs * kOutputs * result.shortcut_stride;
  return result;
}

// One tile, one vector of channels: `from` is the tile's corner. Neighbours could share column transforms, but then
// their pixels, which are read again for every vector of channels, would come from the L2 cache.
template <int kOutputs, int kPoints, bool kRelu, typename Element>
void transform_tile(const Element* from, int64_t row_stride, int64_t pixel_stride, float* to, int64_t plane_stride) {
  Vector columns[kPoints][kPoints];
  for (int x = 0; x < kPoints; ++x, from += pixel_stride) {
    Vector d[kPoints];
#pragma GCC unroll 8
    for (int i = 0; i < kPoints; ++i) {
      d[i] = load(from + i * row_stride);
      if (kRelu) d[i] = relu(d[i]);
    }
    Transforms<kOutputs, kPoints>::input(d, columns[x]);
  }
  for (int i = 0; i < kPoints; ++i) {
    Vector d[kPoints], t[kPoints];
#pragma GCC unroll 8
    for (int j = 0; j < kPoints; ++j) d[j] = columns[j][i];
    Transforms<kOutputs, kPoints>::input(d, t);
#pragma GCC unroll 8
    for (int j = 0; j < kPoints; ++j, to += plane_stride) store(to, t[j]);
  }
}

template <int kOutputs, int kPoints>
void transform_source(const Source& source, int64_t y, int64_t x, float* to, int64_t plane_stride) {
  constexpr int64_t kPadding = (kPoints - kOutputs) / 2;
  with_element(source.storage, [&](auto element) {
    using Element = decltype(element);
    const Element* corner = pixel_of<Element>(source, y * kOutputs - kPadding, x * kOutputs - kPadding);
    const auto transform = source.relu ? transform_tile<kOutputs, kPoints, true, Element>
                                       : transform_tile<kOutputs, kPoints, false, Element>;
    for (int64_t channel = 0; channel < source.channels; channel += kLanes) {
      transform(corner + channel, source.row_stride, source.pixel_stride, to + channel, plane_stride);
    }
  });
}

// Tiles [tile, tile + kRows) at one point times one column tile.
template <int kRows, typename TileShape>
void multiply_tiles(const Scratch& scratch, int64_t point, int64_t tile, int64_t depth, int64_t column,
                    const float* weights) {
  Vector sums[kRows][TileShape::vectors] = {};
  multiply_add<kRows, TileShape::full, TileShape::paired>(
      sums, scratch.transformed + point * scratch.plane_stride + tile * scratch.tile_stride, scratch.tile_stride, depth,
      weights);
  float* to = scratch.products + point * scratch.product_plane + tile * scratch.product_stride + column;
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row, to += scratch.product_stride) {
#pragma GCC unroll 3
    for (int v = 0; v < TileShape::vectors; ++v) store(to + v * kLanes, sums[row][v]);
  }
}

void multiply(const WinogradArguments& arguments, const Scratch& scratch, int64_t points, int64_t depth,
              int64_t count) {
  const ColumnTiles tiles(arguments.out.channels, kLanes);
  for (int64_t point = 0; point < points; ++point) {
    const float* weights = arguments.weights + point * arguments.weight_stride;
    for (int64_t index = 0; index < tiles.count(); ++index) {
      with_shape(tiles[index], [&](auto shape) {
        using TileShape = decltype(shape);
        constexpr int rows = tile_rows(TileShape::vectors);
        static_assert(winograd_tiles(6) % rows == 0 && winograd_tiles(8) % rows == 0,
                      "the last rows may be computed in vain, but lie in the scratch");
        const int64_t column = tiles.first_vector(index) * kLanes;
        int64_t tile = 0;
        for (; count - tile > rows / 2; tile += rows) {
          multiply_tiles<rows, TileShape>(scratch, point, tile, depth, column, weights);
        }
        if (tile < count) multiply_tiles<rows / 2, TileShape>(scratch, point, tile, depth, column, weights);
      });
      weights += depth / 2 * tiles.pair_size(index);
    }
  }
}

// One tile, one vector of sums (`shared`: of 8 channels in pairs). Writes the pixels that lie in the image. `added`, sums
// of the same kind, is null where there is no shortcut.
template <int kOutputs, int kPoints, typename Element>
MODNAS_FAST_INLINE void transform_product(const float* from, int64_t plane, Vector bias, bool shared,
                                          const float* added, int64_t added_stride, const Target& out, int64_t y,
                                          int64_t x, Element* to) {
  Vector rows[kOutputs][kPoints];
#pragma GCC unroll 8
  for (int j = 0; j < kPoints; ++j) {
    Vector m[kPoints], r[kOutputs];
#pragma GCC unroll 8
    for (int i = 0; i < kPoints; ++i) m[i] = load(from + (i * kPoints + j) * plane);
    Transforms<kOutputs, kPoints>::output(m, r);
#pragma GCC unroll 6
    for (int i = 0; i < kOutputs; ++i) rows[i][j] = r[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kOutputs; ++i) {
    if (y + i >= out.rows) break;
    Vector values[kOutputs];
    Transforms<kOutputs, kPoints>::output(rows[i], values);
#pragma GCC unroll 6
    for (int j = 0; j < kOutputs; ++j) {
      if (x + j >= out.columns) break;
      Element* pixel = to + i * out.row_stride + j * out.pixel_stride;
      Vector value = values[j] + bias;
      if (added != nullptr) value += load(added + (i * kShared * kOutputs + j) * added_stride);
      if (shared) value = pair_sums(value);
      if (out.relu) value = relu(value);
      if (shared) {
        store_eight(pixel, value);
      } else {
        store(pixel, value);
      }
    }
  }
}

// The shortcut's sums for `count` neighbouring tiles to the scratch.
template <int kOutputs, int kPoints>
void add_shortcut(const TapsArguments& shortcut, const Scratch& scratch, int64_t y, int64_t x, int64_t count) {
  const Target& out = shortcut.out;
  const int64_t rest = out.columns - x * kOutputs;
  const int64_t columns = rest < count * kOutputs ? rest : count * kOutputs;
  for (int64_t i = 0; i < kOutputs && y * kOutputs + i < out.rows; ++i) {
    Source source = *shortcut.taps;
    source.data = static_cast<const char*>(source.data) +
                  ((y * kOutputs + i) * source.row_stride + x * kOutputs * source.pixel_stride) *
                      element_bytes(source.storage);
    if (source.storage != Storage::kFloat32) {
      copy_tap(source, columns, scratch.shortcut_source);
      source.data = scratch.shortcut_source;
    }
    TapsArguments row = shortcut;
    row.taps = &source;
    row.out.data = scratch.shortcut + i * kShared * kOutputs * scratch.shortcut_stride;
    row.out.pixel_stride = scratch.shortcut_stride;
    taps_window<kSums>(row, {0, 1, 0, columns});
  }
}

template <int kOutputs, int kPoints>
void transform_products(const WinogradArguments& arguments, const Scratch& scratch, int64_t y, int64_t x,
                        int64_t count, int64_t first) {
  const Target& out = arguments.out;
  const bool add = arguments.shortcut != nullptr;
  if (add) add_shortcut<kOutputs, kPoints>(*arguments.shortcut, scratch, y, x, count);
  const float* const biases = add ? arguments.shortcut->bias : arguments.bias;
  const int64_t vectors = ColumnTiles(out.channels, kLanes).vectors();
  with_element(out.storage, [&](auto element) {
    using Element = decltype(element);
    for (int64_t tile = 0; tile < count; ++tile) {
      const int64_t top = y * kOutputs, left = (x + tile) * kOutputs;
      Element* pixel = pixel_of<Element>(out, top, left);
      const float* added = add ? scratch.shortcut + tile * kOutputs * scratch.shortcut_stride : nullptr;
      for (int64_t v = 0; v < vectors; ++v) {
        const bool shared = v >= out.channels / kLanes;
        const Vector bias = load(biases + v * kLanes);
        transform_product<kOutputs, kPoints>(scratch.products + (first + tile) * scratch.product_stride + v * kLanes,
                                    scratch.product_plane, bias, shared, add ? added + v * kLanes : nullptr,
                                    scratch.shortcut_stride, out, top, left, pixel + v * kLanes);
      }
    }
  });
}

template <int kOutputs, int kPoints>
void filter_tiles(const WinogradArguments& arguments, float* memory, int64_t tile_begin, int64_t tile_end) {
  int64_t depth = 0;
  for (int64_t s = 0; s < arguments.num_sources; ++s) depth += arguments.sources[s].channels;
  const Scratch scratch = lay_out<kOutputs, kPoints>(memory, depth, arguments.out.channels);
  const int64_t across = (arguments.out.columns + kOutputs - 1) / kOutputs;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    float* to = scratch.transformed + (tile - tile_begin) * scratch.tile_stride;
    for (int64_t s = 0; s < arguments.num_sources; ++s) {
      transform_source<kOutputs, kPoints>(arguments.sources[s], tile / across, tile % across, to, scratch.plane_stride);
      to += arguments.sources[s].channels;
    }
  }
  multiply(arguments, scratch, kPoints * kPoints, depth, tile_end - tile_begin);
  for (int64_t tile = tile_begin; tile < tile_end;) {
    const int64_t y = tile / across, x = tile % across;
    int64_t count = tile_end - tile < kShared ? tile_end - tile : kShared;
    if (count > across - x) count = across - x;
    transform_products<kOutputs, kPoints>(arguments, scratch, y, x, count, tile - tile_begin);
    tile += count;
  }
}

}  // namespace

void winograd(const WinogradArguments& arguments, float* scratch, int64_t tile_begin, int64_t tile_end) {
  const bool small = arguments.kernel == 3;
  if (small && arguments.outputs == 6) return filter_tiles<6, 8>(arguments, scratch, tile_begin, tile_end);
  if (small) return filter_tiles<4, 6>(arguments, scratch, tile_begin, tile_end);
  if (arguments.outputs == 4) return filter_tiles<4, 8>(arguments, scratch, tile_begin, tile_end);
  filter_tiles<2, 6>(arguments, scratch, tile_begin, tile_end);
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
