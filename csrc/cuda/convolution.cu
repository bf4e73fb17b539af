// Convolutions as matrix products on tensor cores, without a matrix of patches: a block copies the pixels that it needs
// to shared memory once, and every tap reads them from there.
#include "cuda/epilogue.h"
#include "cuda/launchers.h"
#include "cuda/patch.h"

namespace modnas_fast::cuda {

namespace {

// Where each slice of 8 channels of K lies in the patch. What pads K to whole products has weights of zero.
__device__ __forceinline__ void fill_table(int* table, const Phase& phase, const Tap& first, const Patch& patch,
                                           int chunks, uint32_t inverse) {
  const int slices = phase.num_taps * chunks;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < slices + slices % 2; i += kThreads) {
    const int tap = divided(i, inverse);
    if (i >= slices) {
      table[i] = 0;
      continue;
    }
    const int dy = phase.taps[tap].dy - first.dy, dx = phase.taps[tap].dx - first.dx;
    const int column = patch.stride == 1 ? dx : dx % 2 * (patch.columns / 2) + dx / 2;
    table[i] = (dy * patch.columns + column) * patch.pixel_bytes + 16 * (i - tap * chunks);
  }
}

// Field by field: an address computed at run time would need a copy in local memory.
__device__ __forceinline__ Source one_of_three(int which, const Source& a, const Source& b, const Source& c) {
  const auto pick = [&](auto x, auto y, auto z) { return which == 0 ? x : which == 1 ? y : z; };
  return {pick(a.data, b.data, c.data), pick(a.rows, b.rows, c.rows), pick(a.columns, b.columns, c.columns),
          pick(a.channels, b.channels, c.channels), pick(a.interpolation, b.interpolation, c.interpolation)};
}

template <typename Type, int kTiles, int kColumns>
__global__ void __launch_bounds__(kThreads, kTiles == 4 ? 3 : 4)
    convolution_kernel(const __grid_constant__ Convolution arguments, const __grid_constant__ Blocks blocks) {
  char* const shared = shared_memory();
  int* const table = reinterpret_cast<int*>(shared + blocks.table_begin);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int depth = static_cast<int>(blockIdx.z);
  const int rest = blocks.column_groups == 1 ? depth : depth / blocks.column_groups;  // divisions are long
  const int columns_index = depth - rest * blocks.column_groups;
  const int image = arguments.num_phases == 1 ? rest : rest / arguments.num_phases;
  const int phase_index = rest - image * arguments.num_phases;
  const Phase& phase = arguments.phases[phase_index];
  const Tap first = blocks.first[phase_index];
  const Place place = {image,
                       static_cast<int>(blockIdx.y) * blocks.tile_rows,
                       static_cast<int>(blockIdx.x) << blocks.tile_shift,
                       blocks.tile_shift,
                       arguments.scale,
                       phase.row,
                       phase.column};
  const int first_channel = columns_index * kColumns * 8;
  const int chunks0 = arguments.sources[0].channels / kChunk;
  const int chunks = chunks0 + arguments.sources[1].channels / kChunk;

  const int first_row = place.row * arguments.stride + first.dy;
  const int first_column = place.column * arguments.stride + first.dx;
  fill_table(table, phase, first, blocks.patch, chunks, blocks.inverse);
  int* const shortcut_table = table + blocks.slices + blocks.slices % 2;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < blocks.shortcut_slices + blocks.shortcut_slices % 2; i += kThreads) {
    shortcut_table[i] = i < blocks.shortcut_slices ? 16 * i : 0;
  }

  // Warps of the same group have the same pixels, and a part of the sum each.
  const int groups_shift = kWarpsShift - blocks.split_shift;
  const int group = warp & ((1 << groups_shift) - 1), part = warp >> groups_shift;
  const int stride = arguments.out.channels / 8 * 32;
  const int steps = (phase.num_taps * chunks + 1) / 2, shortcut_steps = (blocks.shortcut_slices + 1) / 2;
  const uint2* packed = reinterpret_cast<const uint2*>(phase.weights) + first_channel / 8 * 32 + lane;
  const auto share = [&](int all, int parts) { return all * parts >> blocks.split_shift; };
  Factor<kTiles, kColumns> factor(packed, stride, share(steps, part), share(steps, part + 1));
  Sums<kTiles, kColumns> sums;
  begin_with_bias(sums, arguments.bias + phase_index * arguments.out.channels + first_channel,
                  part == 0 ? arguments.out.channels - first_channel : 0);

  wait_for_launch_before();
#pragma unroll 1
  for (int i = 0; i < 3; ++i) {
    const bool shortcut = i == 0;  // first: it is never waited for before the others
    const Source source = one_of_three(i, arguments.shortcut, arguments.sources[0], arguments.sources[1]);
    if (source.data == nullptr) continue;
    Patch patch = blocks.patch;
    if (shortcut) patch = blocks.shortcut;
    const uint32_t inverse = i == 0 ? blocks.inverses[2] : i == 1 ? blocks.inverses[0] : blocks.inverses[1];
    fill_patch<Type>(source, patch, place.image, shortcut ? place.row_of(0) : first_row,
                     shortcut ? place.column_of(0) : first_column, inverse, i == 2 ? chunks0 : 0,
                     !shortcut && arguments.relu, shared + (shortcut ? blocks.shortcut_begin : 0));
  }

  const int first_pixel = group * kTiles * kTilePixels + lane % 16;
  uint32_t pixels[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int pixel = first_pixel + kTilePixels * i;
    const int row = pixel >> blocks.tile_shift, column = pixel & ((1 << blocks.tile_shift) - 1);
    const int position = row * blocks.patch.stride * blocks.patch.columns + column;
    pixels[i] = shared_address(shared + position * blocks.patch.pixel_bytes);
  }
  wait_for_copies();
  __syncthreads();
  multiply<Type>(sums, pixels, table + lane / 16, factor);
  if (shortcut_steps > 0) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int pixel = first_pixel + kTilePixels * i;
      pixels[i] = shared_address(shared + blocks.shortcut_begin + pixel * blocks.shortcut.pixel_bytes);
    }
    Factor<kTiles, kColumns> shortcut(packed + steps * stride, stride, share(shortcut_steps, part),
                                      share(shortcut_steps, part + 1));
    multiply<Type>(sums, pixels, shortcut_table + lane / 16, shortcut);
  }
  __syncthreads();
  if constexpr (kTiles == 1) {
    if (blocks.split_shift > 0) add_up(sums, blocks.split_shift, part, group, shared);
  }
  if (part == 0) finish<Type>(sums, arguments.out, arguments.output, place, group, first_channel, shared);
}

template <typename Type, int kTiles>
auto kernel_for(int columns) {
  switch (columns) {
    case 1: return convolution_kernel<Type, kTiles, 1>;
    case 2: return convolution_kernel<Type, kTiles, 2>;
    case 3: return convolution_kernel<Type, kTiles, 3>;
    case 4: return convolution_kernel<Type, kTiles, 4>;
    case 5: return convolution_kernel<Type, kTiles, 5>;
    default: return convolution_kernel<Type, kTiles, 6>;
  }
}

}  // namespace

template <typename Type>
cudaError_t launch_convolution(const Convolution& arguments, cudaStream_t stream) {
  Limits limits;
  Blocks blocks;
  cudaError_t error = current_limits(limits);
  if (error == cudaSuccess) error = choose_blocks(arguments, limits, blocks);
  if (error != cudaSuccess) return error;
  const auto kernel = blocks.tiles == 4   ? kernel_for<Type, 4>(blocks.columns)
                      : blocks.tiles == 2 ? kernel_for<Type, 2>(blocks.columns)
                                          : kernel_for<Type, 1>(blocks.columns);
  return launch_early(kernel, grid_of(blocks, arguments.images, arguments.num_phases), kThreads, blocks.shared_bytes,
                      limits, stream, arguments, blocks);
}

template cudaError_t launch_convolution<MODNAS_FAST_ELEMENT>(const Convolution&, cudaStream_t);

}  // namespace modnas_fast::cuda
