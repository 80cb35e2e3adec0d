#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// States mu, nu.
template <class T>
struct Radam {
  static constexpr int kStates = 2;
  TORCHOPT_HYPERPARAMETERS(beta1, beta2, eps, eps_root);
  Ema<T> first, second;
  T eps;
  SafeRoot<T> root;
  T inverse, adaptive, plain;

  TORCHOPT_FN Radam(const Hyper& hyper, int64_t step)
      : first(hyper.beta1),
        second(hyper.beta2),
        eps(T(hyper.eps)),
        root(hyper.eps_root),
        inverse(T(1 / one_minus_power(hyper.beta1, step))),
        adaptive(0),
        plain(1) {
    double correction = one_minus_power(hyper.beta2, step);
    double rho_inf = 2 / (1 - hyper.beta2) - 1;
    double rho = rho_inf - 2 * double(step) * (1 - correction) / correction;
    if (rho > 5) {
      double squared = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho);
      adaptive = T(sqrt(squared * correction));
      plain = T(0);
    }
  }

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    t[0] = first(s[0], g);
    t[1] = second.of_square(s[1], g);
    d = t[0] * inverse * (adaptive / (root.value(t[1]) + eps) + plain);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T mean = first(s[0], g) * inverse;
    T nu = second.of_square(s[1], g);
    T deviation = root.value(nu);
    T reciprocal = T(1) / (deviation + eps);
    T ratio = adaptive * reciprocal;
    d = mean * (ratio + plain);
    T dmu = dt[0] + dd * (ratio + plain) * inverse;
    T dnu = dt[1] - dd * mean * ratio * reciprocal * root.derivative(nu, deviation);
    dg = first.weight * dmu + T(2) * second.weight * g * dnu;
    ds[0] = first.decay * dmu;
    ds[1] = second.decay * dnu;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
