#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// State sum of squares.
template <class T>
struct Adagrad {
  static constexpr int kStates = 1;
  TORCHOPT_HYPERPARAMETERS(eps, lr_decay);
  SafeRoot<T> root;
  T eps, factor;

  TORCHOPT_FN Adagrad(const Hyper& hyper, int64_t step)
      : root(0), eps(T(hyper.eps)), factor(T(1 / (1 + (double(step) - 1) * hyper.lr_decay))) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    t[0] = s[0] + g * g;
    d = g / (root.value(t[0]) + eps) * factor;
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T total = s[0] + g * g;
    T deviation = root.value(total);
    T reciprocal = T(1) / (deviation + eps);
    d = g * reciprocal * factor;
    ds[0] = dt[0] - dd * d * reciprocal * root.derivative(total, deviation);
    dg = dd * reciprocal * factor + T(2) * g * ds[0];
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
