// NVIDIA's runtime functions, as far as this project calls them, for the emulated device.
#pragma once

#include <cstddef>
#include <functional>
#include <tuple>

#include "emulation.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct CUstream_st;
using cudaStream_t = CUstream_st*;
struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace emulation {

struct Device {
  int processors = 4;
  int shared_bytes = 99 << 10;  // that a block may have
};
inline Device device;

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  std::function<void()> thread;
};
cudaError_t submit(cudaStream_t stream, const Launch& launch);

}  // namespace emulation

cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  std::tuple<std::decay_t<Parameters>...> copies(std::forward<Arguments>(arguments)...);
  return emulation::submit(config->stream, {config->gridDim, config->blockDim, config->dynamicSmemBytes,
                                            [kernel, copies] { std::apply(kernel, copies); }});
}
