#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "at_once.h"
#include "cpu/driver.h"
#include "cpu/pool.h"
#ifdef TORCHOPT_WITH_CUDA
#include "cuda/driver.h"
#endif
#include "dlpack.h"
#include "exchange.h"
#include "in_place.h"
#include "problem.h"
#include "tensors.h"

namespace nb = nanobind;

namespace {

using torchopt::Problem;
using Pointers = std::vector<std::vector<uintptr_t>>;

void run_on_cpu(const Problem& problem, int threads) {
  check(problem);
  nb::gil_scoped_release release;
  torchopt::run_on_cpu(problem, threads);
}

#ifdef TORCHOPT_WITH_CUDA
void run_on_cuda(const Problem& problem, int device, uintptr_t stream, uintptr_t scratch) {
  check(problem);
  nb::gil_scoped_release release;
  torchopt::run_on_cuda(problem, device, stream, scratch);
}
#endif

constexpr const char* kCapsule = "dltensor";

// The consumer of a tensor renames its capsule. An unconsumed capsule gives the memory back.
void discard(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, kCapsule)) return;
  auto* made = static_cast<torchopt::DLManagedTensor*>(PyCapsule_GetPointer(capsule, kCapsule));
  made->deleter(made);
}

using Sizes = std::vector<std::vector<int64_t>>;

// Returns new tensors, as capsules and as pointers. Without strides, one is contiguous.
nb::tuple allocate(int dtype, const Sizes& shapes, const Sizes& strides) {
  if (dtype < 0 || dtype >= torchopt::kDtypes) throw std::invalid_argument("no such dtype");
  if (!strides.empty() && strides.size() != shapes.size())
    throw std::invalid_argument("shapes and strides differ in length");
  const std::vector<int64_t> contiguous;
  nb::list capsules, pointers;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const auto& order = strides.empty() ? contiguous : strides[i];
    if (!order.empty() && order.size() != shapes[i].size())
      throw std::invalid_argument("a shape and its strides differ in length");
    torchopt::DLManagedTensor* made =
        torchopt::make_tensor(torchopt::Dtype(dtype), shapes[i], order);
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

// Tells whether any two tensors share memory, given their starts and their sizes in bytes.
bool overlap(const std::vector<uintptr_t>& starts, const std::vector<int64_t>& bytes) {
  if (starts.size() != bytes.size())
    throw std::invalid_argument("starts and bytes differ in length");
  std::vector<torchopt::Range> ranges;
  for (size_t i = 0; i < starts.size(); ++i)
    if (bytes[i] > 0) ranges.emplace_back(starts[i], starts[i] + uintptr_t(bytes[i]));
  return torchopt::overlap(ranges);
}

}  // namespace

NB_MODULE(_C, m) {
  // The fields, in the order of the struct.
  nb::class_<Problem>(m, "Problem")
      .def(nb::init<int, int, bool, bool, std::vector<int64_t>, Pointers, Pointers,
                    std::vector<double>, uintptr_t, uintptr_t, std::vector<int64_t>, uintptr_t,
                    int64_t, uintptr_t>());
  nb::class_<torchopt::InPlace, Problem>(m, "InPlace")
      .def(nb::init<int, int, bool, int, std::vector<double>, std::vector<int64_t>>(),
           nb::arg("rule"), nb::arg("dtype"), nb::arg("on_cpu"), nb::arg("device"),
           nb::arg("hyper"), nb::arg("positions"))
      .def_rw("hyper", &torchopt::InPlace::hyper)
      .def("read", &torchopt::InPlace::read, nb::arg("types"), nb::arg("roles"))
      .def("take", &torchopt::InPlace::take, nb::arg("steps"), nb::arg("numbers"), nb::arg("lr"),
           nb::arg("lr_stride"));
  m.def("run_on_cpu", &run_on_cpu, nb::arg("problem"), nb::arg("threads"));
  m.def("allocate", &allocate, nb::arg("dtype"), nb::arg("shapes"), nb::arg("strides") = Sizes{});
  m.def("waiting_bytes", &torchopt::waiting_bytes);
  m.def("release_waiting", &torchopt::release_waiting, nb::call_guard<nb::gil_scoped_release>());
  m.attr("MOST_WAITING") = torchopt::kMostWaiting;
  m.def("overlap", &overlap, nb::arg("starts"), nb::arg("bytes"));
  m.def("addresses", &torchopt::addresses, nb::arg("type"), nb::arg("roles"));
  m.def("takes", &torchopt::takes, nb::arg("roles"), nb::arg("tensors"));
  m.def("forward_at_once", &torchopt::forward_at_once, nb::arg("rule"), nb::arg("with_params"),
        nb::arg("hyper"), nb::arg("positions"), nb::arg("steps").none(), nb::arg("numbers").none(),
        nb::arg("lr").none(), nb::arg("tensors"), nb::arg("threads"));
  m.def("backward_at_once", &torchopt::backward_at_once, nb::arg("rule"), nb::arg("with_params"),
        nb::arg("hyper"), nb::arg("positions"), nb::arg("steps").none(), nb::arg("numbers").none(),
        nb::arg("lr").none(), nb::arg("cotangents"), nb::arg("tensors"), nb::arg("wanted"),
        nb::arg("lr_wanted"), nb::arg("threads"));
  m.def("supported_isas", &torchopt::supported_isas);
  m.def("current_isa", &torchopt::current_isa);
  m.def("use_isa", &torchopt::use_isa, nb::arg("name"));
  nb::list rules;
  for (const auto& rule : torchopt::rules())
    rules.append(nb::make_tuple(rule.name, rule.states, nb::tuple(nb::cast(rule.hyper))));
  m.attr("RULES") = nb::tuple(rules);
#ifdef TORCHOPT_WITH_CUDA
  m.def("run_on_cuda", &run_on_cuda, nb::arg("problem"), nb::arg("device"), nb::arg("stream"),
        nb::arg("scratch"));
  m.def("cuda_scratch", &torchopt::cuda_scratch, nb::arg("sizes"));
  m.def("cuda_obstacle", &torchopt::cuda_obstacle, nb::arg("device"));
#endif
}
