#include "../dlpack.h"

#include <memory>

#include "pool.h"

namespace torchopt {
namespace {

struct Owner {
  DLManagedTensor managed;
  std::vector<int64_t> shape, strides;
  size_t bytes;
};

void destroy(DLManagedTensor* managed) {
  Owner* owner = static_cast<Owner*>(managed->context);
  if (owner->bytes > 0) give_block(managed->tensor.data, owner->bytes);
  delete owner;
}

}  // namespace

DLManagedTensor* make_tensor(Dtype dtype, const std::vector<int64_t>& shape,
                             const std::vector<int64_t>& strides) {
  constexpr int32_t kCpu = 1;
  constexpr uint8_t kFloat = 2, kBfloat = 4;
  auto owner = std::make_unique<Owner>();
  owner->shape = shape;
  owner->strides = strides;
  owner->bytes = size_t(kItemSize[dtype]);
  for (int64_t length : shape) owner->bytes *= size_t(length);
  DLTensor& tensor = owner->managed.tensor;
  tensor.device = {kCpu, 0};
  tensor.ndim = int32_t(shape.size());
  tensor.dtype = {dtype == kBFloat16 ? kBfloat : kFloat, uint8_t(8 * kItemSize[dtype]), 1};
  tensor.shape = owner->shape.data();
  tensor.strides = strides.empty() ? nullptr : owner->strides.data();
  tensor.byte_offset = 0;
  tensor.data = owner->bytes > 0 ? take_block(owner->bytes) : nullptr;
  owner->managed.context = owner.get();
  owner->managed.deleter = destroy;
  return &owner.release()->managed;
}

}  // namespace torchopt
