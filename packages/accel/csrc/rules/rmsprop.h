#pragma once

#include "../hyper.h"
#include "../momentum.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// State nu.
template <class T>
struct Rmsprop {
  static constexpr int kStates = 1;
  TORCHOPT_HYPERPARAMETERS(alpha, eps);
  Ema<T> mean;
  T eps;
  SafeRoot<T> root;

  // Also takes the hyperparameters of the same rule with momentum.
  template <class Named>
  TORCHOPT_FN Rmsprop(const Named& hyper, int64_t)
      : mean(hyper.alpha), eps(T(hyper.eps)), root(0) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    t[0] = mean.of_square(s[0], g);
    d = g / (root.value(t[0]) + eps);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T nu = mean.of_square(s[0], g);
    T deviation = root.value(nu);
    T reciprocal = T(1) / (deviation + eps);
    d = g * reciprocal;
    T dnu = dt[0] - dd * d * reciprocal * root.derivative(nu, deviation);
    dg = dd * reciprocal + T(2) * mean.weight * g * dnu;
    ds[0] = mean.decay * dnu;
  }
};

// States mu, nu.
template <class T>
struct CenteredRmsprop {
  static constexpr int kStates = 2;
  TORCHOPT_HYPERPARAMETERS(alpha, eps);
  Ema<T> mean;
  T eps;
  SafeRoot<T> root;

  template <class Named>
  TORCHOPT_FN CenteredRmsprop(const Named& hyper, int64_t)
      : mean(hyper.alpha), eps(T(hyper.eps)), root(0) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    t[0] = mean(s[0], g);
    t[1] = mean.of_square(s[1], g);
    d = g / (root.value(t[1] - t[0] * t[0]) + eps);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T mu = mean(s[0], g);
    T variance = mean.of_square(s[1], g) - mu * mu;
    T deviation = root.value(variance);
    T reciprocal = T(1) / (deviation + eps);
    d = g * reciprocal;
    T dvariance = -dd * d * reciprocal * root.derivative(variance, deviation);
    T dmu = dt[0] - T(2) * mu * dvariance;
    T dnu = dt[1] + dvariance;
    dg = dd * reciprocal + mean.weight * dmu + T(2) * mean.weight * g * dnu;
    ds[0] = mean.decay * dmu;
    ds[1] = mean.decay * dnu;
  }
};

// Scaling, then momentum. States are the states of Scaling, then trace.
template <template <class> class Scaling, class T>
struct WithMomentum {
  static constexpr int kScaling = Scaling<T>::kStates;
  static constexpr int kStates = kScaling + 1;
  TORCHOPT_HYPERPARAMETERS(alpha, eps, momentum, dampening, nesterov);
  Scaling<T> scaling;
  Momentum<T> momentum;

  TORCHOPT_FN WithMomentum(const Hyper& hyper, int64_t step)
      : scaling(hyper, step), momentum(hyper, step) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    T scaled;
    scaling.forward(g, s, scaled, t);
    momentum.forward(scaled, s[kScaling], d, t[kScaling]);
  }

  TORCHOPT_FN void vjp(T g, const T* s, T dd, const T* dt, T& d, T& dg, T* ds) const {
    T scaled, next, dscaled;
    momentum.vjp(dd, dt[kScaling], dscaled, ds[kScaling]);
    scaling.vjp(g, s, dscaled, dt, scaled, dg, ds);
    momentum.forward(scaled, s[kScaling], d, next);
  }
};

template <class T>
struct MomentumRmsprop : WithMomentum<Rmsprop, T> {
  using WithMomentum<Rmsprop, T>::WithMomentum;
};

template <class T>
struct CenteredMomentumRmsprop : WithMomentum<CenteredRmsprop, T> {
  using WithMomentum<CenteredRmsprop, T>::WithMomentum;
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
