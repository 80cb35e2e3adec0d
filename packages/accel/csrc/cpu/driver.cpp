// Cuts a list of tensors into chunks and distributes the chunks over threads.
#include "driver.h"

#include <pthread.h>

#include <algorithm>
#include <stdexcept>

#include "chunk.h"

namespace torchopt {
namespace {

// Every thread gets at least this many elements, as in torch.
constexpr int64_t kGrain = 32768;

alignas(64) const char zeros[kChunk * sizeof(double)] = {};

struct Isa {
  const char* name;
  KernelTable (*table)();
  bool supported;
};

const std::vector<Isa>& isas() {
  static const std::vector<Isa> all = [] {
    std::vector<Isa> found{{"baseline", baseline::table, true}};
#ifdef TORCHOPT_X86
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("bmi2");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
    found.push_back({"avx2", avx2::table, avx2});
    found.push_back({"avx512", avx512::table, avx512});
#endif
    return found;
  }();
  return all;
}

const Isa*& chosen() {
  static const Isa* isa = [] {
    const Isa* best = nullptr;
    for (const Isa& candidate : isas())
      if (candidate.supported) best = &candidate;
    return best;
  }();
  return isa;
}

// After fork() the child has none of the parent's OpenMP threads, yet libgomp waits for them.
bool forked = false;
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// A step that touches more bytes than this leaves little in the caches for the next step. It is a
// constant because virtual machines misreport the sizes of their caches.
constexpr int64_t kCaches = int64_t(32) << 20;

bool outgrows_caches(const Problem& problem) {
  int64_t elements = 0, roles = 0;
  for (int64_t size : problem.sizes) elements += size;
  for (const auto* lists : {&problem.inputs, &problem.outputs})
    for (const auto& pointers : *lists) roles += !pointers.empty();
  return elements * roles * kItemSize[problem.dtype] > kCaches;
}

// An output that is also an input is in the caches already, so it is not streamed.
bool can_stream(const Problem& problem, uintptr_t output, int64_t tensor) {
  for (const auto& pointers : problem.inputs)
    if (!pointers.empty() && pointers[tensor] == output) return false;
  return output && output % kStreamAlignment == 0;
}

struct Piece {
  int64_t tensor, start, size;
};

std::vector<Piece> cut(const std::vector<int64_t>& sizes, int64_t length) {
  std::vector<Piece> pieces;
  for (size_t tensor = 0; tensor < sizes.size(); ++tensor)
    for (int64_t start = 0; start < sizes[tensor]; start += length)
      pieces.push_back({int64_t(tensor), start, std::min(length, sizes[tensor] - start)});
  return pieces;
}

// Tells whether no tensor is absent, whose place the zeros or the scratch memory would take.
bool is_complete(const Problem& problem) {
  for (const auto* lists : {&problem.inputs, &problem.outputs})
    for (const auto& pointers : *lists) {
      if (pointers.empty()) return false;
      for (size_t tensor = 0; tensor < pointers.size(); ++tensor)
        if (problem.sizes[tensor] > 0 && !pointers[tensor]) return false;
    }
  return true;
}

// Returns the length of the pieces: several for each thread, as long as that allows.
int64_t length_of_pieces(const Problem& problem, int64_t elements, int threads) {
  if (!problem.apply || !is_complete(problem)) return kChunk;
  const int64_t share = elements / (4 * std::max(threads, 1)) / kChunk * kChunk;
  return std::clamp(share, kChunk, kLongChunk);
}

std::vector<std::string> names_in(const std::string& list) {
  const std::string comma = ", ";
  std::vector<std::string> names;
  for (size_t start = 0; start < list.size();) {
    const size_t end = std::min(list.find(comma, start), list.size());
    names.push_back(list.substr(start, end - start));
    start = end + comma.size();
  }
  return names;
}

double run_piece(const Problem& problem, ChunkKernel kernel, Piece piece, bool streamed) {
  alignas(64) static thread_local char scratch[kChunk * sizeof(double)];
  Chunk chunk;
  int64_t offset = piece.start * kItemSize[problem.dtype];
  for (size_t role = 0; role < problem.inputs.size(); ++role) {
    const auto& pointers = problem.inputs[role];
    uintptr_t base = pointers.empty() ? 0 : pointers[piece.tensor];
    chunk.inputs[role] = base ? reinterpret_cast<const void*>(base + offset) : zeros;
  }
  chunk.streamed = 0;
  for (size_t role = 0; role < problem.outputs.size(); ++role) {
    const auto& pointers = problem.outputs[role];
    uintptr_t base = pointers.empty() ? 0 : pointers[piece.tensor];
    if (streamed && can_stream(problem, base, piece.tensor)) chunk.streamed |= 1u << role;
    chunk.outputs[role] = base ? reinterpret_cast<void*>(base + offset) : scratch;
  }
  chunk.size = piece.size;
  chunk.hyper = problem.hyper.data();
  const auto* steps = reinterpret_cast<const int64_t*>(problem.steps);
  chunk.step = steps ? steps[problem.positions[piece.tensor]] : 1;
  const auto* numbers = reinterpret_cast<const double*>(problem.numbers);
  chunk.number = numbers ? numbers[problem.positions[piece.tensor]] : 1;
  const auto* lr = reinterpret_cast<const double*>(problem.lr);
  chunk.lr = lr ? lr + piece.tensor * problem.lr_stride : nullptr;
  chunk.apply = problem.apply;
  return kernel(chunk);
}

}  // namespace

void run_on_cpu(const Problem& problem, int threads) {
  const RuleKernels& rule = chosen()->table().rules[problem.rule];
  ChunkKernel kernel = (!problem.backward ? rule.forward
                        : problem.lr_grad ? rule.backward_with_lr
                                          : rule.backward)[problem.dtype];
  int64_t elements = 0;
  for (int64_t size : problem.sizes) elements += size;
  const std::vector<Piece> pieces =
      cut(problem.sizes, length_of_pieces(problem, elements, threads));
  const int64_t count = int64_t(pieces.size());
  const bool streamed = outgrows_caches(problem);
  std::vector<double> lr_grads(problem.lr_grad ? pieces.size() : 0);
  auto run = [&](int64_t i) {
    double lr_grad = run_piece(problem, kernel, pieces[i], streamed);
    if (problem.lr_grad) lr_grads[i] = lr_grad;
  };
  const int64_t team = std::min<int64_t>({threads, count, elements / kGrain});
  if (team > 1 && !forked) {
#pragma omp parallel for num_threads(int(team)) schedule(static)
    for (int64_t i = 0; i < count; ++i) run(i);
  } else {
    for (int64_t i = 0; i < count; ++i) run(i);
  }
  if (auto* lr_grad = reinterpret_cast<double*>(problem.lr_grad))
    for (int64_t i = 0; i < count; ++i)
      lr_grad[pieces[i].tensor * problem.lr_stride] += lr_grads[i];
}

const std::vector<RuleInfo>& rules() {
  static const std::vector<RuleInfo> all = [] {
    KernelTable table = baseline::table();
    std::vector<RuleInfo> infos;
    for (int i = 0; i < table.size; ++i) {
      const RuleKernels& rule = table.rules[i];
      std::vector<std::string> hyper = names_in(table.common);
      for (std::string& name : names_in(rule.hyper)) hyper.push_back(std::move(name));
      infos.push_back({rule.name, rule.states, std::move(hyper)});
    }
    return infos;
  }();
  return all;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : isas())
    if (isa.supported) names.push_back(isa.name);
  return names;
}

std::string current_isa() { return chosen()->name; }

void use_isa(const std::string& name) {
  for (const Isa& isa : isas()) {
    if (isa.supported && name == isa.name) {
      chosen() = &isa;
      return;
    }
  }
  throw std::invalid_argument("this machine does not support the instruction set " + name);
}

}  // namespace torchopt
