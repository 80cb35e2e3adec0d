// What every optimizer does around its rule: sign, weight decay, learning rate.
#pragma once

#include "rules.h"
#include "storage.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// The hyperparameters common to all rules, which precede a rule's own.
constexpr int kCommon = 3;

// update = -lr (d + decoupled p), where d is the rule's direction for sign g + coupled p.
template <template <class> class Rule, class T>
struct Step {
  static constexpr int kStates = Rule<T>::kStates;
  static constexpr int kSlots = slots(kStates);
  T sign, coupled, decoupled, scale;
  T applied;  // 0 or 1; a bool would keep the loop over elements from vectorising
  Rule<T> rule;

  TORCHOPT_FN Step(const double* hyper, int64_t step, double lr, bool apply)
      : sign(T(hyper[0])),
        coupled(T(hyper[1])),
        decoupled(T(hyper[2])),
        scale(T(-lr)),
        applied(T(apply ? 1 : 0)),
        rule(hyper + kCommon, step) {}

  // Returns the update or, to apply it, the new param.
  TORCHOPT_FN T forward(T g, T p, const T* s, T* t) const {
    T d;
    rule.forward(sign * g + coupled * p, s, d, t);
    T update = scale * (d + decoupled * p);
    return applied != T(0) ? p + update : update;
  }

  // Writes the cotangents of g, p and s; returns that of scale.
  TORCHOPT_FN T vjp(T g, T p, const T* s, T du, const T* dt, T& dg, T& dp, T* ds) const {
    T d, deffective;
    T dd = scale * du;
    rule.vjp(sign * g + coupled * p, s, dd, dt, d, deffective, ds);
    dg = sign * deffective;
    dp = coupled * deffective + decoupled * dd;
    return du * (d + decoupled * p);
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
