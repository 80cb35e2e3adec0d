// The part of CUDA that packages/accel/csrc/cuda uses, for a C++ compiler. emulation/translate.py
// rewrites what cannot be a macro: launches, shared variables, parameters of a whole grid.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

#define threadIdx (emulation::thread_index)
#define blockIdx (emulation::block_index)
#define gridDim (emulation::grid_size)
#define __syncthreads() emulation::wait_for_block(__LINE__)
#define __shfl_down_sync(mask, value, delta) emulation::shuffle_down(mask, value, delta, __LINE__)

using cudaStream_t = struct EmulatedStream*;

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidDevice };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
struct cudaFuncAttributes {};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t shared_bytes);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function);
