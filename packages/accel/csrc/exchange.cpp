#include "exchange.h"

#include <vector>

#include "tensors.h"
#include "torch_table.h"

namespace torchopt {

namespace nb = nanobind;

namespace {

// The layouts of the first role, in one vector because a tensor's own is lent only for a moment.
class Layouts {
 public:
  // Returns false unless the elements fill a range of memory.
  bool add(const DLTensor& tensor) {
    sizes_.insert(sizes_.end(), tensor.shape, tensor.shape + tensor.ndim);
    strides_.insert(strides_.end(), tensor.strides, tensor.strides + tensor.ndim);
    ends_.push_back(sizes_.size());
    if (is_contiguous(tensor)) return true;
    contiguous_ = false;
    return is_dense(tensor);
  }

  // The strides of a dimension of size 1, and of an empty tensor, do not matter.
  bool matches(size_t position, const DLTensor& tensor) const {
    const size_t begin = position ? ends_[position - 1] : 0;
    if (ends_[position] - begin != size_t(tensor.ndim)) return false;
    bool alike = true;
    for (int32_t i = 0; i < tensor.ndim; ++i) {
      if (sizes_[begin + i] != tensor.shape[i]) return false;
      alike &= tensor.shape[i] == 1 || strides_[begin + i] == tensor.strides[i];
    }
    return alike || elements(tensor) == 0;
  }

  bool contiguous() const { return contiguous_; }

 private:
  std::vector<int64_t> sizes_, strides_;
  std::vector<size_t> ends_;
  bool contiguous_ = true;
};

bool alike(const DLTensor& a, const DLTensor& b) {
  return same_kind(a, b) && a.device.type == b.device.type && a.device.id == b.device.id;
}

}  // namespace

nb::object addresses(nb::type_object type, nb::list roles) {
  // There is one type of tensors, which lives as long as the process.
  static const TorchTable* const table = table_of(type);
  if (!table) return nb::none();
  auto* tensor_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  nb::list result;
  Layouts layouts;
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
      const bool fits = role == 0 ? layouts.add(tensor) : layouts.matches(position, tensor);
      if (!fits || !alike(first, tensor)) return nb::none();
      found.append(address(tensor));
      ++position;
    }
    if (role == 0)
      count = position;
    else if (position != 0 && position != count)
      return nb::none();
    result.append(found);
  }
  return nb::make_tuple(result, layouts.contiguous());
}

}  // namespace torchopt
