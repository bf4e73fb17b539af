// How convolutions are divided among blocks, on the devices that the engine is for: everything is covered, and fits, in
// a block and in a grid.
#include <algorithm>
#include <cstdio>

#include "cuda/blocks.h"
#include "properties.h"

namespace modnas_fast::cuda {

namespace {

struct Machine {
  const char* name;
  Limits limits;
};
constexpr Machine kMachines[] = {{"sm_75", {68, 64 << 10, 64 << 10, false}},
                                 {"sm_80", {108, 163 << 10, 164 << 10, false}},
                                 {"sm_86", {82, 99 << 10, 100 << 10, false}},
                                 {"sm_89", {128, 99 << 10, 100 << 10, false}},
                                 {"sm_90", {132, 227 << 10, 228 << 10, true}}};

bool right(const Machine& machine, cudaError_t error, const Blocks& blocks, const Target& out) {
  const int rows = blocks.tiles_down * blocks.tile_rows, columns = blocks.tiles_across << blocks.tile_shift;
  const int channels = blocks.column_groups * blocks.columns * 8;
  if (error == cudaSuccess && blocks.shared_bytes <= machine.limits.shared_bytes && rows >= out.rows &&
      columns >= out.columns && channels >= out.channels && blocks.columns <= kMostColumns &&
      blocks.tiles_down <= kMostBlocks &&
      blocks.tile_rows << blocks.tile_shift == blocks.pixels()) {
    return true;
  }
  std::printf("FAILED: on %s, %d×%d pixels of %d channels: error %d, %d bytes of shared memory\n", machine.name,
              out.rows, out.columns, out.channels, error, blocks.shared_bytes);
  return false;
}

bool divides_exactly() {
  for (int chunks = 1; chunks <= 512; ++chunks) {
    for (int piece = 0; piece < 64 * chunks; ++piece) {
      if (divided(piece, inverse_of(chunks)) == piece / chunks) continue;
      std::printf("FAILED: %d / %d is %d\n", piece, chunks, divided(piece, inverse_of(chunks)));
      return false;
    }
  }
  return true;
}

}  // namespace

bool blocks_fit_every_device() {
  bool passed = divides_exactly();
  for (const Machine& machine : kMachines) {
    for (int side : {8, 64, 1000, 2 * kMostBlocks}) {
      for (int channels = 8; channels <= 128; channels += 8) {
        const Target out = {nullptr, side, std::min(side, 1000), channels, false};
        Convolution widest = {};  // 5×5 of two tensors with a shortcut
        widest.images = widest.stride = widest.scale = widest.num_phases = 1;
        widest.sources[0].channels = widest.sources[1].channels = channels;
        widest.shortcut = {&passed, side, side, channels, Interpolation::kNone};
        for (int i = 0; i < 25; ++i) widest.phases[0].taps[i] = {int8_t(i / 5 - 2), int8_t(i % 5 - 2)};
        widest.phases[0].num_taps = 25;
        widest.out = out;
        Separable separable = {};
        separable.images = 1;
        separable.source.channels = channels;
        separable.kernel = 5;
        separable.dilation = 2;
        separable.out = out;
        Blocks blocks = {};
        passed &= right(machine, choose_blocks(widest, machine.limits, blocks), blocks, out);
        passed &= right(machine, choose_blocks(separable, machine.limits, blocks), blocks, out);
        // Of many images the groups of channels are as few as can be, and the grid has no place for still more.
        const int groups = (channels / 8 + kMostColumns - 1) / kMostColumns;
        separable.images = kMostBlocks / groups;
        const cudaError_t error = choose_blocks(separable, machine.limits, blocks);
        passed &= right(machine, error, blocks, out) && separable.images * blocks.column_groups <= kMostBlocks;
        ++separable.images;
        const bool refused = choose_blocks(separable, machine.limits, blocks) == cudaErrorInvalidConfiguration;
        passed &= refused || separable.images * groups <= kMostBlocks;
      }
    }
  }
  return passed;
}

}  // namespace modnas_fast::cuda
