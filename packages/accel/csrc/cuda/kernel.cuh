// The kernels. Each block takes every n-th chunk of a list of tensors.
#pragma once

#include <cuda_runtime.h>

#include "../work.h"
#include "arguments.h"

namespace torchopt {
namespace {

using namespace TORCHOPT_ISA;

template <class M>
constexpr int kVector = 16 / int(sizeof(M));

template <class M>
struct alignas(16) Pack {
  M items[kVector<M>];
};

template <class M>
__device__ __forceinline__ Pack<M> zero_pack() {
  Pack<M> pack;
#pragma unroll
  for (int j = 0; j < kVector<M>; ++j) pack.items[j] = M(0);
  return pack;
}

// Sums over the block; thread 0 gets the result.
__device__ double block_sum(double value) {
  __shared__ double warps[kThreads / 32];
  for (int lane = 16; lane > 0; lane /= 2) value += __shfl_down_sync(0xffffffff, value, lane);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < kThreads / 32; ++warp) sum += warps[warp];
  __syncthreads();
  return sum;
}

template <int kRoles>
__device__ __forceinline__ int tensor_of(const Arguments<kRoles>& arguments, int64_t chunk) {
  int low = 0, high = arguments.count - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (arguments.tensors[middle].first_chunk <= chunk)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// Runs the elements from `start` on of one tensor. Returns this thread's part of the cotangent of
// -lr.
template <class Work, class Kernel>
__device__ double run_chunk(const Kernel& step, void* const* roles, int64_t start, int64_t size) {
  using M = typename Work::M;
  constexpr int I = Work::kInputs, O = Work::kOutputs, V = kVector<M>;
  const M* in[I];
  M* out[O];
  bool aligned = true;
#pragma unroll
  for (int r = 0; r < I; ++r) {
    in[r] = roles[r] ? static_cast<const M*>(roles[r]) + start : nullptr;
    aligned = aligned && reinterpret_cast<uintptr_t>(in[r]) % 16 == 0;
  }
#pragma unroll
  for (int r = 0; r < O; ++r) {
    out[r] = roles[I + r] ? static_cast<M*>(roles[I + r]) + start : nullptr;
    aligned = aligned && reinterpret_cast<uintptr_t>(out[r]) % 16 == 0;
  }
  double sum = 0;
  int64_t tail = 0;
  if (aligned) {
    const int64_t packs = size / V;
    tail = packs * V;
    for (int64_t i = threadIdx.x; i < packs; i += kThreads) {
      Pack<M> read[I], written[O];
#pragma unroll
      for (int r = 0; r < I; ++r)
        read[r] = in[r] ? reinterpret_cast<const Pack<M>*>(in[r])[i] : zero_pack<M>();
#pragma unroll
      for (int j = 0; j < V; ++j) {
        M x[I], y[O];
#pragma unroll
        for (int r = 0; r < I; ++r) x[r] = read[r].items[j];
        sum += double(Work::run(step, x, y));
#pragma unroll
        for (int r = 0; r < O; ++r) written[r].items[j] = y[r];
      }
#pragma unroll
      for (int r = 0; r < O; ++r)
        if (out[r]) reinterpret_cast<Pack<M>*>(out[r])[i] = written[r];
    }
  }
  for (int64_t i = tail + threadIdx.x; i < size; i += kThreads) {
    M x[I], y[O];
#pragma unroll
    for (int r = 0; r < I; ++r) x[r] = in[r] ? in[r][i] : M(0);
    sum += double(Work::run(step, x, y));
#pragma unroll
    for (int r = 0; r < O; ++r)
      if (out[r]) out[r][i] = y[r];
  }
  return sum;
}

template <template <class> class Rule, class Work>
__global__ void __launch_bounds__(kThreads, 1)
    kernel(const __grid_constant__ Arguments<Work::kInputs + Work::kOutputs> arguments) {
  using Kernel = Step<Rule, typename Work::T>;
  // Bias corrections need powers in float64, so one thread computes them for the whole block.
  __shared__ alignas(Kernel) unsigned char shared[sizeof(Kernel)];
  const Scalars& scalars = arguments.scalars;
  int prepared = -1;
  for (int64_t chunk = blockIdx.x; chunk < arguments.chunks; chunk += gridDim.x) {
    const int index = tensor_of(arguments, chunk);
    const auto& tensor = arguments.tensors[index];
    if (index != prepared) {
      __syncthreads();
      if (threadIdx.x == 0) {
        const int64_t count = scalars.steps ? scalars.steps[tensor.position] : 1;
        const double number = scalars.numbers ? scalars.numbers[tensor.position] : 1;
        const double* lr = scalars.lr ? scalars.lr + tensor.lr_index : nullptr;
        *reinterpret_cast<Kernel*>(shared) =
            Kernel(scalars.hyper, count, number, lr, scalars.apply);
      }
      __syncthreads();
      prepared = index;
    }
    const Kernel step = *reinterpret_cast<const Kernel*>(shared);
    const int64_t start = (chunk - tensor.first_chunk) * kBlockChunk;
    const int64_t size = tensor.size - start < kBlockChunk ? tensor.size - start : kBlockChunk;
    const double sum = run_chunk<Work>(step, tensor.roles, start, size);
    if (scalars.partials) {
      const double total = block_sum(sum);
      if (threadIdx.x == 0) scalars.partials[chunk] = total;
    }
  }
}

// Sums the chunks' cotangents of -lr, in a fixed order, into the cotangents of the learning rates,
// one per block.
template <int kRanges>
__global__ void __launch_bounds__(kThreads) gather(const __grid_constant__ Ranges<kRanges> ranges,
                                                   const double* partials, double* lr_grads) {
  double sum = 0;
  for (int64_t i = ranges.first[blockIdx.x] + threadIdx.x; i < ranges.first[blockIdx.x + 1];
       i += kThreads)
    sum += partials[i];
  const double total = block_sum(sum);
  if (threadIdx.x == 0) lr_grads[blockIdx.x] -= total;
}

}  // namespace
}  // namespace torchopt
