// What Python calls, through ctypes. A function that can fail returns a message, or null.
#include <exception>
#include <string>

#include "driver.h"
#include "runtime.h"

namespace {

std::string message;

template <class Function>
const char* message_of(Function function) {
  try {
    function();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

// The fields of torchopt::Problem, each list as its start. Roles follow each other in `inputs` and
// `outputs`, which have `count` pointers for each role that is present.
struct FlatProblem {
  int32_t rule, dtype, backward, apply;
  int64_t count;
  const int64_t* sizes;
  int64_t input_roles;
  const uint8_t* input_present;
  const uintptr_t* inputs;
  int64_t output_roles;
  const uint8_t* output_present;
  const uintptr_t* outputs;
  int64_t hyper_count;
  const double* hyper;
  uintptr_t steps;
  uintptr_t numbers;
  const int64_t* positions;
  uintptr_t lr;
  int64_t lr_stride;
  uintptr_t lr_grad;
};

using Roles = std::vector<std::vector<uintptr_t>>;

Roles unfold(int64_t roles, const uint8_t* present, const uintptr_t* pointers, int64_t count) {
  Roles unfolded(static_cast<size_t>(roles));
  for (int64_t r = 0; r < roles; ++r) {
    if (!present[r]) continue;
    unfolded[size_t(r)].assign(pointers, pointers + count);
    pointers += count;
  }
  return unfolded;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void emulation_set_up(uint32_t seed, int processors, int blocks_per_processor) {
  emulation::set_order(seed);
  emulation::set_up(processors, blocks_per_processor);
}

int64_t emulation_scratch(const int64_t* sizes, int64_t count) {
  return torchopt::cuda_scratch({sizes, sizes + count});
}

// Returns how many grids, blocks and barriers ran, in counts.
const char* emulation_run(const FlatProblem* flat, int device, uintptr_t stream, uintptr_t scratch,
                          int64_t* counts) {
  return message_of([&] {
    const torchopt::Problem problem{
        flat->rule,
        flat->dtype,
        flat->backward != 0,
        flat->apply != 0,
        {flat->sizes, flat->sizes + flat->count},
        unfold(flat->input_roles, flat->input_present, flat->inputs, flat->count),
        unfold(flat->output_roles, flat->output_present, flat->outputs, flat->count),
        {flat->hyper, flat->hyper + flat->hyper_count},
        flat->steps,
        flat->numbers,
        {flat->positions, flat->positions + (flat->steps || flat->numbers ? flat->count : 0)},
        flat->lr,
        flat->lr_stride,
        flat->lr_grad};
    torchopt::run_on_cuda(problem, device, stream, scratch);
    emulation::run_launches(device, reinterpret_cast<void*>(stream));
    const emulation::Counts ran = emulation::take_counts();
    counts[0] = ran.launches;
    counts[1] = ran.blocks;
    counts[2] = ran.barriers;
  });
}

const char* emulation_obstacle(int device) {
  message = torchopt::cuda_obstacle(device);
  return message.c_str();
}
}
#pragma GCC visibility pop
