// What surrounds the rule of every optimizer: sign, weight decay and learning rate.
#pragma once

#include <type_traits>

#include "problem.h"
#include "rules.h"
#include "storage.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// The hyperparameters that all rules have. They precede a rule's own hyperparameters.
struct Common {
  TORCHOPT_HYPERPARAMETERS(lr, sign, coupled_decay, decoupled_decay);
};

// Whether states follow the new parameters.
template <class Rule, class = void>
constexpr bool kFollows = false;
template <class Rule>
constexpr bool kFollows<Rule, std::void_t<decltype(&Rule::follow)>> = true;

// Calls the constructor of a rule, which takes the tensor's number or does not.
template <class Rule>
TORCHOPT_FN Rule make_rule(const typename Rule::Hyper& hyper, int64_t step, double number) {
  if constexpr (std::is_constructible<Rule, const typename Rule::Hyper&, int64_t, double>::value)
    return Rule(hyper, step, number);
  else
    return Rule(hyper, step);
}

// update = -lr (d + decoupled p), where d is the rule's direction for sign g + coupled p.
template <template <class> class Rule, class T>
struct Step {
  using Own = typename Rule<T>::Hyper;
  static constexpr int kCommon = kNumbers<Common::Hyper>;
  static constexpr int kStates = Rule<T>::kStates;
  static_assert(kStates <= kMaxStates, "the rule has more states than kMaxStates (problem.h)");
  static_assert(kCommon + kNumbers<Own> <= kMaxHyper,
                "the rule has more hyperparameters than kMaxHyper (problem.h)");
  T sign, coupled, decoupled, scale;
  T applied;  // 0 or 1; a bool would keep the loop over elements from vectorising
  Rule<T> rule;

  // If lr is not null, it replaces the hyperparameter.
  TORCHOPT_FN Step(const double* hyper, int64_t step, double number, const double* lr, bool apply)
      : Step(read_hyper<Common::Hyper>(hyper),
             make_rule<Rule<T>>(read_hyper<Own>(hyper + kCommon), step, number), lr, apply) {}

  TORCHOPT_FN Step(const Common::Hyper& common, const Rule<T>& own, const double* lr, bool apply)
      : sign(T(common.sign)),
        coupled(T(common.coupled_decay)),
        decoupled(T(common.decoupled_decay)),
        scale(T(-(lr ? *lr : common.lr))),
        applied(T(apply ? 1 : 0)),
        rule(own) {}

  // x + factor * p, but x itself for the factor 0: infinity times 0 is NaN, and -0 + 0 is 0.
  TORCHOPT_FN static T decayed(T x, T factor, T p) { return factor != T(0) ? x + factor * p : x; }

  // Returns the update or, to apply it, the new param.
  TORCHOPT_FN T forward(T g, T p, const T* s, T* t) const {
    T d;
    rule.forward(decayed(sign * g, coupled, p), s, d, t);
    T update = scale * decayed(d, decoupled, p);
    if constexpr (kFollows<Rule<T>>) rule.follow(p + update, s, t);
    return applied != T(0) ? p + update : update;
  }

  // Writes the cotangents of g, p and s; returns the cotangent of scale.
  TORCHOPT_FN T vjp(T g, T p, const T* s, T du, const T* dt, T& dg, T& dp, T* ds) const {
    T d, deffective, dmoved = T(0);
    if constexpr (kFollows<Rule<T>>) {
      rule.follow_vjp(dt, dmoved, ds);
      du += dmoved;
    }
    T dd = scale * du;
    rule.vjp(decayed(sign * g, coupled, p), s, dd, dt, d, deffective, ds);
    dg = sign * deffective;
    dp = decayed(decoupled * dd, coupled, deffective);
    if constexpr (kFollows<Rule<T>>) dp += dmoved;
    return du * decayed(d, decoupled, p);
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
