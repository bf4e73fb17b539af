// How a convolution's output is divided among blocks, and what each holds in shared memory. Host code: chosen at launch
// from sizes and the device's limits alone, in well under a microsecond.
#pragma once

#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/packing.h"

namespace modnas_fast::cuda {

constexpr int kWarpsShift = 2;
constexpr int kWarps = 1 << kWarpsShift;  // of a block
constexpr int kThreads = 32 * kWarps;
constexpr int kTilePixels = 16;  // rows of a tensor core's product
constexpr int kRun = 4;          // neighbouring pixels of a thread in a depthwise convolution: they share what they load

// The sources' pixels that a block reads, side by side along channels. A pixel takes an odd multiple of 16 bytes, so
// that eight neighbours lie in different banks. Columns that a stride of 2 skips lie apart, so that those it takes are
// neighbours.
struct Patch {
  int rows, columns;
  int step;    // source pixels from one of the patch to the next
  int stride;  // of the patch's pixels, from one output pixel to the next
  int pixel_bytes;
  int bytes;
};

struct Blocks {
  int tiles;    // of 16 pixels, a warp
  int columns;  // eights of output channels, a warp
  int split_shift;  // 2^split_shift warps share the sum over K of the same pixels
  int tile_rows, tile_shift;  // output pixels of a block: tile_rows × 2^tile_shift
  int tiles_down, tiles_across, column_groups;
  Patch patch, shortcut;  // the shortcut's has no halo
  Tap first[4];  // of each phase: the patch's first pixel from the first output pixel's
  int slices;    // eights of K: [taps, Σ sources' channels / 8]
  uint32_t inverse, inverses[3];  // of the chunks of all sources; of those of either, and of the shortcut: divided()
  int shortcut_slices, shortcut_begin;
  int middle_pixel_bytes, middle_begin;  // separable: the depthwise convolution's result
  int table_begin;  // in shared memory: where in the patch each slice of K is
  int shared_bytes;

  int pixels() const { return kTilePixels * tiles * kWarps >> split_shift; }
};

// piece / chunks without a division: exact while their product is below 2³¹.
constexpr uint32_t inverse_of(int chunks) { return (0x80000000u + chunks - 1) / chunks; }
__host__ __device__ constexpr int divided(int piece, uint32_t inverse) {
  return static_cast<int>(static_cast<uint64_t>(piece) * inverse >> 31);
}

__host__ __device__ constexpr int odd_chunks(int chunks) { return 16 * (chunks | 1); }

// cudaErrorInvalidConfiguration where nothing fits the device, or the grid has no place for all images.
cudaError_t choose_blocks(const Convolution& arguments, const Limits& limits, Blocks& blocks);
cudaError_t choose_blocks(const Separable& arguments, const Limits& limits, Blocks& blocks);

// The grid: columns of tiles, rows of tiles, and images · phases · groups of output channels.
dim3 grid_of(const Blocks& blocks, int images, int phases);

}  // namespace modnas_fast::cuda
