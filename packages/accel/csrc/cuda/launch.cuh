// Turns a list of tensors into launches: one, unless the list is longer than an argument can be.
#pragma once

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "kernel.cuh"

namespace torchopt {
namespace {

void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("torchopt_accel: ") + what + ": " +
                             cudaGetErrorString(status));
}

int blocks_at_once(const void* function) {
  int device = 0, processors = 0, resident = 0;
  require(cudaGetDevice(&device), "device");
  require(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device");
  require(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, function, kThreads, 0),
          "no kernel for this GPU");
  return processors * std::max(resident, 1);
}

// Writes a tensor's pointers, or null where a role is absent.
void set_roles(const std::vector<std::vector<uintptr_t>>& roles, size_t tensor, void** pointers) {
  for (size_t r = 0; r < roles.size(); ++r)
    pointers[r] = roles[r].empty() ? nullptr : reinterpret_cast<void*>(roles[r][tensor]);
}

template <template <class> class Rule, class Work>
void launch_steps(const Problem& problem, cudaStream_t stream, double* partials) {
  constexpr int I = Work::kInputs;
  using Args = Arguments<I + Work::kOutputs>;
  auto* function = kernel<Rule, Work>;
  Args arguments{};
  std::copy(problem.hyper.begin(), problem.hyper.end(), arguments.scalars.hyper);
  arguments.scalars.steps = reinterpret_cast<const int64_t*>(problem.steps);
  arguments.scalars.numbers = reinterpret_cast<const double*>(problem.numbers);
  arguments.scalars.lr = reinterpret_cast<const double*>(problem.lr);
  arguments.scalars.apply = problem.apply;
  arguments.scalars.partials = partials;

  auto flush = [&] {
    if (arguments.count == 0) return;
    const int blocks =
        int(std::min<int64_t>(arguments.chunks, blocks_at_once(reinterpret_cast<void*>(function))));
    function<<<blocks, kThreads, 0, stream>>>(arguments);
    require(cudaGetLastError(), "launch");
    if (partials) arguments.scalars.partials += arguments.chunks;
    arguments.count = 0;
    arguments.chunks = 0;
  };
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    if (problem.sizes[i] == 0) continue;
    auto& tensor = arguments.tensors[arguments.count++];
    set_roles(problem.inputs, i, tensor.roles);
    set_roles(problem.outputs, i, tensor.roles + I);
    tensor.size = problem.sizes[i];
    tensor.position = problem.steps || problem.numbers ? int32_t(problem.positions[i]) : 0;
    tensor.lr_index = int32_t(int64_t(i) * problem.lr_stride);
    tensor.first_chunk = arguments.chunks;
    arguments.chunks += chunks(tensor.size);
    if (arguments.count == Args::kTensors) flush();
  }
  flush();
}

// Sums the chunks' cotangents for learning rates with these numbers of chunks.
template <int kRanges>
void launch_gather(const std::vector<int64_t>& counts, cudaStream_t stream, const double* partials,
                   double* lr_grads) {
  auto* function = gather<kRanges>;
  Ranges<kRanges> ranges{};
  for (size_t begin = 0; begin < counts.size(); begin += kRanges) {
    const int here = int(std::min(counts.size() - begin, size_t(kRanges)));
    for (int i = 0; i < here; ++i) ranges.first[i + 1] = ranges.first[i] + counts[begin + i];
    function<<<here, kThreads, 0, stream>>>(ranges, partials, lr_grads + begin);
    require(cudaGetLastError(), "launch");
    ranges.first[0] = ranges.first[here];
  }
}

void gather_lr_grads(const Problem& problem, cudaStream_t stream, const double* partials) {
  auto* lr_grads = reinterpret_cast<double*>(problem.lr_grad);
  std::vector<int64_t> counts;
  for (int64_t size : problem.sizes) counts.push_back(chunks(size));
  if (problem.lr_stride == 0)
    launch_gather<1>({std::accumulate(counts.begin(), counts.end(), int64_t(0))}, stream, partials,
                     lr_grads);
  else
    launch_gather<kMostRanges>(counts, stream, partials, lr_grads);
}

}  // namespace
}  // namespace torchopt
