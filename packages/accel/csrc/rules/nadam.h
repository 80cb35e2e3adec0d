#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// States mu, nu. The number is the product of the momenta of all steps before.
template <class T>
struct Nadam {
  static constexpr int kStates = 2;
  TORCHOPT_HYPERPARAMETERS(beta1, beta2, eps, eps_root, momentum_decay);
  Ema<T> first, second;
  T eps;
  SafeRoot<T> root;
  T of_gradient, of_mu, inverse;

  TORCHOPT_FN Nadam(const Hyper& hyper, int64_t step, double number)
      : first(hyper.beta1),
        second(hyper.beta2),
        eps(T(hyper.eps)),
        root(hyper.eps_root),
        inverse(T(1 / one_minus_power(hyper.beta2, double(step)))) {
    const double now = momentum(hyper, double(step)), ahead = momentum(hyper, double(step + 1));
    const double product = number * now;
    of_gradient = T((1 - now) / (1 - product));
    of_mu = T(ahead / (1 - product * ahead));
  }

  // beta1 (1 - 0.96^(step decay) / 2)
  TORCHOPT_FN static double momentum(const Hyper& hyper, double step) {
    return hyper.beta1 * 0.5 * (1 + one_minus_power(0.96, step * hyper.momentum_decay));
  }

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    t[0] = first(s[0], g);
    t[1] = second.of_square(s[1], g);
    d = (of_gradient * g + of_mu * t[0]) / (root.value(t[1] * inverse) + eps);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T mu = first(s[0], g);
    T variance = second.of_square(s[1], g) * inverse;
    T deviation = root.value(variance);
    T reciprocal = T(1) / (deviation + eps);
    d = (of_gradient * g + of_mu * mu) * reciprocal;
    T dnumerator = dd * reciprocal;
    T dmu = dt[0] + of_mu * dnumerator;
    T dnu = dt[1] - dnumerator * d * root.derivative(variance, deviation) * inverse;
    dg = of_gradient * dnumerator + first.weight * dmu + T(2) * second.weight * g * dnu;
    ds[0] = first.decay * dmu;
    ds[1] = second.decay * dnu;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
