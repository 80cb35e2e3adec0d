// All rules. A rule is a functor for one element, with
//   kStates                          the number of its state tensors
//   TORCHOPT_HYPERPARAMETERS(...)    the names of its hyperparameters, which Python passes by name
//   Rule(hyper, step)                constructor: its scalars; a tensor's first step is number 1
//   Rule(hyper, step, number)        instead, where the state has one number per tensor, too
//   forward(g, s, d, t)              direction d and new states t from gradient g and states s
//   vjp(g, s, dd, dt, d, dg, ds)     cotangents dg, ds from dd, dt; also computes d again
// A rule whose states follow the new parameters has, besides,
//   follow(q, s, t)                  new states t from the new parameter q and states s
//   follow_vjp(dt, dq, ds)           cotangents dq, ds from dt
// and its forward and vjp leave t and ds alone.
// Core holds the mathematics: torchopt/rules/<name>.py.
#pragma once

#include "rules/adadelta.h"
#include "rules/adagrad.h"
#include "rules/adam.h"
#include "rules/adamax.h"
#include "rules/adan.h"
#include "rules/asgd.h"
#include "rules/lion.h"
#include "rules/nadam.h"
#include "rules/radam.h"
#include "rules/rmsprop.h"
#include "rules/rprop.h"
#include "rules/sgd.h"
