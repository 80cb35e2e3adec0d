#include "../dlpack.h"

#include <memory>

#include "pool.h"

namespace torchopt {
namespace {

template <class Managed>
struct Owner {
  Managed managed;
  size_t bytes;
  // The shape, then the strides if there are any.
  std::vector<int64_t> lengths;
};

template <class Managed>
void destroy(Managed* managed) {
  auto* owner = static_cast<Owner<Managed>*>(managed->context);
  if (owner->bytes > 0) give_block(managed->tensor.data, owner->bytes);
  delete owner;
}

template <class Managed>
Managed* make(Dtype dtype, const int64_t* shape, const int64_t* strides, int32_t ndim) {
  constexpr int32_t kCpu = 1;
  constexpr uint8_t kFloat = 2, kBfloat = 4;
  auto owner = std::make_unique<Owner<Managed>>();
  owner->lengths.reserve(strides ? 2 * ndim : ndim);
  owner->lengths.assign(shape, shape + ndim);
  if (strides) owner->lengths.insert(owner->lengths.end(), strides, strides + ndim);
  owner->bytes = size_t(kItemSize[dtype]);
  for (int32_t i = 0; i < ndim; ++i) owner->bytes *= size_t(shape[i]);
  DLTensor& tensor = owner->managed.tensor;
  tensor.device = {kCpu, 0};
  tensor.ndim = ndim;
  tensor.dtype = {dtype == kBFloat16 ? kBfloat : kFloat, uint8_t(8 * kItemSize[dtype]), 1};
  tensor.shape = owner->lengths.data();
  tensor.strides = strides ? owner->lengths.data() + ndim : nullptr;
  tensor.byte_offset = 0;
  tensor.data = owner->bytes > 0 ? take_block(owner->bytes) : nullptr;
  owner->managed.context = owner.get();
  owner->managed.deleter = destroy<Managed>;
  return &owner.release()->managed;
}

}  // namespace

DLManagedTensor* make_tensor(Dtype dtype, const std::vector<int64_t>& shape,
                             const std::vector<int64_t>& strides) {
  const int64_t* order = strides.empty() ? nullptr : strides.data();
  return make<DLManagedTensor>(dtype, shape.data(), order, int32_t(shape.size()));
}

DLManagedTensorVersioned* make_versioned(Dtype dtype, const int64_t* shape, const int64_t* strides,
                                         int32_t ndim) {
  auto* made = make<DLManagedTensorVersioned>(dtype, shape, strides, ndim);
  made->version = {1, 0};
  made->flags = 0;
  return made;
}

}  // namespace torchopt
