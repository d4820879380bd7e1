#include "simt/block.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

namespace simt {

namespace {

thread_local Block* running = nullptr;

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

void release_barrier_if_complete(Block& b) {
  if (b.live == 0 || b.barrier_arrived != b.live) return;
  b.barrier_arrived = 0;
  b.barrier_result = b.barrier_votes;
  b.barrier_votes = 0;
  ++b.barrier_generation;
}

// The life of a CUDA thread.
void thread_main() {
  entered();
  Block& b = *running;
  try {
    (*b.body)();
  } catch (...) {
    if (!b.error) b.error = std::current_exception();
  }
  b.current->done = true;
  --b.live;
  ++b.progress;
  release_barrier_if_complete(b);  // an exited thread counts as arrived, as on a GPU
  switch_context(b.current->context, b.scheduler, /*last=*/true);
}

void reset(Block& b, dim3 grid, dim3 size, uint3 index, size_t shared_bytes,
           const std::function<void()>& body) {
  const unsigned count = size.x * size.y * size.z;
  b.grid_size = grid;
  b.block_size = size;
  b.index = index;
  b.body = &body;
  b.live = count;
  b.previous_is_done = true;
  b.waits = true;
  b.waiting = 0;
  b.barrier_arrived = b.barrier_votes = 0;
  b.dynamic_shared.assign(shared_bytes + 128, 0xff);
  b.poisoned.clear();
  b.mbarriers.clear();
  b.error = nullptr;
  b.warps.assign((count + 31) / 32, Warp());
  b.threads.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    Thread& t = b.threads[i];
    if (!t.stack) t.stack = std::make_unique<Stack>();
    t.linear = static_cast<int>(i);
    t.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    t.done = false;
    t.has_waited = false;
    t.barriers = 0;
    t.copy_groups.assign(1, {});
    t.context = Context();
    prepare(t.context, *t.stack, thread_main);
  }
}

void run_warp_once(Block& b, int warp_index, const std::vector<int>& lanes) {
  for (int lane_index : lanes) {
    const size_t i = static_cast<size_t>(warp_index * 32 + lane_index);
    if (i >= b.threads.size() || b.threads[i].done) continue;
    b.current = &b.threads[i];
    switch_context(b.scheduler, b.current->context);
    if (b.error) std::rethrow_exception(b.error);  // the other fibers are dropped where they stand
  }
}

// Until all threads are done, or wait for the launch before where that is not over.
void run_block(Block& b, int order) {
  std::vector<int> warps(b.warps.size()), lanes(32);
  std::iota(warps.begin(), warps.end(), 0);
  std::iota(lanes.begin(), lanes.end(), 0);
  std::mt19937 random(static_cast<unsigned>(order) * 7919u + b.index.x + 131u * b.index.y);
  while (b.live && (b.previous_is_done || b.waiting < b.live)) {
    const uint64_t before = b.progress;
    if (order) std::shuffle(warps.begin(), warps.end(), random);
    for (int w : warps) {
      uint64_t seen;
      do {  // lockstep: one step; hostile: as far as this warp can go without the others
        seen = b.progress;
        if (order) std::shuffle(lanes.begin(), lanes.end(), random);
        run_warp_once(b, w, lanes);
      } while (order && seen != b.progress);
    }
    if (b.live && before == b.progress) {
      throw Error("deadlock in block " + std::to_string(b.index.x) + ": " + std::to_string(b.live) +
                  " threads wait for others that will not come (a barrier or shuffle in a "
                  "divergent branch?)");
    }
  }
}

void check_waited(const Block& b) {
  for (const Thread& t : b.threads) {
    if (t.has_waited || !b.waits) continue;
    throw Error("thread " + std::to_string(t.linear) + " of block " + std::to_string(b.index.x) +
                " never waits for the launch before, which a launch that may start early must");
  }
}

}  // namespace

Options& options() {
  static Options current = [] {
    Options o;
    o.order = from_environment("SIMT_ORDER", 0);
    o.lazy_copies = from_environment("SIMT_LAZY_COPIES", 1) != 0;
    return o;
  }();
  return current;
}

Block& block() { return *running; }

void yield() { switch_context(running->current->context, running->scheduler); }

void spin() {
  if (running->failed->load(std::memory_order_relaxed)) {
    throw Error("another block of this launch failed");
  }
  ++running->progress;
  yield();
  std::this_thread::yield();
}

unsigned block_barrier(bool vote) {
  Block& b = *running;
  if (b.current->barriers++ == options().skip_barrier) return 0;
  const unsigned generation = b.barrier_generation;
  b.barrier_votes += vote;
  ++b.progress;
  ++b.barrier_arrived;
  release_barrier_if_complete(b);
  while (b.barrier_generation == generation) yield();
  return b.barrier_result;
}

void wait_for_previous() {
  Block& b = *running;
  b.current->has_waited = true;
  if (b.previous_is_done || !b.waits) return;
  ++b.waiting;
  ++b.progress;
  while (!b.previous_is_done) yield();
}

void* dynamic_shared() {
  const uintptr_t start = reinterpret_cast<uintptr_t>(running->dynamic_shared.data());
  return reinterpret_cast<void*>((start + 127) & ~uintptr_t{127});
}

void poison_once(void* data, size_t bytes) {
  if (running->poisoned.insert(data).second) std::memset(data, 0xff, bytes);
}

void launch_body(dim3 grid, dim3 size, size_t shared_bytes, bool cooperative,
                 const std::function<void()>& body, bool dependent) {
  const unsigned blocks = grid.x * grid.y * grid.z;
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const unsigned workers = cooperative ? blocks : std::min(blocks, cores);
  const int order = options().order;
  std::vector<unsigned> sequence(blocks);
  std::iota(sequence.begin(), sequence.end(), 0u);
  if (order)
    std::shuffle(sequence.begin(), sequence.end(), std::mt19937(static_cast<unsigned>(order)));

  std::atomic<unsigned> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::exception_ptr error;
  auto work = [&] {
    Block own;  // its stacks are reused from block to block
    own.failed = &failed;
    running = &own;
    try {
      for (unsigned i; (i = next++) < blocks;) {
        const unsigned q = sequence[i];
        reset(own, grid, size, {q % grid.x, q / grid.x % grid.y, q / (grid.x * grid.y)},
              shared_bytes, body);
        run_block(own, order);
        if (dependent) check_waited(own);
      }
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!failed.exchange(true)) error = std::current_exception();
      next = blocks;
    }
    running = nullptr;
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < workers; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

// --- early starts -------------------------------------------------------------------------------
// All on the thread that starts it: no block waits for another.
struct EarlyStart::Blocks {
  std::vector<std::unique_ptr<Block>> all;
  std::atomic<bool> failed{false};
  int order = 0;

  void run(bool previous_is_done) {
    Block* const before = running;
    try {
      for (const std::unique_ptr<Block>& b : all) {
        b->previous_is_done = previous_is_done;
        running = b.get();
        run_block(*b, order);
        if (previous_is_done) check_waited(*b);
      }
    } catch (...) {
      running = before;
      throw;
    }
    running = before;
  }
};

EarlyStart::EarlyStart(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& body,
                       bool waits)
    : blocks_(std::make_unique<Blocks>()) {
  const unsigned count = grid.x * grid.y * grid.z;
  blocks_->order = options().order;
  for (unsigned q = 0; q < count; ++q) {
    blocks_->all.push_back(std::make_unique<Block>());
    Block& b = *blocks_->all.back();
    b.failed = &blocks_->failed;
    reset(b, grid, size, {q % grid.x, q / grid.x % grid.y, q / (grid.x * grid.y)}, shared_bytes,
          body);
    b.waits = waits;
  }
  std::shuffle(blocks_->all.begin(), blocks_->all.end(),
               std::mt19937(static_cast<unsigned>(blocks_->order)));
  blocks_->run(/*previous_is_done=*/false);
}

EarlyStart::~EarlyStart() = default;

void EarlyStart::finish() { blocks_->run(/*previous_is_done=*/true); }

}  // namespace simt
