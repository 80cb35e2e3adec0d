#include "tensors.h"

#include <algorithm>

namespace torchopt {

uintptr_t address(const DLTensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset;
}

int64_t elements(const DLTensor& tensor) {
  int64_t product = 1;
  for (int32_t i = 0; i < tensor.ndim; ++i) product *= tensor.shape[i];
  return product;
}

int dtype_of(const DLTensor& tensor) {
  constexpr uint8_t kFloat = 2, kBfloat = 4;
  const auto [code, bits, lanes] = tensor.dtype;
  if (lanes != 1) return kDtypes;
  if (code == kBfloat && bits == 16) return kBFloat16;
  if (code != kFloat) return kDtypes;
  return bits == 32 ? kFloat32 : bits == 64 ? kFloat64 : bits == 16 ? kFloat16 : kDtypes;
}

bool is_on(const DLTensor& tensor, bool cpu, int device) {
  constexpr int32_t kCpu = 1, kCuda = 2;
  if (cpu) return tensor.device.type == kCpu;
  return tensor.device.type == kCuda && tensor.device.id == device;
}

bool is_contiguous(const DLTensor& tensor) {
  int64_t expected = 1;
  for (int32_t i = tensor.ndim; i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return elements(tensor) == 0;
    expected *= tensor.shape[i];
  }
  return true;
}

bool is_dense(const DLTensor& tensor) {
  if (is_contiguous(tensor)) return true;
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

bool same_kind(const DLTensor& a, const DLTensor& b) {
  return a.dtype.code == b.dtype.code && a.dtype.bits == b.dtype.bits &&
         a.dtype.lanes == b.dtype.lanes;
}

bool same_order(const DLTensor& a, const DLTensor& b) {
  if (a.ndim != b.ndim) return false;
  bool same = true;
  for (int32_t i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
    same &= a.shape[i] == 1 || a.strides[i] == b.strides[i];
  }
  return same || elements(a) == 0;
}

bool overlap(std::vector<Range>& ranges) {
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i - 1].second > ranges[i].first) return true;
  return false;
}

}  // namespace torchopt
