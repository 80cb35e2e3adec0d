#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// States grad, size.
template <class T>
struct Rprop {
  static constexpr int kStates = 2;
  TORCHOPT_HYPERPARAMETERS(smaller, larger, lowest, highest);
  T smaller, larger, lowest, highest;

  TORCHOPT_FN Rprop(const Hyper& hyper, int64_t)
      : smaller(T(hyper.smaller)),
        larger(T(hyper.larger)),
        lowest(T(hyper.lowest)),
        highest(T(hyper.highest)) {}

  // NaN agrees with nothing and contradicts nothing.
  TORCHOPT_FN T factor(T agreement) const {
    return agreement > T(0) ? larger : agreement < T(0) ? smaller : T(1);
  }
  // NaN stays, as in torch.clamp_min and torch.clamp_max.
  TORCHOPT_FN T at_least(T size) const { return size < lowest ? lowest : size; }
  TORCHOPT_FN T at_most(T size) const { return size > highest ? highest : size; }

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    T agreement = g * s[0];
    t[0] = agreement < T(0) ? T(0) : g;
    t[1] = at_most(at_least(s[1] * factor(agreement)));
    d = sign_of(t[0]) * t[1];
  }

  // The sign and the agreement have the derivative 0. A size on a bound passes its cotangent on.
  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T agreement = g * s[0];
    T scale = factor(agreement);
    T size = s[1] * scale;
    T raised = at_least(size);
    T sign = sign_of(agreement < T(0) ? T(0) : g);
    d = sign * at_most(raised);
    dg = agreement < T(0) ? T(0) : dt[0];
    ds[0] = T(0);
    ds[1] = size >= lowest && raised <= highest ? scale * (dt[1] + sign * dd) : T(0);
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
