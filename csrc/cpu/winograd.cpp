// Winograd's minimal filtering: y = Aᵀ[(G g) ⊙ (Bᵀ d)] along rows and columns, with products of pixels summed over
// channels by 36 matrix products, one a point pair.
//
// A call takes a run of tiles through three steps whose operands stay in the L2 cache: Bᵀ d B of all channels to
// `transformed`, the 36 products to `products`, Aᵀ m A to the output. Only the weights stream.
#include "cpu/taps.h"
#include "cpu/variant.h"
#include "cpu/winograd_transforms.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

constexpr int64_t kPoints = kWinogradPoints;
constexpr int64_t kLine = 16;   // floats in a cache line
constexpr int64_t kShared = kWinogradShared;

template <int kOutputs>
using Transforms = Winograd<kOutputs, kPoints - kOutputs + 1>;

struct Scratch {
  float* transformed;     // [36, kWinogradTiles, channels in]
  int64_t tile_stride;    // a whole number of cache lines
  int64_t plane_stride;   // one line more than a multiple of them, so that planes do not meet in one cache set
  float* products;        // [36, kWinogradTiles, vectors · kLanes]
  int64_t product_stride;
  int64_t product_plane;
  float* shortcut;         // [outputs, kShared · outputs, scratch_stride]: what is added to a run of tiles
  int64_t shortcut_stride;
  float* shortcut_source;  // a row of such pixels
};

Scratch lay_out(float* scratch, int64_t channels_in, int64_t channels_out) {
  Scratch result;
  result.transformed = scratch;
  result.tile_stride = winograd_stride(channels_in);
  result.plane_stride = kWinogradTiles * result.tile_stride + kLine;
  result.products = scratch + kPoints * kPoints * result.plane_stride + kLine;
  result.product_stride = winograd_stride(channels_out);
  result.product_plane = kWinogradTiles * result.product_stride + kLine;
  result.shortcut = result.products + kPoints * kPoints * result.product_plane + kLine;
  result.shortcut_stride = scratch_stride(channels_out);
  result.shortcut_source = result.shortcut + kShared * 16 * result.shortcut_stride;
  return result;
}

// `count` ≤ kShared neighbouring tiles of one tile row, one vector of channels: `from` is the first tile's corner.
template <int kOutputs, bool kRelu, typename Element>
void transform_tiles(const Element* from, int64_t row_stride, int64_t pixel_stride, int64_t count, float* to,
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
    Transforms<kOutputs>::input(d, columns[x]);
  }
  for (int64_t tile = 0; tile < count; ++tile, to += tile_stride) {
    float* plane = to;
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; ++i) {
      Vector d[kPoints], t[kPoints];
#pragma GCC unroll 6
      for (int j = 0; j < kPoints; ++j) d[j] = columns[kOutputs * tile + j][i];
      Transforms<kOutputs>::input(d, t);
#pragma GCC unroll 6
      for (int j = 0; j < kPoints; ++j, plane += plane_stride) store(plane, t[j]);
    }
  }
}

template <int kOutputs>
void transform_source(const Source& source, int64_t y, int64_t x, int64_t count, float* to, const Scratch& scratch) {
  constexpr int64_t kPadding = (kPoints - kOutputs) / 2;
  with_element(source.storage, [&](auto element) {
    using Element = decltype(element);
    const Element* corner = pixel_of<Element>(source, y * kOutputs - kPadding, x * kOutputs - kPadding);
    const auto transform =
        source.relu ? transform_tiles<kOutputs, true, Element> : transform_tiles<kOutputs, false, Element>;
    for (int64_t channel = 0; channel < source.channels; channel += kLanes) {
      transform(corner + channel, source.row_stride, source.pixel_stride, count, to + channel, scratch.tile_stride,
                scratch.plane_stride);
    }
  });
}

void multiply(const WinogradArguments& arguments, const Scratch& scratch, int64_t depth, int64_t count) {
  const ColumnTiles tiles(arguments.out.channels, kLanes);
  for (int64_t point = 0; point < kPoints * kPoints; ++point) {
    const float* weights = arguments.weights + point * arguments.weight_stride;
    for (int64_t index = 0; index < tiles.count(); ++index) {
      with_shape(tiles[index], [&](auto shape) {
        using TileShape = decltype(shape);
        constexpr int rows = tile_rows(TileShape::vectors);
        static_assert(kWinogradTiles % rows == 0, "the last rows may be computed in vain, but lie in the scratch");
        for (int64_t tile = 0; tile < count; tile += rows) {
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

// One tile, one vector of sums (`shared`: of 8 channels in pairs). Writes the pixels that lie in the image. `added`, sums
// of the same kind, is null where there is no shortcut.
template <int kOutputs, typename Element>
MODNAS_FAST_INLINE void transform_product(const float* from, int64_t plane, Vector bias, bool shared,
                                          const float* added, int64_t added_stride, const Target& out, int64_t y,
                                          int64_t x, Element* to) {
  Vector rows[kOutputs][kPoints];
#pragma GCC unroll 6
  for (int j = 0; j < kPoints; ++j) {
    Vector m[kPoints], r[kOutputs];
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; ++i) m[i] = load(from + (i * kPoints + j) * plane);
    Transforms<kOutputs>::output(m, r);
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) rows[i][j] = r[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kOutputs; ++i) {
    if (y + i >= out.rows) break;
    Vector values[kOutputs];
    Transforms<kOutputs>::output(rows[i], values);
#pragma GCC unroll 4
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
template <int kOutputs>
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

template <int kOutputs>
void transform_products(const WinogradArguments& arguments, const Scratch& scratch, int64_t y, int64_t x,
                        int64_t count, int64_t first) {
  const Target& out = arguments.out;
  const bool add = arguments.shortcut != nullptr;
  if (add) add_shortcut<kOutputs>(*arguments.shortcut, scratch, y, x, count);
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
        transform_product<kOutputs>(scratch.products + (first + tile) * scratch.product_stride + v * kLanes,
                                    scratch.product_plane, bias, shared, add ? added + v * kLanes : nullptr,
                                    scratch.shortcut_stride, out, top, left, pixel + v * kLanes);
      }
    }
  });
}

template <int kOutputs>
void winograd_tiles(const WinogradArguments& arguments, float* memory, int64_t tile_begin, int64_t tile_end) {
  int64_t depth = 0;
  for (int64_t s = 0; s < arguments.num_sources; ++s) depth += arguments.sources[s].channels;
  const Scratch scratch = lay_out(memory, depth, arguments.out.channels);
  const int64_t across = (arguments.out.columns + kOutputs - 1) / kOutputs;
  const auto for_runs = [&](const auto& function) {
    for (int64_t tile = tile_begin; tile < tile_end;) {
      const int64_t y = tile / across, x = tile % across;
      int64_t count = tile_end - tile < kShared ? tile_end - tile : kShared;
      if (count > across - x) count = across - x;
      function(y, x, count, tile - tile_begin);
      tile += count;
    }
  };
  for_runs([&](int64_t y, int64_t x, int64_t count, int64_t first) {
    float* to = scratch.transformed + first * scratch.tile_stride;
    for (int64_t s = 0; s < arguments.num_sources; ++s) {
      transform_source<kOutputs>(arguments.sources[s], y, x, count, to, scratch);
      to += arguments.sources[s].channels;
    }
  });
  multiply(arguments, scratch, depth, tile_end - tile_begin);
  for_runs([&](int64_t y, int64_t x, int64_t count, int64_t first) {
    transform_products<kOutputs>(arguments, scratch, y, x, count, first);
  });
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
