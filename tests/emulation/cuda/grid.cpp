#include "grid.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace emulation {

Index thread_index, block_index, grid_size;

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kSharedBytes = 48 << 10;
constexpr unsigned char kGarbage = 0xff;  // doubles of these bytes are not numbers

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Thread {
  Fiber fiber;
  State state = State::kDone;
  int line = 0;  // where it waits
  uint64_t bits = 0;
  unsigned delta = 0;
};

struct Variable {
  const char* file;
  int line;
  char* start;
};

// Every block has shared memory of its own, which lives as long as the grid: the thread sanitizer
// would take an access by one block and the release of its memory for a race.
struct Block {
  std::unique_ptr<char, decltype(&free)> memory{static_cast<char*>(malloc(kSharedBytes)), free};
  std::vector<Variable> variables;
  size_t used = 0;
  // Tags of the thread sanitizer, by turns: a thread that has passed one barrier may release the
  // next before another thread has acquired the first.
  char barriers[2] = {};
  unsigned waits = 0;
};

std::mt19937 random_order;
// Blocks take turns with two sets of fibers. For the thread sanitizer everything that one fiber
// does is in order, and a barrier orders all fibers of a block: with one set, it would not see a
// race between a block and the next.
using Threads = std::vector<std::unique_ptr<Thread>>;
Threads threads, others;
std::vector<unsigned> order;
Block* block = nullptr;
unsigned current = 0;
const std::function<void()>* body = nullptr;
std::string mistake;
Counts counts;

// Tags of the thread sanitizer. Threads begin after the launch, and end before whoever waits for
// the grid goes on. Nothing orders the blocks of a grid.
char begun, ended;

[[noreturn]] void stop(const std::string& what) {
  throw std::runtime_error("the emulated GPU stopped: " + what);
}

// Ends the grid. Fibers cannot be unwound, so they are left as they are.
void give_up(const std::string& what) {
  mistake = what;
  Fiber::leave(false);
}

void wait(State state, int line) {
  Thread& me = *threads[current];
  me.state = state;
  me.line = line;
  Fiber::leave(false);
}

void run_thread() {
  acquire(&begun);
  (*body)();
  release(&ended);
  threads[current]->state = State::kDone;
  Fiber::leave(true);
}

// Says where threads are.
std::string places() {
  std::set<std::string> found;
  for (const auto& thread : threads) {
    const std::string line = " in line " + std::to_string(thread->line);
    found.insert(thread->state == State::kAtBlock  ? "at __syncthreads" + line
                 : thread->state == State::kAtWarp ? "at a shuffle" + line
                                                   : "at the end");
  }
  std::string text;
  for (const std::string& place : found) text += (text.empty() ? "" : ", others ") + place;
  return text;
}

// Tells whether some threads in a row all wait in one place.
bool together(unsigned first, size_t count, State state) {
  for (unsigned i = first; i < first + count; ++i)
    if (threads[i]->state != state || threads[i]->line != threads[first]->line) return false;
  return true;
}

bool end_shuffle(unsigned first) {
  if (!together(first, kWarp, State::kAtWarp)) return false;
  uint64_t bits[kWarp];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const unsigned from = lane + threads[first + lane]->delta;
    bits[lane] = threads[first + (from < kWarp ? from : lane)]->bits;
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    threads[first + lane]->bits = bits[lane];
    threads[first + lane]->state = State::kReady;
  }
  return true;
}

bool end_barrier() {
  if (!together(0, threads.size(), State::kAtBlock)) return false;
  for (const auto& thread : threads) thread->state = State::kReady;
  ++block->waits;
  ++counts.barriers;
  return true;
}

void run_block() {
  forbid(block->memory.get(), kSharedBytes);
  release(&begun);
  for (const auto& thread : threads) {
    thread->state = State::kReady;
    thread->fiber.start(run_thread);
  }
  for (bool moved = true; !together(0, threads.size(), State::kDone);) {
    if (!moved) stop("some threads of a block wait " + places());
    moved = false;
    std::shuffle(order.begin(), order.end(), random_order);
    for (unsigned i : order) {
      if (threads[i]->state != State::kReady) continue;
      moved = true;
      current = thread_index.x = i;
      threads[i]->fiber.resume();
      if (!mistake.empty()) stop(mistake);
    }
    for (unsigned first = 0; first < threads.size(); first += kWarp)
      moved = end_shuffle(first) || moved;
    moved = end_barrier() || moved;
  }
}

}  // namespace

void wait_for_block(int line) {
  char* barrier = &block->barriers[block->waits % 2];
  release(barrier);
  wait(State::kAtBlock, line);
  acquire(barrier);
}

uint64_t exchange(uint32_t mask, uint64_t bits, unsigned delta, int line) {
  if (mask != 0xffffffff) give_up("only shuffles of whole warps are emulated");
  Thread& me = *threads[current];
  me.bits = bits;
  me.delta = delta;
  wait(State::kAtWarp, line);
  return me.bits;
}

void* shared_bytes(const char* file, int line, size_t bytes, size_t alignment) {
  for (const Variable& variable : block->variables)
    if (variable.line == line && !strcmp(variable.file, file)) return variable.start;
  // The address sanitizer forbids 8 bytes at a time, so variables do not share these.
  alignment = std::max(alignment, size_t(8));
  const size_t start = (block->used + alignment - 1) / alignment * alignment;
  if (start + bytes > kSharedBytes) give_up("a block has more than 48 KiB of shared variables");
  block->used = start + bytes + alignment;
  char* variable = block->memory.get() + start;
  allow(variable, bytes);
  block->variables.push_back({file, line, variable});
  return variable;
}

void set_order(uint32_t seed) { random_order.seed(seed); }

void run_grid(const Launch& launch) {
  if (launch.threads % kWarp != 0) stop("only blocks of whole warps are emulated");
  for (Threads* set : {&threads, &others}) {
    while (set->size() < size_t(launch.threads)) set->push_back(std::make_unique<Thread>());
    set->resize(size_t(launch.threads));
  }
  order.resize(threads.size());
  std::iota(order.begin(), order.end(), 0u);
  std::vector<unsigned> indices(size_t(launch.blocks));
  std::iota(indices.begin(), indices.end(), 0u);
  std::shuffle(indices.begin(), indices.end(), random_order);
  std::vector<std::unique_ptr<Block>> blocks;
  body = &launch.body;
  mistake.clear();
  grid_size.x = unsigned(launch.blocks);
  for (unsigned index : indices) {
    blocks.push_back(std::make_unique<Block>());
    block = blocks.back().get();
    memset(block->memory.get(), kGarbage, kSharedBytes);
    block_index.x = index;
    std::swap(threads, others);
    run_block();
    allow(block->memory.get(), kSharedBytes);
  }
  acquire(&ended);
  ++counts.launches;
  counts.blocks += launch.blocks;
}

Counts take_counts() {
  const Counts taken = counts;
  counts = {};
  return taken;
}

}  // namespace emulation
