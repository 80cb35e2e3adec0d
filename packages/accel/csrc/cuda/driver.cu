// Runs a list of tensors in one launch. Their pointers travel as a kernel argument; blocks take
// chunks of the concatenated list in turn.
#include "driver.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../work.h"

namespace torchopt {
namespace {

using namespace TORCHOPT_ISA;

constexpr int kThreads = 256;
constexpr int64_t kBlockChunk = 8192;
// The size of a kernel's arguments is limited to this since CUDA 12.1, on sm_70 and later.
constexpr size_t kArgumentBytes = 32764;

void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("torchopt_accel: ") + what + ": " +
                             cudaGetErrorString(status));
}

// Makes a device the current one of this library's runtime, which need not be torch's runtime.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    require(cudaGetDevice(&before_), "device");
    changed_ = before_ != device;
    if (changed_) require(cudaSetDevice(device), "device");
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

int64_t chunks(int64_t size) { return (size + kBlockChunk - 1) / kBlockChunk; }

struct Scalars {
  double hyper[kMaxHyper];
  const int64_t* steps;
  const double* lr;
  bool apply;
  double* partials;
};

template <int kRoles>
struct Tensor {
  void* roles[kRoles];
  int64_t size;
  int32_t position;
  int32_t lr_index;
  int64_t first_chunk;
};

template <int kRoles>
struct Arguments {
  static constexpr int kTensors =
      int((kArgumentBytes - sizeof(Scalars) - 16) / sizeof(Tensor<kRoles>));
  Scalars scalars;
  int32_t count;
  int64_t chunks;
  Tensor<kRoles> tensors[kTensors];
};

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

// Sums over the block; thread 0 has the result.
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
  // Bias corrections take powers in float64: one thread computes them for the block.
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
        const double* lr = scalars.lr ? scalars.lr + tensor.lr_index : nullptr;
        *reinterpret_cast<Kernel*>(shared) = Kernel(scalars.hyper, count, lr, scalars.apply);
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

// Adds the chunks' sums, in a fixed order, to the learning rate's cotangent.
__global__ void __launch_bounds__(kThreads)
    gather(const double* partials, int64_t count, double* lr_grad) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  const double total = block_sum(sum);
  if (threadIdx.x == 0) *lr_grad -= total;
}

int blocks_at_once(const void* function) {
  int device = 0, processors = 0, resident = 0;
  require(cudaGetDevice(&device), "device");
  require(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device");
  require(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, function, kThreads, 0),
          "no kernel for this GPU");
  return processors * std::max(resident, 1);
}

template <template <class> class Rule, class Work>
void launch(const Problem& problem, cudaStream_t stream, double* scratch) {
  constexpr int I = Work::kInputs, O = Work::kOutputs;
  using Args = Arguments<I + O>;
  auto* function = kernel<Rule, Work>;
  Args arguments{};
  std::copy(problem.hyper.begin(), problem.hyper.end(), arguments.scalars.hyper);
  arguments.scalars.steps = reinterpret_cast<const int64_t*>(problem.steps);
  arguments.scalars.lr = reinterpret_cast<const double*>(problem.lr);
  arguments.scalars.apply = problem.apply;
  arguments.scalars.partials = scratch;

  auto flush = [&] {
    if (arguments.count == 0) return;
    const int blocks =
        int(std::min<int64_t>(arguments.chunks, blocks_at_once(reinterpret_cast<void*>(function))));
    function<<<blocks, kThreads, 0, stream>>>(arguments);
    require(cudaGetLastError(), "launch");
    if (scratch) arguments.scalars.partials += arguments.chunks;
    arguments.count = 0;
    arguments.chunks = 0;
  };
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    if (problem.sizes[i] == 0) continue;
    auto& tensor = arguments.tensors[arguments.count++];
    for (int r = 0; r < I; ++r)
      tensor.roles[r] =
          problem.inputs[r].empty() ? nullptr : reinterpret_cast<void*>(problem.inputs[r][i]);
    for (int r = 0; r < O; ++r)
      tensor.roles[I + r] =
          problem.outputs[r].empty() ? nullptr : reinterpret_cast<void*>(problem.outputs[r][i]);
    tensor.size = problem.sizes[i];
    tensor.position = problem.steps ? int32_t(problem.positions[i]) : 0;
    tensor.lr_index = int32_t(int64_t(i) * problem.lr_stride);
    tensor.first_chunk = arguments.chunks;
    arguments.chunks += chunks(tensor.size);
    if (arguments.count == Args::kTensors) flush();
  }
  flush();
  if (!scratch) return;
  auto* lr_grad = reinterpret_cast<double*>(problem.lr_grad);
  if (problem.lr_stride == 0) {
    gather<<<1, kThreads, 0, stream>>>(scratch, cuda_scratch(problem.sizes), lr_grad);
    require(cudaGetLastError(), "launch");
    return;
  }
  const double* partials = scratch;
  for (size_t i = 0; i < problem.sizes.size(); ++i) {
    const int64_t count = chunks(problem.sizes[i]);
    if (count == 0) continue;
    gather<<<1, kThreads, 0, stream>>>(partials, count, lr_grad + i);
    require(cudaGetLastError(), "launch");
    partials += count;
  }
}

template <template <class> class Rule, class Storage>
void launch_direction(const Problem& problem, cudaStream_t stream, double* scratch) {
  if (problem.backward)
    launch<Rule, Backward<Rule, Storage>>(problem, stream, scratch);
  else
    launch<Rule, Forward<Rule, Storage>>(problem, stream, scratch);
}

template <template <class> class Rule>
void launch_dtype(const Problem& problem, cudaStream_t stream, double* scratch) {
  using Launch = void (*)(const Problem&, cudaStream_t, double*);
  static const Launch by_dtype[kDtypes] = {
      launch_direction<Rule, Float32>, launch_direction<Rule, Float64>,
      launch_direction<Rule, BFloat16>, launch_direction<Rule, Float16>};
  by_dtype[problem.dtype](problem, stream, scratch);
}

}  // namespace

std::string cuda_obstacle(int device) {
  try {
    const OnDevice guard(device);
    // The runtime loads code for the device, or compiles it, or says that it can't.
    cudaFuncAttributes attributes;
    require(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(gather)), "kernels");
    return "";
  } catch (const std::runtime_error& error) {
    // A failure here must not be reported by the next launch.
    cudaGetLastError();
    return error.what();
  }
}

int64_t cuda_scratch(const std::vector<int64_t>& sizes) {
  int64_t total = 0;
  for (int64_t size : sizes) total += chunks(size);
  return total;
}

void run_on_cuda(const Problem& problem, int device, uintptr_t stream, uintptr_t scratch) {
  const OnDevice guard(device);
  using Launch = void (*)(const Problem&, cudaStream_t, double*);
#define TORCHOPT_RULE(name, Rule) launch_dtype<Rule>,
  static const Launch by_rule[] = {
#include "../rules.def"
  };
#undef TORCHOPT_RULE
  by_rule[problem.rule](problem, reinterpret_cast<cudaStream_t>(stream),
                        problem.lr_grad ? reinterpret_cast<double*>(scratch) : nullptr);
}

}  // namespace torchopt
