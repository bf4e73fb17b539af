// The CUDA runtime as C++ has it: errors are exceptions, memory and streams end with their owners.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace modnas_fast::cuda {

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Raises std::bad_alloc where memory was too short, and CudaError naming `doing` for every other error.
void check(cudaError_t error, const char* doing);

struct DeviceFacts {
  std::string name;
  int capability;  // 80 for 8.0
  int64_t bytes;
};

// Raises CudaError where the driver is missing or too old.
std::vector<DeviceFacts> list_devices();

// Makes a device the calling thread's, and at the end the one that was it before.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

// Bytes on the device that was current when they were reserved; contents are lost when they grow.
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t bytes) { reserve(bytes); }
  ~Memory() { release(); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void reserve(int64_t bytes);  // waits for the device if they have to grow
  void release();
  int64_t bytes() const { return bytes_; }
  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

// One int in the host's memory that kernels can write.
class HostFlag {
 public:
  HostFlag();
  ~HostFlag();
  HostFlag(const HostFlag&) = delete;
  HostFlag& operator=(const HostFlag&) = delete;
  int* data() const { return data_; }

 private:
  int* data_ = nullptr;
};

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(bool timed = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream);
  void hold_back(cudaStream_t stream) const;  // until what was recorded has ended
  void wait() const;
  double seconds_since(const Event& earlier) const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace modnas_fast::cuda
