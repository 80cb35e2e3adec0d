// A differentiable step on the CPU in one call per direction: it reads the tensors, makes tensors
// for the results and runs the kernel.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

namespace torchopt {

// Tells whether the calls below take a flat list of this many roles: tensors of one of the types,
// not of a subtype; on the CPU, of one dtype that the kernels have, without torch's bit for
// negation; dense, and for each leaf of one shape and with the same strides. Torch must have its
// table.
bool takes(int roles, nanobind::tuple tensors);

// Returns updates and states, role after role. Returns None unless it takes the tensors, and the
// others fit them: int64 counts in `steps` and doubles in `numbers`, of which leaf i has those at
// positions[i], or at i if positions are empty; and doubles in `lr`, which has one entry per leaf
// or is a scalar. Each of the three may be None.
nanobind::object forward_at_once(int rule, bool with_params, std::vector<double> hyper,
                                 std::vector<int64_t> positions, nanobind::object steps,
                                 nanobind::object numbers, nanobind::object lr,
                                 nanobind::tuple tensors, int threads);

// Returns the cotangent of lr, then the cotangents of the tensors; None for each that is not
// wanted. Returns None under the same conditions, which hold for the cotangents of the results,
// too; None among these counts as zeros.
nanobind::object backward_at_once(int rule, bool with_params, std::vector<double> hyper,
                                  std::vector<int64_t> positions, nanobind::object steps,
                                  nanobind::object numbers, nanobind::object lr,
                                  nanobind::tuple cotangents, nanobind::tuple tensors,
                                  nanobind::tuple wanted, bool lr_wanted, int threads);

}  // namespace torchopt
