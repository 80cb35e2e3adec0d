#include "tensors.h"

#include <algorithm>

#include "layout.h"

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

bool same_order(const DLTensor& a, const DLTensor& b) {
  if (a.ndim != b.ndim) return false;
  bool same = true;
  for (int32_t i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
    same &= a.shape[i] == 1 || a.strides[i] == b.strides[i];
  }
  return same || is_empty(a);
}

bool overlap(std::vector<Range>& ranges) {
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i - 1].second > ranges[i].first) return true;
  return false;
}

}  // namespace torchopt
