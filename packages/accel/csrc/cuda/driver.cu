// Chooses the kernel for a problem, and the device that it runs on.
#include "driver.h"

#include "launch.cuh"

namespace torchopt {
namespace {

// Makes a device current in this library's CUDA runtime, which need not be torch's copy.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    require(cudaGetDevice(&before_), "device");
    changed_ = before_ != device;
    if (changed_) require(cudaSetDevice(device), "device");
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

using Launch = void (*)(const Problem&, cudaStream_t, double*);

template <template <class> class Rule, class Storage>
void launch_direction(const Problem& problem, cudaStream_t stream, double* partials) {
  if (problem.backward)
    launch_steps<Rule, Backward<Rule, Storage>>(problem, stream, partials);
  else
    launch_steps<Rule, Forward<Rule, Storage>>(problem, stream, partials);
}

template <template <class> class Rule>
void launch_dtype(const Problem& problem, cudaStream_t stream, double* partials) {
  static const Launch by_dtype[kDtypes] = {
      launch_direction<Rule, Float32>, launch_direction<Rule, Float64>,
      launch_direction<Rule, BFloat16>, launch_direction<Rule, Float16>};
  by_dtype[problem.dtype](problem, stream, partials);
}

}  // namespace

std::string cuda_obstacle(int device) {
  try {
    const OnDevice guard(device);
    // Makes the runtime load or compile the code for the device, or say why it cannot.
    cudaFuncAttributes attributes;
    require(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(gather<1>)),
            "kernels");
    return "";
  } catch (const std::runtime_error& error) {
    // Clears the error, which the next launch would report otherwise.
    cudaGetLastError();
    return error.what();
  }
}

int64_t cuda_scratch(const std::vector<int64_t>& sizes) {
  int64_t total = 0;
  for (int64_t size : sizes) total += chunks(size);
  return total;
}

void run_on_cuda(const Problem& problem, int device, uintptr_t stream, uintptr_t scratch) {
  const OnDevice guard(device);
#define TORCHOPT_RULE(name, Rule) launch_dtype<Rule>,
  static const Launch by_rule[] = {
#include "../rules.def"
  };
#undef TORCHOPT_RULE
  auto* const on = reinterpret_cast<cudaStream_t>(stream);
  auto* const partials = problem.lr_grad ? reinterpret_cast<double*>(scratch) : nullptr;
  by_rule[problem.rule](problem, on, partials);
  if (partials) gather_lr_grads(problem, on, partials);
}

}  // namespace torchopt
