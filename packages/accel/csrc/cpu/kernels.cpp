// The loops over one chunk; compiled once for every instruction set.
#include "../work.h"
#include "chunk.h"

namespace torchopt {
namespace TORCHOPT_ISA {
namespace {

template <template <class> class Rule, class Work, bool with_lr>
double run(const Chunk& chunk) {
  using T = typename Work::T;
  using M = typename Work::M;
  constexpr int I = Work::kInputs, O = Work::kOutputs;
  const Step<Rule, T> step(chunk.hyper, chunk.step, chunk.lr, chunk.apply);
  const M* in[I];
  M* out[O];
  for (int r = 0; r < I; ++r) in[r] = static_cast<const M*>(chunk.inputs[r]);
  for (int r = 0; r < O; ++r) out[r] = static_cast<M*>(chunk.outputs[r]);
  // Summed in a loop of its own: a reduction in the big one would keep it from vectorising.
  T scale_grad[with_lr ? kChunk : 1];
#pragma GCC ivdep
  for (int64_t i = 0; i < chunk.size; ++i) {
    M x[I], y[O];
    for (int r = 0; r < I; ++r) x[r] = in[r][i];
    T dscale = Work::run(step, x, y);
    if (with_lr) scale_grad[i] = dscale;
    for (int r = 0; r < O; ++r) out[r][i] = y[r];
  }
  if (!with_lr) return 0;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < chunk.size; ++i) sum += scale_grad[i];
  return -double(sum);
}

template <template <class> class Rule>
RuleKernels kernels(const char* name) {
  return {name,
          Rule<float>::kStates,
          {run<Rule, Forward<Rule, Float32>, false>, run<Rule, Forward<Rule, Float64>, false>,
           run<Rule, Forward<Rule, BFloat16>, false>, run<Rule, Forward<Rule, Float16>, false>},
          {run<Rule, Backward<Rule, Float32>, false>, run<Rule, Backward<Rule, Float64>, false>,
           run<Rule, Backward<Rule, BFloat16>, false>, run<Rule, Backward<Rule, Float16>, false>},
          {run<Rule, Backward<Rule, Float32>, true>, run<Rule, Backward<Rule, Float64>, true>,
           run<Rule, Backward<Rule, BFloat16>, true>, run<Rule, Backward<Rule, Float16>, true>}};
}

}  // namespace

KernelTable table() {
#define TORCHOPT_RULE(name, Rule) kernels<Rule>(#name),
  static const RuleKernels all[] = {
#include "../rules.def"
  };
#undef TORCHOPT_RULE
  return {all, int(sizeof(all) / sizeof(all[0]))};
}

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
