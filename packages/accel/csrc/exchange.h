// The addresses of tensors, through the table of functions that torch offers since 2.10: DLPack's
// exchange API (https://dmlc.github.io/dlpack). It costs one call for all tensors of a step.
#pragma once

#include <nanobind/nanobind.h>

namespace torchopt {

// Returns one list of addresses per role, 0 for None, and whether all tensors are contiguous.
// Returns None unless all tensors of the roles are of the type or a subtype and agree in dtype and
// device, and, with the tensor of the first role in their place, in shape and in strides that fill
// a range of memory. The first role has no None. An empty role stays empty. Returns None also if
// the type has no table that is known here.
nanobind::object addresses(nanobind::type_object type, nanobind::list roles);

}  // namespace torchopt
