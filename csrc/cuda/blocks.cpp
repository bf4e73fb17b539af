#include "cuda/blocks.h"

#include <algorithm>
#include <climits>

#include "cuda/launchers.h"

namespace modnas_fast::cuda {

namespace {

int divide_up(int size, int by) { return (size + by - 1) / by; }

struct Extent {
  Tap first, last;
};

Extent extent_of(const Phase& phase) {
  Extent extent = {phase.taps[0], phase.taps[0]};
  for (int i = 1; i < phase.num_taps; ++i) {
    const Tap& tap = phase.taps[i];
    extent.first = {std::min(extent.first.dy, tap.dy), std::min(extent.first.dx, tap.dx)};
    extent.last = {std::max(extent.last.dy, tap.dy), std::max(extent.last.dx, tap.dx)};
  }
  return extent;
}

struct Shape {
  int tiles, split, tile_rows, tile_shift;
};

// From many pixels a block to few. Warps that share a sum keep small images' chains of products short.
constexpr Shape kShapes[] = {{4, 1, 16, 4}, {2, 1, 8, 4}, {1, 1, 8, 3}, {1, 2, 4, 3}, {1, 4, 2, 3}};

void place_patch(Patch& patch, const Shape& shape, int stride, int reach_rows, int reach_columns, bool one_tap,
                 int chunks) {
  // A single tap needs only the pixels that it reads.
  patch.step = one_tap ? stride : 1;
  patch.stride = stride / patch.step;
  patch.rows = (shape.tile_rows - 1) * patch.stride + reach_rows + 1;
  patch.columns = ((1 << shape.tile_shift) - 1) * patch.stride + reach_columns + 1;
  patch.columns += patch.columns % patch.stride;
  patch.pixel_bytes = odd_chunks(chunks);
  patch.bytes = patch.rows * patch.columns * patch.pixel_bytes;
}

// What a block needs after its products: its results on their way to memory, or the partial sums of its warps.
int epilogue_bytes(const Blocks& blocks) {
  const int staged = blocks.pixels() * odd_chunks(blocks.columns);
  const int partial = (kWarps - kWarps / blocks.split) * blocks.columns * 4 * 32 * int{sizeof(float)};
  return std::max(staged, partial);
}

void place_rest(Blocks& blocks) {
  blocks.shortcut_begin = blocks.patch.bytes;
  blocks.middle_begin = blocks.shortcut_begin + blocks.shortcut.bytes;
  blocks.table_begin = blocks.middle_begin + blocks.pixels() * blocks.middle_pixel_bytes;
  const int entries = 2 * (divide_up(blocks.slices, 2) + divide_up(blocks.shortcut_slices, 2));
  blocks.shared_bytes = std::max(blocks.table_begin + entries * int{sizeof(int)}, epilogue_bytes(blocks));
  blocks.shared_bytes = divide_up(blocks.shared_bytes, 16) * 16;
}

// Cycles that a processor takes, roughly: of its tensor cores, of shared memory and L1 (128 bytes each), and of the
// chain of waits that no other warp hides. The numbers are Ampere's and Hopper's, and decide only between tilings.
int64_t cost(const Blocks& blocks, int64_t num_blocks, const Limits& limits) {
  constexpr int64_t kStart = 1500, kWait = 40, kProduct = 8, kCores = 4, kPatchBytes = 64;
  const int64_t depth = divide_up(blocks.slices, 2) + divide_up(blocks.shortcut_slices, 2);
  const int64_t products = depth * blocks.tiles * blocks.columns;  // of all warps that share a sum
  const int64_t own_depth = (depth + blocks.split - 1) / blocks.split;
  const int64_t cores = products * kProduct / kCores * (kWarps / blocks.split);
  const int64_t loads = own_depth * kWarps * (4 * blocks.tiles + 2 * blocks.columns);
  const int64_t work = std::max(cores, loads) + blocks.shared_bytes / kPatchBytes;
  const int64_t chain = kStart + own_depth * (kWait + kProduct * blocks.tiles * blocks.columns);
  const int64_t resident = std::clamp<int64_t>(limits.processor_shared_bytes / (blocks.shared_bytes + 1024), 1, 4);
  const int64_t rounds = (num_blocks + limits.processors - 1) / limits.processors;
  // Of few rounds all take as long as the first; of many, the last is half full.
  const int64_t busy = rounds < 5 ? rounds * work : num_blocks * work / limits.processors + work / 2;
  return std::max(busy, (rounds + resident - 1) / resident * chain);
}

// The cheapest of all shapes, and of the ways to divide the output's channels; `place` fills in what depends on them.
template <typename Place>
cudaError_t choose(const Target& out, const Output& output, int repeats, int scale, const Limits& limits,
                   const Place& place, Blocks& best) {
  const int eights = out.channels / 8;
  const bool fused = output.weights != nullptr;
  if (fused && !fuses_output(out.channels)) return cudaErrorInvalidValue;
  int64_t lowest = INT64_MAX;
  const int fewest = divide_up(eights, kMostColumns);
  for (int groups = fewest; groups <= (fused ? fewest : std::min(eights, fewest + 2)); ++groups) {
    for (const Shape& shape : kShapes) {
      Blocks blocks = {};
      blocks.tiles = shape.tiles;
      blocks.split = shape.split;
      blocks.columns = divide_up(eights, groups);
      blocks.column_groups = divide_up(eights, blocks.columns);
      blocks.tile_rows = shape.tile_rows;
      blocks.tile_shift = shape.tile_shift;
      blocks.tiles_down = divide_up(divide_up(out.rows, scale), shape.tile_rows);
      blocks.tiles_across = divide_up(divide_up(out.columns, scale), 1 << shape.tile_shift);
      if (!place(shape, blocks)) continue;
      place_rest(blocks);
      if (blocks.shared_bytes > limits.shared_bytes) continue;
      const int64_t deep = int64_t{blocks.column_groups} * repeats;
      if (blocks.tiles_down > kMostBlocks || deep > kMostBlocks) continue;
      const int64_t num_blocks = deep * blocks.tiles_down * blocks.tiles_across;
      const int64_t now = cost(blocks, num_blocks, limits);
      if (now < lowest) {
        lowest = now;
        best = blocks;
      }
    }
  }
  return lowest == INT64_MAX ? cudaErrorInvalidConfiguration : cudaSuccess;
}

}  // namespace

cudaError_t choose_blocks(const Convolution& arguments, const Limits& limits, Blocks& blocks) {
  const int chunks = (arguments.sources[0].channels + arguments.sources[1].channels) / 8;
  int rows = 0, columns = 0, most_taps = 0;
  Tap first[4] = {};
  for (int i = 0; i < arguments.num_phases; ++i) {
    const Phase& phase = arguments.phases[i];
    const Extent extent = extent_of(phase);
    first[i] = extent.first;
    rows = std::max(rows, extent.last.dy - extent.first.dy);
    columns = std::max(columns, extent.last.dx - extent.first.dx);
    most_taps = std::max(most_taps, phase.num_taps);
  }
  const auto place = [&](const Shape& shape, Blocks& candidate) {
    place_patch(candidate.patch, shape, arguments.stride, rows, columns, most_taps == 1, chunks);
    std::copy(first, first + 4, candidate.first);
    candidate.slices = most_taps * chunks;
    if (arguments.shortcut.data != nullptr) {
      candidate.shortcut_slices = arguments.shortcut.channels / 8;
      place_patch(candidate.shortcut, shape, arguments.scale, 0, 0, true, candidate.shortcut_slices);
    }
    return true;
  };
  const int repeats = arguments.images * arguments.num_phases;
  return choose(arguments.out, arguments.output, repeats, arguments.scale, limits, place, blocks);
}

cudaError_t choose_blocks(const Separable& arguments, const Limits& limits, Blocks& blocks) {
  const int chunks = arguments.source.channels / 8;
  const int reach = (arguments.kernel - 1) * arguments.dilation;
  const auto place = [&](const Shape& shape, Blocks& candidate) {
    if (shape.tiles > 1) return false;  // the sum is short: it has no other kernel
    place_patch(candidate.patch, shape, 1, reach, reach, false, chunks);
    const int8_t first = static_cast<int8_t>(-reach / 2);
    candidate.first[0] = {first, first};
    candidate.slices = chunks;
    candidate.middle_pixel_bytes = odd_chunks(chunks);
    return true;
  };
  return choose(arguments.out, arguments.output, arguments.images, 1, limits, place, blocks);
}

bool fuses_output(int channels) { return channels <= 8 * kMostColumns; }

dim3 grid_of(const Blocks& blocks, int images, int phases) {
  return dim3(blocks.tiles_across, blocks.tiles_down, images * phases * blocks.column_groups);
}

}  // namespace modnas_fast::cuda
