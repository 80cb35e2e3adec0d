// Launches, and the runtime that they ask. Kernels run later than their launch, as on a GPU.
#pragma once

#include <memory>
#include <tuple>
#include <type_traits>

#include "grid.h"

namespace emulation {

// Queues a launch. One that CUDA refuses is not queued, and cudaGetLastError returns the error.
void enqueue(Launch launch);

// What remains of function<<<blocks, threads, shared, stream>>>(arguments) without the brackets.
template <class... Parameters>
auto launch(void (*function)(Parameters...), int64_t blocks, int64_t threads, size_t shared,
            void* stream) {
  return [=](const std::decay_t<Parameters>&... arguments) {
    size_t bytes = 0;
    auto add = [&](size_t size, size_t alignment) {
      bytes = (bytes + alignment - 1) / alignment * alignment + size;
    };
    (add(sizeof(arguments), alignof(decltype(arguments))), ...);
    auto held = std::make_shared<std::tuple<std::decay_t<Parameters>...>>(arguments...);
    enqueue({blocks, threads, shared, stream, bytes, [=] { std::apply(function, *held); }});
  };
}

// What the emulated GPUs are like. Forgets launches that never ran.
void set_up(int processors, int blocks_per_processor);

// Runs what was launched. All of it must have been launched on this device and this stream.
void run_launches(int device, void* stream);

}  // namespace emulation
