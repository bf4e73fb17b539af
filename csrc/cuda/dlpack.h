// What is exchanged under the DLPack protocol (github.com/dmlc/dlpack, ABI version 0, the "dltensor" capsule).
#pragma once

#include <cstdint>

namespace modnas_fast::cuda {

constexpr int32_t kDlpackCuda = 2;
constexpr int32_t kDlpackCudaManaged = 13;
constexpr uint8_t kDlpackFloat = 2;

struct DlpackDevice {
  int32_t type, id;
};

struct DlpackType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct DlpackTensor {
  void* data;
  DlpackDevice device;
  int32_t ndim;
  DlpackType type;
  int64_t* shape;    // [ndim]
  int64_t* strides;  // [ndim], in elements; null: contiguous
  uint64_t byte_offset;
};

struct DlpackManagedTensor {
  DlpackTensor tensor;
  void* owner;
  void (*deleter)(DlpackManagedTensor*);
};

}  // namespace modnas_fast::cuda
