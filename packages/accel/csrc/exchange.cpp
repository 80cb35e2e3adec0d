#include "exchange.h"

#include <vector>

#include "torch_table.h"

namespace torchopt {

namespace nb = nanobind;

namespace {

bool is_contiguous(const DLTensor& tensor) {
  int64_t expected = 1;
  for (int32_t i = tensor.ndim; i-- > 0;) {
    if (tensor.shape[i] == 0) return true;
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

// The shapes of the first role, in one vector because a tensor's own is lent only for a moment.
class Shapes {
 public:
  void add(const DLTensor& tensor) {
    sizes_.insert(sizes_.end(), tensor.shape, tensor.shape + tensor.ndim);
    ends_.push_back(sizes_.size());
  }

  bool matches(size_t position, const DLTensor& tensor) const {
    const size_t begin = position ? ends_[position - 1] : 0;
    if (ends_[position] - begin != size_t(tensor.ndim)) return false;
    for (int32_t i = 0; i < tensor.ndim; ++i)
      if (sizes_[begin + i] != tensor.shape[i]) return false;
    return true;
  }

 private:
  std::vector<int64_t> sizes_;
  std::vector<size_t> ends_;
};

bool alike(const DLTensor& a, const DLTensor& b) {
  return a.dtype.code == b.dtype.code && a.dtype.bits == b.dtype.bits &&
         a.dtype.lanes == b.dtype.lanes && a.device.type == b.device.type &&
         a.device.id == b.device.id;
}

}  // namespace

nb::object addresses(nb::type_object type, nb::list roles) {
  // There is one type of tensors, which lives as long as the process.
  static const TorchTable* const table = table_of(type);
  if (!table) return nb::none();
  auto* tensor_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  nb::list result;
  Shapes shapes;
  DLTensor first{};
  size_t count = 0;
  for (size_t role = 0; role < roles.size(); ++role) {
    nb::list found;
    size_t position = 0;
    for (nb::handle object : nb::borrow<nb::sequence>(roles[role])) {
      if (role > 0 && position >= count) return nb::none();
      if (object.is_none() && role > 0) {
        found.append(0);
        ++position;
        continue;
      }
      DLTensor tensor;
      if (!PyType_IsSubtype(Py_TYPE(object.ptr()), tensor_type)) return nb::none();
      if (table->tensor_from_object(object.ptr(), &tensor)) {
        // The caller finds out why, and says so.
        PyErr_Clear();
        return nb::none();
      }
      if (role == 0 && position == 0) first = tensor;
      if (role == 0) shapes.add(tensor);
      if (!alike(first, tensor) || !shapes.matches(position, tensor) || !is_contiguous(tensor))
        return nb::none();
      found.append(reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset);
      ++position;
    }
    if (role == 0)
      count = position;
    else if (position != 0 && position != count)
      return nb::none();
    result.append(found);
  }
  return result;
}

}  // namespace torchopt
