// A CUDA block on one operating-system thread: its threads are fibers, run by a scheduler that can
// be hostile.
//
// Order 0 runs warps in lockstep from collective to collective and so hides missing barriers. Every
// other order is a seed: one random warp runs as far as it can before any other moves, its lanes
// and the blocks in random order too. Kernels are tested under several (simt::options().order, or
// the environment variable SIMT_ORDER).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "simt/fiber.h"
#include "simt/types.h"

namespace simt {

// A kernel did what a GPU would not forgive: deadlock, a lane outside its mask, a barrier used
// before its init.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options {
  int order = 0;  // see above; SIMT_ORDER at start
  bool lazy_copies =
      true;  // asynchronous copies land only when waited for; SIMT_LAZY_COPIES=0: at once
  // Mutations, for tests of tests: every thread skips its n-th block barrier (from 0), or every
  // wait for copies lets one group more stay under way. A kernel that still gives the right answer
  // under all orders is not being tested.
  int skip_barrier = -1;
  bool short_copy_waits = false;
  // Launches that may start early do, in graphs and under hostile orders: as far as each thread's
  // wait for the launch before, ahead of that one's first instruction. Mutation: the threads of
  // this launch of a graph (from 0) do not wait, and it is over before the one before it begins.
  bool early_starts = true;
  int unwaiting_launch = -1;
  // Every graph of a step is compared with what would be launched in its place before it runs.
  bool check_replays = true;
};
Options& options();

// The lanes of a warp that meet in one *_sync operation.
struct Meeting {
  unsigned arrived = 0;
  unsigned generation = 0;
  const void* operation = nullptr;  // which one: lanes in different operations must not meet
};

inline constexpr size_t kSlotBytes = 64;
struct alignas(64) Warp {
  Meeting meetings[32];  // by the lowest lane of the mask, so that disjoint masks meet apart
  unsigned char in[32][kSlotBytes], out[32][kSlotBytes];
};

struct Copy {
  void* destination;
  const void* source;
  size_t bytes;  // copied; the rest up to fill_bytes becomes zero
  size_t fill_bytes;
};

struct Thread {
  uint3 index{};
  int linear = 0;
  bool done = false;
  bool has_waited = false;  // for the launch before
  int barriers = 0;         // block barriers met so far
  Context context;
  std::unique_ptr<Stack> stack;
  std::vector<std::vector<Copy>> copy_groups;  // cp.async: committed groups, the last one open
};

struct MBarrier {  // see async.h
  unsigned expected = 0, pending = 0, phase = 0;
  int64_t transaction_bytes = 0;
  std::vector<Copy> copies;
};

struct Block {
  dim3 grid_size, block_size;
  uint3 index{};
  const std::function<void()>* body = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Thread* current = nullptr;
  Context scheduler;
  unsigned live = 0;
  unsigned barrier_arrived = 0, barrier_generation = 0;
  unsigned barrier_votes = 0, barrier_result = 0;
  bool previous_is_done = true;  // the launch before
  bool waits = true;             // for it
  unsigned waiting = 0;          // threads that do
  uint64_t progress = 0;         // grows with everything that may let another thread continue
  std::vector<unsigned char> dynamic_shared;
  std::set<const void*> poisoned;  // statically shared arrays this block has met
  std::map<const void*, MBarrier> mbarriers;
  std::exception_ptr error;
  std::atomic<bool>* failed = nullptr;  // of the launch: another block has thrown
};

Block& block();                             // of the running CUDA thread
void yield();                               // lets the other threads of the block run
unsigned block_barrier(bool vote = false);  // returns the votes of all threads
void wait_for_previous();                   // returns when the launch before is over
void spin();  // inside a loop that waits for another block; throws when that block has failed
void* dynamic_shared();  // 128-byte aligned, filled with 0xff when the block starts
void poison_once(void* data,
                 size_t bytes);  // 0xff (NaN in every float kind), by the block's first thread

inline Warp& warp() { return block().warps[static_cast<size_t>(block().current->linear / 32)]; }
inline int lane() { return block().current->linear % 32; }

// Runs body() as every thread of every block. cooperative: all blocks are resident at once (one OS
// thread each), as a grid barrier needs; otherwise a few OS threads take blocks in turn. dependent:
// it may start early on a GPU, so every thread must wait for the launch before. Rethrows the first
// error of any thread.
void launch_body(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative,
                 const std::function<void()>& body, bool dependent = false);

// A launch that starts before the one before it has: every block is there, every thread as far as
// its wait.
class EarlyStart {
 public:
  EarlyStart(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body,
             bool waits = true);
  ~EarlyStart();
  void finish();  // the launch before is over

 private:
  struct Blocks;
  std::unique_ptr<Blocks> blocks_;
};

template <class Kernel, class... Arguments>
void launch(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, bool cooperative,
            Arguments... arguments) {
  launch_body(grid, block, shared_bytes, cooperative, [=] { kernel(arguments...); });
}

}  // namespace simt
