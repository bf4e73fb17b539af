#include "runtime.h"

namespace emulation {

cudaError_t submit(cudaStream_t, const Launch& launch) {
  if (launch.shared_bytes > static_cast<size_t>(device.shared_bytes)) return cudaErrorInvalidValue;
  run(launch.grid, launch.block, launch.shared_bytes, launch.thread);
  return cudaSuccess;
}

}  // namespace emulation

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = emulation::device.processors; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = emulation::device.shared_bytes; return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
