// Images on the device that the engine owns, and others' that it is lent; both by DLPack.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "cuda/device.h"
#include "cuda/image.h"

namespace modnas_fast::cuda {

// The image [N, C, H, W] in a "dltensor" capsule, which must outlive it. Raises std::invalid_argument unless it is
// float32 on the device.
Image image_in(const pybind11::capsule& capsule, int device);

// A contiguous float32 image [N, C, H, W] on a device, which others can read without a copy.
class Array {
 public:
  // Raises std::bad_alloc.
  Array(int device, int64_t images, int64_t channels, int64_t rows, int64_t columns);

  const Image& image() const { return image_; }
  int device() const { return device_; }
  // What is enqueued on the stream so far makes the contents.
  void made_on(cudaStream_t stream);
  // The capsule. What is enqueued on the stream `consumer` from now on comes after what made the contents; −1: on none.
  pybind11::capsule dlpack(int64_t consumer) const;

 private:
  const int device_;
  std::shared_ptr<Memory> memory_;
  Image image_;
  std::unique_ptr<Event> made_;
};

// A stream as the protocol names it: 0 or 1 is the legacy default stream, 2 the thread's own, others are handles.
cudaStream_t stream_of(int64_t number);

}  // namespace modnas_fast::cuda
