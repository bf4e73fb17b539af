// Depthwise convolution, then 1×1: what lies between is rounded as if it were stored, but never leaves shared memory.
#include "cuda/depthwise.h"
#include "cuda/epilogue.h"
#include "cuda/launchers.h"

namespace modnas_fast::cuda {

namespace {

template <typename Type, int kColumns>
__global__ void __launch_bounds__(kThreads, 4)
    separable_kernel(const __grid_constant__ Separable arguments, const __grid_constant__ Blocks blocks) {
  char* const shared = shared_memory();
  int* const table = reinterpret_cast<int*>(shared + blocks.table_begin);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int first_channel = static_cast<int>(blockIdx.z) % blocks.column_groups * kColumns * 8;
  const Place place = {static_cast<int>(blockIdx.z) / blocks.column_groups,
                       static_cast<int>(blockIdx.y) * blocks.tile_rows,
                       static_cast<int>(blockIdx.x) << blocks.tile_shift,
                       blocks.tile_shift,
                       1,
                       0,
                       0};
  const int chunks = arguments.source.channels / kChunk, slices = chunks + chunks % 2;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < slices; i += kThreads) table[i] = i < chunks ? 16 * i : 0;
  wait_for_launch_before();
  fill_patch<Type>(arguments.source, blocks.patch, place.image, place.row + blocks.first[0].dy,
                   place.column + blocks.first[0].dx, blocks.inverses[0], 0, arguments.relu, shared);
  wait_for_copies();
  __syncthreads();
  const uint4* weights = reinterpret_cast<const uint4*>(arguments.depthwise_weights);
  const float* bias = arguments.depthwise_bias;
  if (arguments.kernel == 3) {
    arguments.dilation == 1 ? convolve_depthwise<Type, 3, 1>(blocks, weights, bias, chunks, shared)
                            : convolve_depthwise<Type, 3, 2>(blocks, weights, bias, chunks, shared);
  } else {
    arguments.dilation == 1 ? convolve_depthwise<Type, 5, 1>(blocks, weights, bias, chunks, shared)
                            : convolve_depthwise<Type, 5, 2>(blocks, weights, bias, chunks, shared);
  }

  // A short sum is not shared: where blocks are small, some warps only help before it.
  const bool sums_up = warp < kWarps >> blocks.split_shift;
  const uint2* packed = reinterpret_cast<const uint2*>(arguments.weights) + first_channel / 8 * 32 + lane;
  Factor<1, kColumns> factor(packed, arguments.out.channels / 8 * 32, 0, sums_up ? slices / 2 : 0);
  Sums<1, kColumns> sums;
  begin_with_bias(sums, arguments.bias + first_channel, arguments.out.channels - first_channel);
  __syncthreads();

  const int pixel = (sums_up ? warp : 0) * kTilePixels + lane % 16;
  const uint32_t pixels[1] = {shared_address(shared + blocks.middle_begin + pixel * blocks.middle_pixel_bytes)};
  multiply<Type>(sums, pixels, table + lane / 16, factor);
  __syncthreads();
  if (sums_up) finish<Type>(sums, arguments.out, arguments.output, place, warp, first_channel, shared);
}

template <typename Type>
auto kernel_for(int columns) {
  switch (columns) {
    case 1: return separable_kernel<Type, 1>;
    case 2: return separable_kernel<Type, 2>;
    case 3: return separable_kernel<Type, 3>;
    case 4: return separable_kernel<Type, 4>;
    case 5: return separable_kernel<Type, 5>;
    default: return separable_kernel<Type, 6>;
  }
}

bool exists(int kernel, int dilation) { return (kernel == 3 || kernel == 5) && (dilation == 1 || dilation == 2); }

}  // namespace

template <typename Type>
cudaError_t launch_separable(const Separable& arguments, cudaStream_t stream) {
  if (!exists(arguments.kernel, arguments.dilation)) return cudaErrorInvalidValue;
  Limits limits;
  Blocks blocks;
  cudaError_t error = current_limits(limits);
  if (error == cudaSuccess) error = choose_blocks(arguments, limits, blocks);
  if (error != cudaSuccess) return error;
  const auto kernel = kernel_for<Type>(blocks.columns);
  return launch_early(kernel, grid_of(blocks, arguments.images, 1), kThreads, blocks.shared_bytes, limits, stream,
                      arguments, blocks);
}

template cudaError_t launch_separable<MODNAS_FAST_ELEMENT>(const Separable&, cudaStream_t);

}  // namespace modnas_fast::cuda
