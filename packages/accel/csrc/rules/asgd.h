#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// State average, of the parameters. The number is the weight of the next ones. What core calls
// lambd and eta are the decoupled decay and the learning rate of the step.
template <class T>
struct Asgd {
  static constexpr int kStates = 1;
  TORCHOPT_NO_HYPERPARAMETERS;
  T weight;

  TORCHOPT_FN Asgd(const Hyper&, int64_t, double number) : weight(T(number)) {}

  TORCHOPT_FN void forward(T g, const T*, T& d, T*) const { d = g; }

  TORCHOPT_FN void vjp(T g, const T*, T dd, const T*, T& d, T& dg, T*) const {
    d = g;
    dg = dd;
  }

  TORCHOPT_FN void follow(T q, const T* s, T* t) const { t[0] = interpolate(s[0], q, weight); }

  TORCHOPT_FN void follow_vjp(const T* dt, T& dq, T* ds) const {
    dq = weight * dt[0];
    ds[0] = dt[0] - dq;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
