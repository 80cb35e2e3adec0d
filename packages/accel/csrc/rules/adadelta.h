#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// States nu, delta.
template <class T>
struct Adadelta {
  static constexpr int kStates = 2;
  TORCHOPT_HYPERPARAMETERS(rho, eps);
  Ema<T> mean;
  SafeRoot<T> root;

  TORCHOPT_FN Adadelta(const Hyper& hyper, int64_t) : mean(hyper.rho), root(hyper.eps) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    t[0] = mean.of_square(s[0], g);
    d = root.value(s[1]) / root.value(t[0]) * g;
    t[1] = mean.of_square(s[1], d);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T nu = mean.of_square(s[0], g);
    T scale = root.value(s[1]);
    T deviation = root.value(nu);
    T reciprocal = T(1) / deviation;
    T ratio = scale * reciprocal;
    d = ratio * g;
    T total = dd + T(2) * mean.weight * d * dt[1];
    T dnu = dt[0] - total * d * reciprocal * root.derivative(nu, deviation);
    dg = total * ratio + T(2) * mean.weight * g * dnu;
    ds[0] = mean.decay * dnu;
    ds[1] = mean.decay * dt[1] + total * g * reciprocal * root.derivative(s[1], scale);
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
