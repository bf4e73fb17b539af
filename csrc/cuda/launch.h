// The one way to launch kernels, and what devices allow.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>

namespace modnas_fast::cuda {

constexpr size_t kSharedWithoutAsking = 48 << 10;  // bytes that any kernel may have
constexpr int kReservedShared = 1 << 10;           // bytes that compilers may count as a kernel's own, as for sm_90
constexpr int kOverlapInGraphs = 12030;            // CUDA 12.3: before, graphs could not hold launches that overlap
constexpr int kMostBlocks = 65535;                 // of a grid, along y and along z

// Of the current device.
struct Limits {
  int processors;
  int shared_bytes;            // that a block may have
  int processor_shared_bytes;  // that the blocks of one processor share
  bool overlaps;               // a launch may begin before the one before it has ended
};

// For kernels that call wait_for_launch_before(): where devices can, blocks begin as soon as there is room for them
// while the launch before still runs. Shared memory may be more than any kernel has without asking; what is asked for
// is the same whatever a launch takes, or another thread could lower a kernel's limit between its raising and the
// launch.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_early(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                         const Limits& limits, cudaStream_t stream, const Arguments&... arguments) {
  if (shared_bytes > kSharedWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = limits.overlaps ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                   const Arguments&... arguments) {
  return launch_early(kernel, grid, block, 0, Limits{}, stream, arguments...);  // of limits without overlap
}

inline cudaError_t current_limits(Limits& limits) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&limits.processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&limits.processor_shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  }
  int generation = 0, driver = 0;
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&generation, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDriverGetVersion(&driver);
  if (error == cudaSuccess) {
    limits.shared_bytes -= kReservedShared;
    limits.overlaps = generation >= 9 && std::min(driver, CUDART_VERSION) >= kOverlapInGraphs;
  }
  return error;
}

}  // namespace modnas_fast::cuda
