#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "cpu/dlpack.h"
#include "cpu/driver.h"
#include "cpu/pool.h"
#ifdef TORCHOPT_WITH_CUDA
#include "cuda/driver.h"
#endif
#include "problem.h"

namespace nb = nanobind;

namespace {

using torchopt::Problem;
using Pointers = std::vector<std::vector<uintptr_t>>;

// Python has compared the tensors; these checks keep a mistake there from reading wild memory.
void check(const Problem& problem) {
  if (problem.rule < 0 || problem.rule >= int(torchopt::rules().size()))
    throw std::invalid_argument("no such rule");
  if (problem.dtype < 0 || problem.dtype >= torchopt::kDtypes)
    throw std::invalid_argument("no such dtype");
  const size_t states = size_t(torchopt::rules()[problem.rule].states);
  const size_t inputs = problem.backward ? 2 * states + 3 : states + 2;
  const size_t outputs = problem.backward ? states + 2 : states + 1;
  if (problem.inputs.size() != inputs || problem.outputs.size() != outputs)
    throw std::invalid_argument("wrong number of roles");
  const size_t count = problem.sizes.size();
  for (const auto* roles : {&problem.inputs, &problem.outputs})
    for (const auto& pointers : *roles)
      if (!pointers.empty() && pointers.size() != count)
        throw std::invalid_argument("wrong number of pointers");
  if (problem.steps && problem.positions.size() != count)
    throw std::invalid_argument("wrong number of positions");
  if (problem.apply && (problem.backward || problem.inputs[1].empty()))
    throw std::invalid_argument("only a forward step with params can be applied");
  if (problem.hyper.size() > torchopt::kHyper) throw std::invalid_argument("too many numbers");
}

// Numbers that a rule has not got count as 0.
void make_problem(Problem* self, int rule, int dtype, bool backward, bool apply,
                  std::vector<int64_t> sizes, Pointers inputs, Pointers outputs,
                  std::vector<double> hyper, uintptr_t steps, std::vector<int64_t> positions,
                  double lr_value, uintptr_t lr, int64_t lr_stride, uintptr_t lr_grad) {
  Problem made{rule,
               torchopt::Dtype(dtype),
               backward,
               apply,
               std::move(sizes),
               std::move(inputs),
               std::move(outputs),
               std::move(hyper),
               reinterpret_cast<const int64_t*>(steps),
               std::move(positions),
               lr_value,
               reinterpret_cast<const double*>(lr),
               lr_stride,
               reinterpret_cast<double*>(lr_grad)};
  check(made);
  made.hyper.resize(torchopt::kHyper);
  new (self) Problem(std::move(made));
}

constexpr const char* kCapsule = "dltensor";

// Whoever takes the tensor renames the capsule; if none did, its memory goes back.
void discard(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, kCapsule)) return;
  auto* made = static_cast<torchopt::DLManagedTensor*>(PyCapsule_GetPointer(capsule, kCapsule));
  made->deleter(made);
}

// New tensors, as capsules and as pointers.
nb::tuple allocate(int dtype, const std::vector<std::vector<int64_t>>& shapes) {
  if (dtype < 0 || dtype >= torchopt::kDtypes) throw std::invalid_argument("no such dtype");
  nb::list capsules, pointers;
  for (const auto& shape : shapes) {
    torchopt::DLManagedTensor* made = torchopt::make_tensor(torchopt::Dtype(dtype), shape);
    PyObject* capsule = PyCapsule_New(made, kCapsule, discard);
    if (!capsule) {
      made->deleter(made);
      throw nb::python_error();
    }
    capsules.append(nb::steal(capsule));
    pointers.append(reinterpret_cast<uintptr_t>(made->tensor.data));
  }
  return nb::make_tuple(capsules, pointers);
}

// Whether any two tensors share memory, given where they start and the bytes that they take.
bool overlap(const std::vector<uintptr_t>& starts, const std::vector<int64_t>& bytes) {
  if (starts.size() != bytes.size())
    throw std::invalid_argument("starts and bytes differ in length");
  std::vector<std::pair<uintptr_t, int64_t>> ranges;
  for (size_t i = 0; i < starts.size(); ++i)
    if (bytes[i] > 0) ranges.emplace_back(starts[i], bytes[i]);
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i - 1].first + uintptr_t(ranges[i - 1].second) > ranges[i].first) return true;
  return false;
}

}  // namespace

NB_MODULE(_C, m) {
  nb::class_<Problem>(m, "Problem")
      .def("__init__", &make_problem, nb::arg("rule"), nb::arg("dtype"), nb::arg("backward"),
           nb::arg("apply"), nb::arg("sizes"), nb::arg("inputs"), nb::arg("outputs"),
           nb::arg("hyper"), nb::arg("steps"), nb::arg("positions"), nb::arg("lr_value"),
           nb::arg("lr"), nb::arg("lr_stride"), nb::arg("lr_grad"));
  m.def("run_on_cpu", &torchopt::run_on_cpu, nb::arg("problem"), nb::arg("threads"),
        nb::call_guard<nb::gil_scoped_release>());
  m.def("allocate", &allocate, nb::arg("dtype"), nb::arg("shapes"));
  m.def("waiting_bytes", &torchopt::waiting_bytes);
  m.def("overlap", &overlap, nb::arg("starts"), nb::arg("bytes"));
  m.def("supported_isas", &torchopt::supported_isas);
  m.def("current_isa", &torchopt::current_isa);
  m.def("use_isa", &torchopt::use_isa, nb::arg("name"));
  nb::list names;
  for (const auto& rule : torchopt::rules()) names.append(nb::make_tuple(rule.name, rule.states));
  m.attr("RULES") = nb::tuple(names);
#ifdef TORCHOPT_WITH_CUDA
  m.def("run_on_cuda", &torchopt::run_on_cuda, nb::arg("problem"), nb::arg("device"),
        nb::arg("stream"), nb::arg("scratch"), nb::call_guard<nb::gil_scoped_release>());
  m.def("cuda_scratch", &torchopt::cuda_scratch, nb::arg("sizes"));
  m.def("cuda_obstacle", &torchopt::cuda_obstacle, nb::arg("device"));
#endif
}
