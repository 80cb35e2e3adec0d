#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// States mu, delta, nu, grad.
template <class T>
struct Adan {
  static constexpr int kStates = 4;
  TORCHOPT_HYPERPARAMETERS(beta1, beta2, beta3, eps, eps_root);
  Ema<T> first, second, third;
  T ahead, eps;
  SafeRoot<T> root;
  T inverse1, ahead2, inverse3;
  T later;  // 0 at the first step, which has no last gradient

  TORCHOPT_FN Adan(const Hyper& hyper, int64_t step)
      : first(hyper.beta1),
        second(hyper.beta2),
        third(hyper.beta3),
        ahead(T(hyper.beta2)),
        eps(T(hyper.eps)),
        root(hyper.eps_root),
        inverse1(T(1 / one_minus_power(hyper.beta1, step))),
        ahead2(T(hyper.beta2 / one_minus_power(hyper.beta2, step))),
        inverse3(T(1 / one_minus_power(hyper.beta3, step))),
        later(T(step > 1 ? 1 : 0)) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    T difference = later * (g - s[3]);
    t[0] = first(s[0], g);
    t[1] = second(s[1], difference);
    t[2] = third.of_square(s[2], g + ahead * difference);
    t[3] = g;
    d = (t[0] * inverse1 + t[1] * ahead2) / (root.value(t[2] * inverse3) + eps);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T difference = later * (g - s[3]);
    T next = g + ahead * difference;
    T variance = third.of_square(s[2], next) * inverse3;
    T deviation = root.value(variance);
    T reciprocal = T(1) / (deviation + eps);
    d = (first(s[0], g) * inverse1 + second(s[1], difference) * ahead2) * reciprocal;
    T dmu = dt[0] + dd * reciprocal * inverse1;
    T ddelta = dt[1] + dd * reciprocal * ahead2;
    T dnu = dt[2] - dd * d * reciprocal * root.derivative(variance, deviation) * inverse3;
    T dnext = T(2) * third.weight * next * dnu;
    T ddifference = later * (second.weight * ddelta + ahead * dnext);
    dg = first.weight * dmu + dnext + ddifference + dt[3];
    ds[0] = first.decay * dmu;
    ds[1] = second.decay * ddelta;
    ds[2] = third.decay * dnu;
    ds[3] = -ddifference;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
