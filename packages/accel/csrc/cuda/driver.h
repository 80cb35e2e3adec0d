#pragma once

#include "../problem.h"

namespace torchopt {

// Launches on a stream of the current device and does not wait. `scratch` holds
// cuda_scratch(sizes) doubles if the cotangent of the learning rate is wanted, else it is null.
// Throws std::runtime_error if a launch fails.
void run_on_cuda(const Problem& problem, uintptr_t stream, uintptr_t scratch);

int64_t cuda_scratch(const std::vector<int64_t>& sizes);

}  // namespace torchopt
