// How the elements of a tensor lie in memory.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "dlpack.h"

namespace torchopt {

inline bool same_dtype(const DLTensor& a, const DLTensor& b) {
  return a.dtype.code == b.dtype.code && a.dtype.bits == b.dtype.bits &&
         a.dtype.lanes == b.dtype.lanes;
}

inline bool is_empty(const DLTensor& tensor) {
  return std::find(tensor.shape, tensor.shape + tensor.ndim, 0) != tensor.shape + tensor.ndim;
}

inline bool is_contiguous(const DLTensor& tensor) {
  int64_t expected = 1;
  for (int32_t i = tensor.ndim; i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

// Tells whether the elements fill a range of memory, in any order of the dimensions.
inline bool is_dense(const DLTensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> dimensions;
  for (int32_t i = 0; i < tensor.ndim; ++i)
    if (tensor.shape[i] != 1) dimensions.emplace_back(tensor.strides[i], tensor.shape[i]);
  std::sort(dimensions.begin(), dimensions.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dimensions) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

}  // namespace torchopt
