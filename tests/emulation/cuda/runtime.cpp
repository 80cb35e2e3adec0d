#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace emulation {
namespace {

constexpr int kDevices = 2;
constexpr int64_t kMostBlocks = 0x7fffffff;
constexpr int64_t kMostThreads = 1024;
constexpr size_t kMostArgumentBytes = 32764;

int processors = 1, blocks_per_processor = 1;
int current_device = 0;
cudaError_t last_error = cudaSuccess;
std::vector<std::pair<int, Launch>> queue;  // each with its device

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

bool exists(int device) { return device >= 0 && device < kDevices; }

}  // namespace

void enqueue(Launch launch) {
  const bool accepted = launch.blocks > 0 && launch.blocks <= kMostBlocks && launch.threads > 0 &&
                        launch.threads <= kMostThreads && launch.dynamic_shared == 0 &&
                        launch.argument_bytes <= kMostArgumentBytes;
  if (!accepted)
    result(cudaErrorInvalidValue);
  else
    queue.emplace_back(current_device, std::move(launch));
}

void set_up(int new_processors, int new_blocks_per_processor) {
  processors = new_processors;
  blocks_per_processor = new_blocks_per_processor;
  queue.clear();
}

void run_launches(int device, void* stream) {
  const auto launches = std::exchange(queue, {});
  for (const auto& [on, launch] : launches) {
    if (on != device || launch.stream != stream)
      throw std::runtime_error("a launch on device " + std::to_string(on) +
                               ", or on its stream, that nobody asked for");
    run_grid(launch);
  }
}

}  // namespace emulation

using namespace emulation;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    default:
      return "invalid device ordinal";
  }
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return result(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  if (!exists(device)) return result(cudaErrorInvalidDevice);
  *value = processors;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = blocks_per_processor;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return cudaSuccess; }
