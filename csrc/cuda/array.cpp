#include "cuda/array.h"

#include <stdexcept>
#include <string>

#include "cuda/dlpack.h"

namespace modnas_fast::cuda {

namespace {

// What an exported tensor keeps alive.
struct Export {
  std::shared_ptr<Memory> memory;
  int64_t shape[4], strides[4];
  DlpackManagedTensor managed;
};

int64_t count_of(const Image& image) { return image.images * image.channels * image.rows * image.columns; }

}  // namespace

cudaStream_t stream_of(int64_t number) {
  if (number <= 1) return nullptr;
  if (number == 2) return cudaStreamPerThread;
  return reinterpret_cast<cudaStream_t>(number);
}

Image image_in(const pybind11::capsule& capsule, int device) {
  if (std::string(capsule.name() == nullptr ? "" : capsule.name()) != "dltensor") {
    throw std::invalid_argument("it gives no DLPack tensor that this engine reads");
  }
  const DlpackTensor& tensor = capsule.get_pointer<DlpackManagedTensor>()->tensor;
  if (tensor.device.type != kDlpackCuda && tensor.device.type != kDlpackCudaManaged) {
    throw std::invalid_argument("it is not on a CUDA device");
  }
  if (tensor.device.type == kDlpackCuda && tensor.device.id != device) {
    throw std::invalid_argument("it is on cuda:" + std::to_string(tensor.device.id) + ", the engine on cuda:" +
                                std::to_string(device));
  }
  if (tensor.ndim != 4 || tensor.type.code != kDlpackFloat || tensor.type.bits != 32 || tensor.type.lanes != 1) {
    throw std::invalid_argument("it is not float32 [N, C, H, W]");
  }
  Image image = {reinterpret_cast<float*>(static_cast<char*>(tensor.data) + tensor.byte_offset),
                 tensor.shape[0],
                 tensor.shape[1],
                 tensor.shape[2],
                 tensor.shape[3],
                 {}};
  int64_t contiguous = 1;
  for (int axis = 3; axis >= 0; --axis) {
    image.strides[axis] = tensor.strides == nullptr ? contiguous : tensor.strides[axis];
    contiguous *= tensor.shape[axis];
  }
  return image;
}

Array::Array(int device, int64_t images, int64_t channels, int64_t rows, int64_t columns)
    : device_(device),
      memory_(std::make_shared<Memory>()),
      image_{nullptr, images, channels, rows, columns, {channels * rows * columns, rows * columns, columns, 1}} {
  const CurrentDevice current(device);
  memory_->reserve(count_of(image_) * static_cast<int64_t>(sizeof(float)));
  image_.data = reinterpret_cast<float*>(memory_->data());
}

void Array::made_on(cudaStream_t stream) {
  const CurrentDevice current(device_);
  made_ = std::make_unique<Event>();
  made_->record(stream);
}

pybind11::capsule Array::dlpack(int64_t consumer) const {
  if (consumer != -1 && made_ != nullptr) {
    const CurrentDevice current(device_);
    made_->hold_back(stream_of(consumer));
  }
  auto owned = std::make_unique<Export>();
  owned->memory = memory_;
  const int64_t shape[4] = {image_.images, image_.channels, image_.rows, image_.columns};
  for (int axis = 0; axis < 4; ++axis) {
    owned->shape[axis] = shape[axis];
    owned->strides[axis] = image_.strides[axis];
  }
  owned->managed = {{image_.data, {kDlpackCuda, device_}, 4, {kDlpackFloat, 32, 1}, owned->shape, owned->strides, 0},
                    owned.get(),
                    [](DlpackManagedTensor* managed) { delete static_cast<Export*>(managed->owner); }};
  PyObject* capsule = PyCapsule_New(&owned->managed, "dltensor", [](PyObject* object) {
    if (PyCapsule_IsValid(object, "dltensor") == 0) return;  // whoever took the tensor ends it
    auto* managed = static_cast<DlpackManagedTensor*>(PyCapsule_GetPointer(object, "dltensor"));
    managed->deleter(managed);
  });
  if (capsule == nullptr) throw pybind11::error_already_set();
  owned.release();
  return pybind11::reinterpret_steal<pybind11::capsule>(capsule);
}

}  // namespace modnas_fast::cuda
