// The part of DLPack (https://dmlc.github.io/dlpack) through which torch takes over memory, and
// tells where a tensor lies.
#pragma once

#include <cstdint>
#include <vector>

#include "problem.h"

namespace torchopt {

struct DLTensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};

struct DLManagedTensorVersioned {
  struct {
    uint32_t major, minor;
  } version;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor tensor;
};

// Returns a tensor in memory of the pool, contiguous if there are no strides; strides must fill a
// range of memory. Throws std::bad_alloc.
DLManagedTensor* make_tensor(Dtype dtype, const std::vector<int64_t>& shape,
                             const std::vector<int64_t>& strides);

// The same with a shape and strides of this length; contiguous if strides are null.
DLManagedTensorVersioned* make_versioned(Dtype dtype, const int64_t* shape, const int64_t* strides,
                                         int32_t ndim);

}  // namespace torchopt
