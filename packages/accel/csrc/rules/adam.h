#pragma once

#include "../numerics.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// States mu, nu; hyperparameters beta1, beta2, eps, eps_root.
template <class T>
struct Adam {
  static constexpr int kStates = 2;
  Ema<T> first, second;
  T eps;
  SafeRoot<T> root;
  T inverse1, inverse2;

  TORCHOPT_FN Adam(const double* hyper, int64_t step)
      : first(hyper[0]),
        second(hyper[1]),
        eps(T(hyper[2])),
        root(hyper[3]),
        inverse1(T(1 / (1 - pow(hyper[0], double(step))))),
        inverse2(T(1 / (1 - pow(hyper[1], double(step))))) {}

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
