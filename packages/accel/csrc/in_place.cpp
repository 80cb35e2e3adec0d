#include "in_place.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "torch_table.h"

namespace torchopt {

namespace nb = nanobind;

namespace {

bool is_one_of(const nb::tuple& types, PyObject* object) {
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  for (nb::handle candidate : types)
    if (candidate.ptr() == type) return true;
  return false;
}

}  // namespace

InPlace::InPlace(int rule, int dtype, bool on_cpu, int device, std::vector<double> hyper,
                 std::vector<int64_t> positions)
    : Problem{}, on_cpu_(on_cpu), device_(device) {
  if (rule < 0 || rule >= int(rules().size())) throw std::invalid_argument("no such rule");
  const int states = rules()[rule].states;
  const size_t count = positions.size();
  for (int64_t position : positions) {
    if (position < 0) throw std::invalid_argument("positions begin at 0");
    last_ = std::max<Py_ssize_t>(last_, position);
  }
  this->rule = rule;
  this->dtype = dtype;
  this->apply = true;
  this->hyper = std::move(hyper);
  this->positions = std::move(positions);
  sizes.resize(count);
  inputs.assign(input_roles(false, states), std::vector<uintptr_t>(count));
  outputs.assign(output_roles(false, states), std::vector<uintptr_t>(count));
  ranges_.reserve(count * inputs.size());
  check(*this);
}

int InPlace::read(nb::tuple types, nb::list roles) {
  // Found under the interpreter lock; types live as long as the process.
  static const TorchTable* table = nullptr;
  if (!table) table = table_of(types[0]);
  if (!table || roles.size() != inputs.size()) return -1;
  std::array<PyObject*, kMaxInputs> lists;
  for (size_t role = 0; role < inputs.size(); ++role) {
    lists[role] = PyList_GetItem(roles.ptr(), Py_ssize_t(role));
    if (!PyList_Check(lists[role]) || PyList_Size(lists[role]) <= last_) return -1;
  }
  int present = 0;
  ranges_.clear();
  for (size_t leaf = 0; leaf < sizes.size(); ++leaf) {
    sizes[leaf] = 0;
    if (PyList_GetItem(lists[0], positions[leaf]) == Py_None) continue;
    ++present;
    DLTensor first{};
    for (size_t role = 0; role < inputs.size(); ++role) {
      PyObject* object = PyList_GetItem(lists[role], positions[leaf]);
      DLTensor tensor;
      if (!is_one_of(types, object)) return -1;
      if (table->tensor_from_object(object, &tensor)) {
        // The caller finds out why, and says so.
        PyErr_Clear();
        return -1;
      }
      if (role == 0) {
        if (dtype_of(tensor) != dtype || !is_on(tensor, on_cpu_, device_) || !is_dense(tensor))
          return -1;
        first = tensor;
        sizes[leaf] = elements(tensor);
      } else if (!is_on(tensor, on_cpu_, device_) || !same_kind(first, tensor) ||
                 !same_order(first, tensor)) {
        return -1;
      }
      const uintptr_t start = address(tensor);
      inputs[role][leaf] = start;
      if (role > 0) outputs[role - 1][leaf] = start;
      if (sizes[leaf] > 0) ranges_.emplace_back(start, start + sizes[leaf] * kItemSize[dtype]);
    }
  }
  return overlap(ranges_) ? -1 : present;
}

}  // namespace torchopt
