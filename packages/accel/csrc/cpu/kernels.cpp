// The loops over one chunk, compiled once per instruction set.
#include <algorithm>

#include "../work.h"
#include "chunk.h"
#include "stream.h"

namespace torchopt {
namespace TORCHOPT_ISA {
namespace {

// This many elements are computed, then streamed, while the next ones are being read.
constexpr int64_t kBlock = 128;

// Where the cotangent of the learning rate is wanted, no more are computed at once: its summands
// wait on the stack, and a thread may have little of that.
constexpr int64_t kSummed = 1024;
static_assert(kBlock <= kSummed, "the summands of a block fit");

// No iteration of the loop that follows reads what another one writes.
#ifdef __clang__
#define TORCHOPT_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define TORCHOPT_INDEPENDENT _Pragma("GCC ivdep")
#endif

// The loop that vectorises. Returns the cotangent of the learning rate.
template <class Work, bool with_lr, class Kernel, class M>
TORCHOPT_FN double loop(const Kernel& step, const M* const* inputs, M* const* outputs,
                        int64_t size) {
  using T = typename Work::T;
  constexpr int I = Work::kInputs, O = Work::kOutputs;
  const M* in[I];
  M* out[O];
  for (int r = 0; r < I; ++r) in[r] = inputs[r];
  for (int r = 0; r < O; ++r) out[r] = outputs[r];
  // Summed in a second loop: a reduction in the first would keep it from vectorising.
  T scale_grad[with_lr ? kSummed : 1];
  TORCHOPT_INDEPENDENT
  for (int64_t i = 0; i < size; ++i) {
    M x[I], y[O];
    for (int r = 0; r < I; ++r) x[r] = in[r][i];
    T dscale = Work::run(step, x, y);
    if (with_lr) scale_grad[i] = dscale;
    for (int r = 0; r < O; ++r) out[r][i] = y[r];
  }
  if (!with_lr) return 0;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += scale_grad[i];
  return -double(sum);
}

template <template <class> class Rule, class Work, bool with_lr>
double run(const Chunk& chunk) {
  using M = typename Work::M;
  constexpr int I = Work::kInputs, O = Work::kOutputs;
  const Step<Rule, typename Work::T> step(chunk.hyper, chunk.step, chunk.number, chunk.lr,
                                          chunk.apply);
  const M* in[I];
  M* out[O];
  for (int r = 0; r < I; ++r) in[r] = static_cast<const M*>(chunk.inputs[r]);
  for (int r = 0; r < O; ++r) out[r] = static_cast<M*>(chunk.outputs[r]);

  const int64_t most = chunk.streamed ? kBlock : with_lr ? kSummed : kLongChunk;
  alignas(kStreamAlignment) M computed[O][kBlock];
  double sum = 0;
  for (int64_t start = 0; start < chunk.size; start += most) {
    const int64_t size = std::min(most, chunk.size - start);
    M* target[O];
    for (int r = 0; r < O; ++r) target[r] = chunk.streamed >> r & 1 ? computed[r] : out[r];
    sum += loop<Work, with_lr>(step, in, target, size);
    for (int r = 0; r < O; ++r)
      if (chunk.streamed >> r & 1) stream(out[r], computed[r], size_t(size) * sizeof(M));
    for (int r = 0; r < I; ++r) in[r] += size;
    for (int r = 0; r < O; ++r) out[r] += size;
  }
  if (chunk.streamed) end_streaming();
  return sum;
}

template <template <class> class Rule>
RuleKernels kernels(const char* name) {
  return {name,
          Rule<float>::kStates,
          Rule<float>::kHyperNames,
          {run<Rule, Forward<Rule, Float32>, false>, run<Rule, Forward<Rule, Float64>, false>,
           run<Rule, Forward<Rule, BFloat16>, false>, run<Rule, Forward<Rule, Float16>, false>},
          {run<Rule, Backward<Rule, Float32>, false>, run<Rule, Backward<Rule, Float64>, false>,
           run<Rule, Backward<Rule, BFloat16>, false>, run<Rule, Backward<Rule, Float16>, false>},
          {run<Rule, Backward<Rule, Float32>, true>, run<Rule, Backward<Rule, Float64>, true>,
           run<Rule, Backward<Rule, BFloat16>, true>, run<Rule, Backward<Rule, Float16>, true>}};
}

}  // namespace

KernelTable table() {
#define TORCHOPT_RULE(name, Rule) kernels<Rule>(#name),
  static const RuleKernels all[] = {
#include "../rules.def"
  };
#undef TORCHOPT_RULE
  return {Common::kHyperNames, all, int(sizeof(all) / sizeof(all[0]))};
}

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
