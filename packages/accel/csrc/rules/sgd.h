#pragma once

#include "../hyper.h"
#include "../momentum.h"

namespace torchopt {
namespace TORCHOPT_ISA {

template <class T>
struct Sgd {
  static constexpr int kStates = 0;
  TORCHOPT_NO_HYPERPARAMETERS;

  TORCHOPT_FN Sgd(const Hyper&, int64_t) {}

  TORCHOPT_FN void forward(T g, const T*, T& d, T*) const { d = g; }

  TORCHOPT_FN void vjp(T g, const T*, T dd, const T*, T& d, T& dg, T*) const {
    d = g;
    dg = dd;
  }
};

// State trace.
template <class T>
struct MomentumSgd {
  static constexpr int kStates = 1;
  TORCHOPT_HYPERPARAMETERS(momentum, dampening, nesterov);
  Momentum<T> momentum;

  TORCHOPT_FN MomentumSgd(const Hyper& hyper, int64_t step) : momentum(hyper, step) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    momentum.forward(g, s[0], d, t[0]);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T next;
    momentum.forward(g, s[0], d, next);
    momentum.vjp(dd, dt[0], dg, ds[0]);
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
