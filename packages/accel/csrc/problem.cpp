#include "problem.h"

#include <stdexcept>

namespace torchopt {

void check(const Problem& problem) {
  if (problem.rule < 0 || problem.rule >= int(rules().size()))
    throw std::invalid_argument("no such rule");
  if (problem.dtype < 0 || problem.dtype >= kDtypes) throw std::invalid_argument("no such dtype");
  const RuleInfo& rule = rules()[problem.rule];
  if (problem.inputs.size() != size_t(input_roles(problem.backward, rule.states)) ||
      problem.outputs.size() != size_t(output_roles(problem.backward, rule.states)))
    throw std::invalid_argument("wrong number of roles");
  if (problem.hyper.size() != rule.hyper.size())
    throw std::invalid_argument("wrong number of hyperparameters");
  const size_t count = problem.sizes.size();
  for (const auto* roles : {&problem.inputs, &problem.outputs})
    for (const auto& pointers : *roles)
      if (!pointers.empty() && pointers.size() != count)
        throw std::invalid_argument("wrong number of pointers");
  if ((problem.steps || problem.numbers) && problem.positions.size() != count)
    throw std::invalid_argument("wrong number of positions");
  if (problem.apply && (problem.backward || problem.inputs[1].empty()))
    throw std::invalid_argument("only a forward step with params can be applied");
}

}  // namespace torchopt
