#pragma once

#include <string>

#include "../problem.h"

namespace torchopt {

// Launches on a stream of the device and does not wait. `scratch` holds cuda_scratch(sizes) doubles
// if the cotangent of the learning rate is wanted, else it is null.
// Throws std::runtime_error if a launch fails.
void run_on_cuda(const Problem& problem, int device, uintptr_t stream, uintptr_t scratch);

// The number of doubles that run_on_cuda needs in addition to its tensors.
int64_t cuda_scratch(const std::vector<int64_t>& sizes);

// Says why no kernel runs on a device; empty if kernels run.
std::string cuda_obstacle(int device);

}  // namespace torchopt
