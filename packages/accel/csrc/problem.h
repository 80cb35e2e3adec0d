// What the bindings ask of the drivers.
#pragma once

#include <cstdint>
#include <vector>

namespace torchopt {

enum Dtype { kFloat32, kFloat64, kBFloat16, kFloat16, kDtypes };

// The most hyperparameters that a rule and what is around it read.
constexpr int kHyper = 8;

constexpr int64_t kItemSize[kDtypes] = {4, 8, 2, 2};

// One step over a list of tensors. Pointers are by role, then by tensor:
//   forward   grad, param, states...            ->  update, states...
//   backward  update, states... (cotangents), grad, param, states...  ->  grad, param, states...
// An absent input (null) counts as zeros, an absent output is not written. With `apply`, the
// forward direction writes param + update in the place of the update.
struct Problem {
  int rule;
  Dtype dtype;
  bool backward;
  bool apply;
  std::vector<int64_t> sizes;
  std::vector<std::vector<uintptr_t>> inputs;
  std::vector<std::vector<uintptr_t>> outputs;
  std::vector<double> hyper;
  // Step counts, of which tensor i has that at positions[i]; null for rules that need none.
  const int64_t* steps;
  std::vector<int64_t> positions;
  // The learning rate of tensor i: lr[i * lr_stride], or lr_value if lr is null. Its cotangent, if
  // lr_grad is not null, is laid out alike.
  double lr_value;
  const double* lr;
  int64_t lr_stride;
  double* lr_grad;
};

struct RuleInfo {
  const char* name;
  int states;
};

const std::vector<RuleInfo>& rules();

}  // namespace torchopt
