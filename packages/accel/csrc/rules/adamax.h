#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// States mu, norm.
template <class T>
struct Adamax {
  static constexpr int kStates = 2;
  TORCHOPT_HYPERPARAMETERS(beta1, beta2, eps);
  Ema<T> first;
  T beta2, eps, inverse;

  TORCHOPT_FN Adamax(const Hyper& hyper, int64_t step)
      : first(hyper.beta1),
        beta2(T(hyper.beta2)),
        eps(T(hyper.eps)),
        inverse(T(1 / one_minus_power(hyper.beta1, step))) {}

  // NaN wins, as in torch.maximum.
  TORCHOPT_FN static T maximum(T a, T b) { return a > b || a != a ? a : b; }
  // Ties share the cotangent.
  TORCHOPT_FN static T share(T mine, T other) {
    return mine == other ? T(0.5) : mine < other ? T(0) : T(1);
  }

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    t[0] = first(s[0], g);
    t[1] = maximum(s[1] * beta2, magnitude(g) + eps);
    d = t[0] * inverse / t[1];
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T mu = first(s[0], g);
    T decayed = s[1] * beta2;
    T size = magnitude(g) + eps;
    T reciprocal = T(1) / maximum(decayed, size);
    d = mu * inverse * reciprocal;
    T dmu = dt[0] + dd * reciprocal * inverse;
    T dnorm = dt[1] - dd * d * reciprocal;
    dg = first.weight * dmu + share(size, decayed) * sign_of(g) * dnorm;
    ds[0] = first.decay * dmu;
    ds[1] = share(decayed, size) * beta2 * dnorm;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
