// What a kernel does for one element, in each direction. The CPU and GPU drivers have the loops.
#pragma once

#include "step.h"
#include "storage.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// Inputs grad, param, states; outputs update, states.
template <template <class> class Rule, class Storage>
struct Forward {
  using T = typename Storage::Compute;
  using M = typename Storage::Memory;
  static constexpr int K = Rule<T>::kStates;
  static constexpr int kInputs = input_roles(false, K), kOutputs = output_roles(false, K);

  TORCHOPT_FN static T run(const Step<Rule, T>& step, const M* in, M* out) {
    T s[slots(K)], t[slots(K)];
    for (int k = 0; k < K; ++k) s[k] = Storage::load(in[2 + k]);
    out[0] = Storage::store(step.forward(Storage::load(in[0]), Storage::load(in[1]), s, t));
    for (int k = 0; k < K; ++k) out[1 + k] = Storage::store(t[k]);
    return T(0);
  }
};

// Inputs cotangents of update and states, grad, param, states; outputs cotangents of grad, param,
// states. Returns the cotangent of -lr.
template <template <class> class Rule, class Storage>
struct Backward {
  using T = typename Storage::Compute;
  using M = typename Storage::Memory;
  static constexpr int K = Rule<T>::kStates;
  static constexpr int kInputs = input_roles(true, K), kOutputs = output_roles(true, K);

  TORCHOPT_FN static T run(const Step<Rule, T>& step, const M* in, M* out) {
    T s[slots(K)], dt[slots(K)], ds[slots(K)], dg, dp;
    for (int k = 0; k < K; ++k) dt[k] = Storage::load(in[1 + k]);
    for (int k = 0; k < K; ++k) s[k] = Storage::load(in[K + 3 + k]);
    T dscale = step.vjp(Storage::load(in[K + 1]), Storage::load(in[K + 2]), s, Storage::load(in[0]),
                        dt, dg, dp, ds);
    out[0] = Storage::store(dg);
    out[1] = Storage::store(dp);
    for (int k = 0; k < K; ++k) out[2 + k] = Storage::store(ds[k]);
    return dscale;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
