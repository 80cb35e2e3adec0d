#include "at_once.h"

#include <algorithm>
#include <numeric>

#include "cpu/driver.h"
#include "problem.h"
#include "tensors.h"
#include "torch_table.h"

namespace torchopt {

namespace nb = nanobind;

namespace {

constexpr int32_t kCpu = 1;
constexpr uint8_t kInt = 0, kFloat = 2;

// What this file takes from torch.
struct Torch {
  const TorchTable* table;
  PyObject *tensor, *parameter, *is_neg;
};

const Torch& torch() {
  // Found on first use, under the interpreter lock; types live as long as the process. A static
  // variable with an initializer would have a lock of its own, which two threads may take in the
  // other order.
  static Torch found{};
  if (!found.is_neg) {
    const nb::object tensor = nb::module_::import_("torch").attr("Tensor");
    const nb::object parameter = nb::module_::import_("torch.nn").attr("Parameter");
    const nb::object is_neg = tensor.attr("is_neg");
    found = {table_of(tensor), tensor.inc_ref().ptr(), parameter.inc_ref().ptr(),
             is_neg.inc_ref().ptr()};
  }
  return found;
}

// Returns false if the object is not a plain tensor, or not on the CPU.
bool read(const Torch& torch, PyObject* object, DLTensor& tensor) {
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (!torch.table || (type != torch.tensor && type != torch.parameter)) return false;
  if (torch.table->tensor_from_object(object, &tensor)) {
    // The caller finds out why, and says so.
    PyErr_Clear();
    return false;
  }
  if (tensor.device.type != kCpu) return false;
  PyObject* negative = PyObject_CallFunctionObjArgs(torch.is_neg, object, nullptr);
  if (!negative) throw nb::python_error();
  Py_DECREF(negative);
  return negative == Py_False;
}

bool is_vector(const DLTensor& tensor, uint8_t code, int32_t ndim) {
  return tensor.ndim == ndim && tensor.dtype.code == code && tensor.dtype.bits == 64 &&
         tensor.dtype.lanes == 1 && is_contiguous(tensor);
}

// The first role of a call, with which all other tensors are compared.
class Leaves {
 public:
  // Reads the role and compares its tensors.
  bool add(const nb::tuple& tensors, size_t count) {
    leaves_.resize(count);
    for (size_t i = 0; i < count; ++i)
      if (!read(torch(), PyTuple_GetItem(tensors.ptr(), Py_ssize_t(i)), leaves_[i]) ||
          !same_kind(leaves_[0], leaves_[i]) || !is_dense(leaves_[i]))
        return false;
    return count > 0 && dtype_of(leaves_[0]) != kDtypes;
  }

  // Finds the addresses of another role, which begins at this position. Where tensors may be
  // absent, None has the address 0, and a role of nothing else stays empty.
  bool locate(const nb::tuple& tensors, size_t begin, bool may_be_absent,
              std::vector<uintptr_t>& found) const {
    found.resize(leaves_.size());
    bool any = false;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      PyObject* object = PyTuple_GetItem(tensors.ptr(), Py_ssize_t(begin + i));
      found[i] = 0;
      if (may_be_absent && object == Py_None) continue;
      DLTensor tensor;
      if (!read(torch(), object, tensor) || !same_kind(leaves_[0], tensor) ||
          !same_order(leaves_[i], tensor))
        return false;
      found[i] = address(tensor);
      any = true;
    }
    if (!any) found.clear();
    return true;
  }

  // Makes a result for a leaf; returns its address, and a new reference to the tensor.
  uintptr_t make(size_t leaf, PyObject*& object) const {
    const DLTensor& like = leaves_[leaf];
    const int64_t* strides = is_contiguous(like) ? nullptr : like.strides;
    return made(make_versioned(Dtype(dtype()), like.shape, strides, like.ndim), object);
  }

  // The same for the cotangent of lr, which is zeros.
  uintptr_t make_like(const DLTensor& lr, PyObject*& object) const {
    const uintptr_t start = made(make_versioned(kFloat64, lr.shape, nullptr, lr.ndim), object);
    std::fill_n(reinterpret_cast<double*>(start), elements(lr), 0.0);
    return start;
  }

  int dtype() const { return dtype_of(leaves_[0]); }
  size_t size() const { return leaves_.size(); }
  const DLTensor& operator[](size_t leaf) const { return leaves_[leaf]; }

 private:
  uintptr_t made(DLManagedTensorVersioned* managed, PyObject*& object) const {
    const uintptr_t start = address(managed->tensor);
    void* result = nullptr;
    if (torch().table->object_from_managed(managed, &result)) throw nb::python_error();
    object = static_cast<PyObject*>(result);
    return start;
  }

  std::vector<DLTensor> leaves_;
};

// What both directions have in common.
struct Call {
  Leaves leaves;
  Problem problem{};
  DLTensor lr;

  // Returns false if the arguments do not fit together.
  bool fill(int rule, bool with_params, nb::handle steps, nb::handle numbers, nb::handle rate,
            const nb::tuple& tensors, bool backward) {
    if (rule < 0 || rule >= int(rules().size())) return false;
    const int states = rules()[rule].states;
    const size_t roles = 1 + with_params + states, count = tensors.size() / roles;
    if (count * roles != tensors.size() || !leaves.add(tensors, count)) return false;
    problem.rule = rule;
    problem.dtype = leaves.dtype();
    problem.backward = backward;
    problem.inputs.resize(input_roles(backward, states));
    problem.outputs.resize(output_roles(backward, states));
    // Backward, cotangents of the results come first.
    size_t role = backward ? 1 + states : 0;
    for (size_t i = 0; i < count; ++i) {
      problem.sizes.push_back(elements(leaves[i]));
      problem.inputs[role].push_back(address(leaves[i]));
    }
    for (size_t begin = count; begin < tensors.size(); begin += count) {
      role += begin == count && !with_params ? 2 : 1;
      if (!leaves.locate(tensors, begin, false, problem.inputs[role])) return false;
    }
    return fill_by_position(steps, kInt, problem.steps) &&
           fill_by_position(numbers, kFloat, problem.numbers) && fill_rate(rate);
  }

 private:
  // Finds a vector of which each leaf has the entry at its position.
  bool fill_by_position(nb::handle vector, uint8_t code, uintptr_t& found) {
    if (vector.is_none()) return true;
    DLTensor entries;
    if (!read(torch(), vector.ptr(), entries) || !is_vector(entries, code, 1)) return false;
    if (problem.positions.empty()) {
      problem.positions.resize(leaves.size());
      std::iota(problem.positions.begin(), problem.positions.end(), 0);
    }
    const auto [least, most] =
        std::minmax_element(problem.positions.begin(), problem.positions.end());
    if (problem.positions.size() != leaves.size() || *least < 0 || *most >= entries.shape[0])
      return false;
    found = address(entries);
    return true;
  }

  bool fill_rate(nb::handle rate) {
    if (rate.is_none()) return true;
    if (!read(torch(), rate.ptr(), lr)) return false;
    const bool scalar = is_vector(lr, kFloat, 0);
    if (!scalar && !(is_vector(lr, kFloat, 1) && lr.shape[0] == int64_t(leaves.size())))
      return false;
    problem.lr = address(lr);
    problem.lr_stride = scalar ? 0 : 1;
    return true;
  }
};

void run(const Problem& problem, int threads) {
  check(problem);
  nb::gil_scoped_release release;
  run_on_cpu(problem, threads);
}

// A tuple of results that is filled one by one.
class Results {
 public:
  explicit Results(size_t size) : tuple_(nb::steal<nb::tuple>(PyTuple_New(Py_ssize_t(size)))) {
    if (!tuple_.ptr()) throw nb::python_error();
  }

  // Takes over the reference.
  void add(PyObject* object) { PyTuple_SetItem(tuple_.ptr(), next_++, object); }

  nb::tuple get() && { return std::move(tuple_); }

 private:
  nb::tuple tuple_;
  Py_ssize_t next_ = 0;
};

}  // namespace

bool takes(int roles, nb::tuple tensors) {
  const size_t count = roles > 0 ? tensors.size() / size_t(roles) : 0;
  Leaves leaves;
  if (!count || count * size_t(roles) != tensors.size() || !leaves.add(tensors, count))
    return false;
  std::vector<uintptr_t> unused;
  for (size_t begin = count; begin < tensors.size(); begin += count)
    if (!leaves.locate(tensors, begin, false, unused)) return false;
  return true;
}

nb::object forward_at_once(int rule, bool with_params, std::vector<double> hyper,
                           std::vector<int64_t> positions, nb::object steps, nb::object numbers,
                           nb::object lr, nb::tuple tensors, int threads) {
  Call call;
  call.problem.hyper = std::move(hyper);
  call.problem.positions = std::move(positions);
  if (!call.fill(rule, with_params, steps, numbers, lr, tensors, false)) return nb::none();
  Problem& problem = call.problem;
  const size_t count = call.leaves.size();
  Results results(problem.outputs.size() * count);
  for (auto& role : problem.outputs)
    for (size_t leaf = 0; leaf < count; ++leaf) {
      PyObject* object;
      role.push_back(call.leaves.make(leaf, object));
      results.add(object);
    }
  run(problem, threads);
  return std::move(results).get();
}

nb::object backward_at_once(int rule, bool with_params, std::vector<double> hyper,
                            std::vector<int64_t> positions, nb::object steps, nb::object numbers,
                            nb::object lr, nb::tuple cotangents, nb::tuple tensors,
                            nb::tuple wanted, bool lr_wanted, int threads) {
  Call call;
  call.problem.hyper = std::move(hyper);
  call.problem.positions = std::move(positions);
  if (!call.fill(rule, with_params, steps, numbers, lr, tensors, true)) return nb::none();
  Problem& problem = call.problem;
  const size_t count = call.leaves.size(), states = problem.outputs.size() - 2;
  if (cotangents.size() != (1 + states) * count || wanted.size() != tensors.size() ||
      (lr_wanted && lr.is_none()))
    return nb::none();
  for (size_t role = 0; role <= states; ++role)
    if (!call.leaves.locate(cotangents, role * count, true, problem.inputs[role]))
      return nb::none();
  Results results(1 + tensors.size());
  PyObject* lr_grad = Py_None;
  if (lr_wanted)
    problem.lr_grad = call.leaves.make_like(call.lr, lr_grad);
  else
    Py_INCREF(lr_grad);
  results.add(lr_grad);
  for (size_t role = 0, begin = 0; role < problem.outputs.size(); ++role) {
    if (role == 1 && !with_params) continue;
    std::vector<uintptr_t> outputs(count);
    for (size_t leaf = 0; leaf < count; ++leaf) {
      PyObject* object = Py_None;
      if (nb::handle(wanted[begin + leaf]).is(Py_True))
        outputs[leaf] = call.leaves.make(leaf, object);
      else
        Py_INCREF(object);
      results.add(object);
    }
    if (std::any_of(outputs.begin(), outputs.end(), [](uintptr_t x) { return x != 0; }))
      problem.outputs[role] = std::move(outputs);
    begin += count;
  }
  run(problem, threads);
  return std::move(results).get();
}

}  // namespace torchopt
