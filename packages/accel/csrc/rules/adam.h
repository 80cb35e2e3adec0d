#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// States mu, nu.
template <class T>
struct Adam {
  static constexpr int kStates = 2;
  TORCHOPT_HYPERPARAMETERS(beta1, beta2, eps, eps_root);
  Ema<T> first, second;
  T eps;
  SafeRoot<T> root;
  T inverse1, inverse2;

  TORCHOPT_FN Adam(const Hyper& hyper, int64_t step)
      : first(hyper.beta1),
        second(hyper.beta2),
        eps(T(hyper.eps)),
        root(hyper.eps_root),
        inverse1(T(1 / one_minus_power(hyper.beta1, step))),
        inverse2(T(1 / one_minus_power(hyper.beta2, step))) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    t[0] = first(s[0], g);
    t[1] = second.of_square(s[1], g);
    d = t[0] * inverse1 / (root.value(t[1] * inverse2) + eps);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T mu = first(s[0], g);
    T variance = second.of_square(s[1], g) * inverse2;
    T deviation = root.value(variance);
    T reciprocal = T(1) / (deviation + eps);
    d = mu * inverse1 * reciprocal;
    T dmu = dt[0] + dd * reciprocal * inverse1;
    T dnu = dt[1] - dd * d * reciprocal * root.derivative(variance, deviation) * inverse2;
    dg = first.weight * dmu + T(2) * second.weight * g * dnu;
    ds[0] = first.decay * dmu;
    ds[1] = second.decay * dnu;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
