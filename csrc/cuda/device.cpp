#include "cuda/device.h"

#include <new>

namespace modnas_fast::cuda {

namespace {

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

}  // namespace

void check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report it again
  if (error == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw CudaError(std::string("CUDA failed at ") + doing + ": " + cudaGetErrorString(error));
}

std::vector<DeviceFacts> list_devices() {
  int driver = 0, count = 0;
  check(cudaDriverGetVersion(&driver), "asking for the driver's version");
  if (driver == 0) throw CudaError("no NVIDIA driver is installed");
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    throw CudaError("the NVIDIA driver is too old: it runs CUDA " + version(driver) +
                             ", and the engine was built with " + version(CUDART_VERSION) + "; update the driver");
  }
  if (error == cudaErrorNoDevice) {
    cudaGetLastError();
    return {};
  }
  check(error, "counting devices");
  std::vector<DeviceFacts> devices;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp facts;
    check(cudaGetDeviceProperties(&facts, device), "asking what a device is");
    devices.push_back({facts.name, facts.major * 10 + facts.minor, static_cast<int64_t>(facts.totalGlobalMem)});
  }
  return devices;
}

CurrentDevice::CurrentDevice(int device) {
  check(cudaGetDevice(&before_), "asking for the current device");
  if (device != before_) check(cudaSetDevice(device), "choosing a device");
}

CurrentDevice::~CurrentDevice() {
  int now = before_;
  if (cudaGetDevice(&now) != cudaSuccess || now != before_) cudaSetDevice(before_);
}

void Memory::reserve(int64_t bytes) {
  if (bytes <= bytes_) return;
  release();
  void* data = nullptr;
  check(cudaMalloc(&data, static_cast<size_t>(bytes)), "taking memory");
  data_ = static_cast<char*>(data);
  bytes_ = bytes;
}

void Memory::release() {
  if (data_ != nullptr) cudaFree(data_);
  data_ = nullptr;
  bytes_ = 0;
}

HostFlag::HostFlag() {
  void* data = nullptr;
  check(cudaHostAlloc(&data, sizeof(int), cudaHostAllocPortable | cudaHostAllocMapped), "taking memory of the host");
  data_ = static_cast<int*>(data);
  *data_ = 0;
}

HostFlag::~HostFlag() { cudaFreeHost(data_); }

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }

Stream::~Stream() { cudaStreamDestroy(stream_); }

Event::Event(bool timed) {
  check(cudaEventCreateWithFlags(&event_, timed ? cudaEventDefault : cudaEventDisableTiming), "making an event");
}

Event::~Event() { cudaEventDestroy(event_); }

void Event::record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "recording an event"); }

void Event::hold_back(cudaStream_t stream) const {
  check(cudaStreamWaitEvent(stream, event_, 0), "holding back a stream");
}

void Event::wait() const { check(cudaEventSynchronize(event_), "waiting for earlier work"); }

double Event::seconds_since(const Event& earlier) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, earlier.event_, event_), "measuring time");
  return 1e-3 * static_cast<double>(milliseconds);
}

}  // namespace modnas_fast::cuda
