// The loops over one chunk; compiled once for every instruction set.
#include "../step.h"
#include "chunk.h"

namespace torchopt {
namespace TORCHOPT_ISA {
namespace {

template <template <class> class Rule, class Storage>
double forward(const Chunk& chunk) {
  using T = typename Storage::Compute;
  using M = typename Storage::Memory;
  using Kernel = Step<Rule, T>;
  constexpr int K = Kernel::kStates, slots = Kernel::kSlots;
  const Kernel step(chunk.hyper, chunk.step, chunk.lr);
  const M* grad = static_cast<const M*>(chunk.inputs[0]);
  const M* param = static_cast<const M*>(chunk.inputs[1]);
  const M* state[slots];
  M* next[slots];
  M* update = static_cast<M*>(chunk.outputs[0]);
  for (int k = 0; k < K; ++k) {
    state[k] = static_cast<const M*>(chunk.inputs[2 + k]);
    next[k] = static_cast<M*>(chunk.outputs[1 + k]);
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < chunk.size; ++i) {
    T s[slots], t[slots];
    for (int k = 0; k < K; ++k) s[k] = Storage::load(state[k][i]);
    update[i] = Storage::store(step.forward(Storage::load(grad[i]), Storage::load(param[i]), s, t));
    for (int k = 0; k < K; ++k) next[k][i] = Storage::store(t[k]);
  }
  return 0;
}

template <template <class> class Rule, class Storage, bool with_lr>
double backward(const Chunk& chunk) {
  using T = typename Storage::Compute;
  using M = typename Storage::Memory;
  using Kernel = Step<Rule, T>;
  constexpr int K = Kernel::kStates, slots = Kernel::kSlots;
  const Kernel step(chunk.hyper, chunk.step, chunk.lr);
  const M* update_grad = static_cast<const M*>(chunk.inputs[0]);
  const M* grad = static_cast<const M*>(chunk.inputs[K + 1]);
  const M* param = static_cast<const M*>(chunk.inputs[K + 2]);
  M* grad_grad = static_cast<M*>(chunk.outputs[0]);
  M* param_grad = static_cast<M*>(chunk.outputs[1]);
  const M* next_grad[slots];
  const M* state[slots];
  M* state_grad[slots];
  for (int k = 0; k < K; ++k) {
    next_grad[k] = static_cast<const M*>(chunk.inputs[1 + k]);
    state[k] = static_cast<const M*>(chunk.inputs[K + 3 + k]);
    state_grad[k] = static_cast<M*>(chunk.outputs[2 + k]);
  }
  // Summed in a loop of its own: a reduction in the big one would keep it from vectorising.
  T scale_grad[with_lr ? kChunk : 1];
#pragma GCC ivdep
  for (int64_t i = 0; i < chunk.size; ++i) {
    T s[slots], dt[slots], ds[slots], dg, dp;
    for (int k = 0; k < K; ++k) s[k] = Storage::load(state[k][i]);
    for (int k = 0; k < K; ++k) dt[k] = Storage::load(next_grad[k][i]);
    T dscale = step.vjp(Storage::load(grad[i]), Storage::load(param[i]), s,
                        Storage::load(update_grad[i]), dt, dg, dp, ds);
    if (with_lr) scale_grad[i] = dscale;
    grad_grad[i] = Storage::store(dg);
    param_grad[i] = Storage::store(dp);
    for (int k = 0; k < K; ++k) state_grad[k][i] = Storage::store(ds[k]);
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
          {forward<Rule, Float32>, forward<Rule, Float64>, forward<Rule, BFloat16>,
           forward<Rule, Float16>},
          {backward<Rule, Float32, false>, backward<Rule, Float64, false>,
           backward<Rule, BFloat16, false>, backward<Rule, Float16, false>},
          {backward<Rule, Float32, true>, backward<Rule, Float64, true>,
           backward<Rule, BFloat16, true>, backward<Rule, Float16, true>}};
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
