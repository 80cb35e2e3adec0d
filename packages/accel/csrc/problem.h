// The interface between the bindings and the drivers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace torchopt {

enum Dtype { kFloat32, kFloat64, kBFloat16, kFloat16, kDtypes };

constexpr int64_t kItemSize[kDtypes] = {4, 8, 2, 2};

// The bounds of every rule. Step asserts them; the sizes of all fixed arrays follow from them.
constexpr int kMaxStates = 4;
constexpr int kMaxHyper = 12;

// The number of roles of a rule with this number of states. Problem lists the roles.
constexpr int input_roles(bool backward, int states) {
  return backward ? 2 * states + 3 : states + 2;
}
constexpr int output_roles(bool backward, int states) { return states + (backward ? 2 : 1); }

constexpr int kMaxInputs = input_roles(true, kMaxStates);
constexpr int kMaxOutputs = output_roles(true, kMaxStates);

// One step over a list of tensors. Pointers are indexed by role, then by tensor:
//   forward   grad, param, states...            ->  update, states...
//   backward  update, states... (cotangents), grad, param, states...  ->  grad, param, states...
// An absent input (null) counts as zeros; an absent output is not written. With `apply`, the
// forward direction writes param + update instead of the update.
struct Problem {
  int rule;
  int dtype;
  bool backward;
  bool apply;
  std::vector<int64_t> sizes;
  std::vector<std::vector<uintptr_t>> inputs;
  std::vector<std::vector<uintptr_t>> outputs;
  // The values of the hyperparameters, in the order of RuleInfo::hyper.
  std::vector<double> hyper;
  // Address of the int64 step counts; tensor i reads the count at positions[i]. Null for rules that
  // need none.
  uintptr_t steps;
  // Address of the doubles that a rule keeps one per tensor, as they are before the step; read at
  // the same positions. Null for rules that keep none.
  uintptr_t numbers;
  std::vector<int64_t> positions;
  // Address of the learning rates, doubles; tensor i reads entry i * lr_stride. If null, the
  // learning rate is a hyperparameter. lr_grad, if not null, receives their cotangent, laid out
  // the same way.
  uintptr_t lr;
  int64_t lr_stride;
  uintptr_t lr_grad;
};

struct RuleInfo {
  std::string name;
  int states;
  std::vector<std::string> hyper;
};

const std::vector<RuleInfo>& rules();

// Python has checked the tensors. This keeps a mistake there from reading invalid memory. Throws
// std::invalid_argument.
void check(const Problem& problem);

}  // namespace torchopt
