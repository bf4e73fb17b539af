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
  int tiles, split_shift, tile_rows, tile_shift;
};

// From many pixels a block to few. Warps that share a sum keep small images' chains of products short.
constexpr Shape kShapes[] = {{4, 0, 16, 4}, {2, 0, 8, 4}, {1, 0, 8, 3}, {1, 1, 4, 3}, {1, 2, 2, 3}};

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
  const int partial = (kWarps - (kWarps >> blocks.split_shift)) * blocks.columns * 4 * 32 * int{sizeof(float)};
  return std::max(staged, partial);
}

void place_rest(Blocks& blocks) {
  blocks.shortcut_begin = blocks.patch.bytes;
  blocks.middle_begin = blocks.shortcut_begin + blocks.shortcut.bytes;
  blocks.table_begin = blocks.middle_begin + blocks.pixels() * blocks.middle_pixel_bytes;
  const int entries = 2 * (divide_up(blocks.slices, 2) + divide_up(blocks.shortcut_slices, 2) + 1);  // one step more
  blocks.shared_bytes = std::max(blocks.table_begin + entries * int{sizeof(int)}, epilogue_bytes(blocks));
  blocks.shared_bytes = divide_up(blocks.shared_bytes, 16) * 16;
}

// Instructions of a warp to fill a patch of so many chunks, each row's part of a lane's piece by so many.
int fill_instructions(const Patch& patch, int chunks, int each) {
  return divide_up(patch.columns * chunks, 32) * (45 + each * divide_up(patch.rows, kWarps));
}

int copy_instructions(const Source& source, bool rectify) {
  return (source.interpolation == Interpolation::kBilinear ? 110 : 14) + (rectify ? 12 : 0);
}

// Cycles that a processor takes, roughly; they decide only between tilings. What limits is the rate at which warps have
// instructions ready: a warp issues one in about 4 cycles and one more for every warp of its scheduler, as an H100 does
// with three of them (6.4) and with four (8.5). `filling` and what follows are a warp's instructions.
int64_t cost(const Blocks& blocks, int filling, int64_t num_blocks, const Limits& limits) {
  constexpr int64_t kStart = 1500, kFixed = 300, kProduct = 6;
  const int64_t depth = divide_up(blocks.slices, 2) + divide_up(blocks.shortcut_slices, 2);
  const int64_t own_depth = ((depth - 1) >> blocks.split_shift) + 1;
  const int64_t products = blocks.tiles * blocks.columns, sharing = (1 << blocks.split_shift) - 1;
  const int64_t summing = own_depth * (7 + 2 * blocks.tiles + blocks.columns + products);
  const int64_t ending = 24 * products + sharing * (40 + 6 * blocks.columns);
  const int64_t instructions = kFixed + filling + summing + ending;
  const int64_t fit = limits.processor_shared_bytes / (blocks.shared_bytes + 1024);
  const int64_t resident = std::clamp<int64_t>(fit, 1, blocks.tiles == 4 ? 3 : 4);
  const int64_t work = own_depth * products * kProduct;  // of tensor cores, for one warp of each
  const auto together = [&](int64_t count) { return std::max(instructions * (4 + count), work * count); };
  const int64_t each = divide_up(static_cast<int>(std::min<int64_t>(num_blocks, INT_MAX / 2)), limits.processors);
  if (each <= resident) return kStart + together(each);
  return kStart + together(resident) * (2 * num_blocks + limits.processors) / (2 * resident * limits.processors);
}

// The cheapest of all shapes, and of the ways to divide the output's channels. `place` fills in what depends on them, and
// tells the instructions of a warp before the product; −1 where there is no such kernel.
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
      blocks.split_shift = shape.split_shift;
      blocks.columns = divide_up(eights, groups);
      blocks.column_groups = divide_up(eights, blocks.columns);
      blocks.tile_rows = shape.tile_rows;
      blocks.tile_shift = shape.tile_shift;
      blocks.tiles_down = divide_up(divide_up(out.rows, scale), shape.tile_rows);
      blocks.tiles_across = divide_up(divide_up(out.columns, scale), 1 << shape.tile_shift);
      const int filling = place(shape, blocks);
      if (filling < 0) continue;
      place_rest(blocks);
      if (blocks.shared_bytes > limits.shared_bytes) continue;
      const int64_t deep = int64_t{blocks.column_groups} * repeats;
      if (blocks.tiles_down > kMostBlocks || deep > kMostBlocks) continue;
      const int64_t num_blocks = deep * blocks.tiles_down * blocks.tiles_across;
      const int64_t now = cost(blocks, filling, num_blocks, limits);
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
    candidate.inverse = inverse_of(chunks);
    int filling = 0;
    for (int i = 0; i < 2; ++i) {
      const Source& source = arguments.sources[i];
      if (source.channels == 0) continue;
      candidate.inverses[i] = inverse_of(source.channels / 8);
      filling += fill_instructions(candidate.patch, source.channels / 8, copy_instructions(source, arguments.relu));
    }
    if (arguments.shortcut.data != nullptr) {
      const int shortcut_chunks = arguments.shortcut.channels / 8;
      candidate.shortcut_slices = shortcut_chunks;
      candidate.inverses[2] = inverse_of(shortcut_chunks);
      place_patch(candidate.shortcut, shape, arguments.scale, 0, 0, true, shortcut_chunks);
      filling += fill_instructions(candidate.shortcut, shortcut_chunks, copy_instructions(arguments.shortcut, false));
    }
    return filling;
  };
  const int repeats = arguments.images * arguments.num_phases;
  return choose(arguments.out, arguments.output, repeats, arguments.scale, limits, place, blocks);
}

cudaError_t choose_blocks(const Separable& arguments, const Limits& limits, Blocks& blocks) {
  const int chunks = arguments.source.channels / 8;
  const int reach = (arguments.kernel - 1) * arguments.dilation;
  const auto place = [&](const Shape& shape, Blocks& candidate) {
    if (shape.tiles > 1) return -1;  // the sum is short: it has no other kernel
    place_patch(candidate.patch, shape, 1, reach, reach, false, chunks);
    const int8_t first = static_cast<int8_t>(-reach / 2);
    candidate.first[0] = {first, first};
    candidate.slices = chunks;
    candidate.inverses[0] = inverse_of(chunks);
    candidate.middle_pixel_bytes = odd_chunks(chunks);
    const int runs = divide_up(candidate.pixels() / kRun * chunks, kThreads);
    const int convolving = runs * (100 + 60 * arguments.kernel * arguments.kernel);
    return convolving + fill_instructions(candidate.patch, chunks, copy_instructions(arguments.source, arguments.relu));
  };
  return choose(arguments.out, arguments.output, arguments.images, 1, limits, place, blocks);
}

bool fuses_output(int channels) { return channels <= 8 * kMostColumns; }

dim3 grid_of(const Blocks& blocks, int images, int phases) {
  return dim3(blocks.tiles_across, blocks.tiles_down, images * phases * blocks.column_groups);
}

}  // namespace modnas_fast::cuda
