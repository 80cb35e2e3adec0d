#include "in_place.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "exchange.h"

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
  static const Read read = reader_of(nb::handle(types[0]));
  const size_t count = sizes.size();
  if (!read || roles.size() != inputs.size()) return -1;
  std::array<PyObject*, kMaxInputs> lists;
  for (size_t role = 0; role < inputs.size(); ++role) {
    lists[role] = PyList_GetItem(roles.ptr(), Py_ssize_t(role));
    if (!PyList_Check(lists[role]) || PyList_Size(lists[role]) != Py_ssize_t(count)) return -1;
  }
  int present = 0;
  ranges_.clear();
  for (size_t leaf = 0; leaf < count; ++leaf) {
    sizes[leaf] = 0;
    if (PyList_GetItem(lists[0], Py_ssize_t(leaf)) == Py_None) continue;
    ++present;
    DLTensor first{};
    for (size_t role = 0; role < inputs.size(); ++role) {
      PyObject* object = PyList_GetItem(lists[role], Py_ssize_t(leaf));
      DLTensor tensor;
      if (!is_one_of(types, object)) return -1;
      if (read(object, &tensor)) {
        // The caller finds out why, and says so.
        PyErr_Clear();
        return -1;
      }
      if (role == 0) {
        if (dtype_of(tensor) != dtype || !is_on(tensor, on_cpu_, device_) || !is_dense(tensor))
          return -1;
        first = tensor;
        sizes[leaf] = elements(tensor);
      } else if (!same_kind(first, tensor) || !same_order(first, tensor)) {
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
