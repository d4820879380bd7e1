// The thread pool: phases and their barriers, exceptions, parking, more threads than cores, fork().
#include "base/thread_pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/barrier_probe.h"
#include "tests/check.h"

using tgv::InvalidArgument;
using tgv::SystemError;
using tgv::ThreadPool;

namespace {

// Runs `phases` phases in which each worker adds its neighbour's value of the phase before to its
// own plain (not atomic) cell: wrong, and a data race, unless every barrier holds.
void check_phases(ThreadPool& pool, int phases) {
  const int n = pool.threads();
  std::vector<std::vector<int64_t>> cells(static_cast<size_t>(phases) + 1);
  for (auto& row : cells) row.assign(static_cast<size_t>(n), 0);
  for (int w = 0; w < n; ++w) cells[0][static_cast<size_t>(w)] = w + 1;
  pool.run_phases(phases, [&](int phase, int worker) {
    const auto& from = cells[static_cast<size_t>(phase)];
    const size_t w = static_cast<size_t>(worker);
    cells[static_cast<size_t>(phase) + 1][w] =
        (from[w] + from[(w + 1) % static_cast<size_t>(n)]) % 1000003;
  });
  std::vector<int64_t> expected = cells[0];
  for (int phase = 0; phase < phases; ++phase) {
    std::vector<int64_t> next(expected.size());
    for (size_t w = 0; w < next.size(); ++w) {
      next[w] = (expected[w] + expected[(w + 1) % next.size()]) % 1000003;
    }
    expected = next;
    CHECK(cells[static_cast<size_t>(phase) + 1] == expected);
  }
}

}  // namespace

TEST(phases_are_separated_by_barriers) {
  for (int64_t spin_ns : {int64_t{0}, int64_t{5'000}, ThreadPool::kSpinAuto}) {
    for (int threads : {1, 2, 3}) {
      ThreadPool pool(threads, spin_ns);
      for (int phases : {0, 1, 2, 97}) check_phases(pool, phases);
      for (int round = 0; round < 50; ++round) check_phases(pool, 3);
    }
  }
}

TEST(more_threads_than_cores) {
  ThreadPool pool(16);
  if (std::thread::hardware_concurrency() < 16) CHECK_EQ(pool.spin_ns(), 0);
  for (int round = 0; round < 10; ++round) check_phases(pool, 20);
  ThreadPool spinning(9, 50'000);  // wasteful, and still right
  for (int round = 0; round < 3; ++round) check_phases(spinning, 10);
}

TEST(parked_threads_wake_up) {
  ThreadPool pool(3, 1'000);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // far past the spinning
    check_phases(pool, 4);
  }
  // One slow worker: the others park at the barrier.
  pool.run_phases(4, [](int phase, int worker) {
    if (worker == phase % 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
}

TEST(claims_start_anew_in_every_phase) {
  ThreadPool pool(3);
  constexpr int kPhases = 40;
  constexpr int64_t kItems = 57;
  std::vector<std::atomic<int>> seen(kPhases * kItems);
  pool.run_phases(kPhases, [&](int phase, int) {
    for (int64_t item = pool.claim(2); item < kItems; item = pool.claim(2)) {
      for (int64_t i = item; i < std::min(item + 2, kItems); ++i) {
        ++seen[static_cast<size_t>(phase * kItems + i)];
      }
    }
  });
  for (auto& times : seen) CHECK_EQ(times.load(), 1);
}

TEST(an_exception_ends_the_phases_and_leaves_the_pool_usable) {
  ThreadPool pool(3);
  for (int bad = 0; bad < 3; ++bad) {
    std::atomic<int> started[6] = {};
    CHECK_THROWS(InvalidArgument,
                 pool.run_phases(6,
                                 [&](int phase, int worker) {
                                   ++started[phase];
                                   if (phase == 2 && worker == bad) {
                                     throw InvalidArgument("phase 2");
                                   }
                                 }),
                 "phase 2");
    for (int phase = 0; phase < 6; ++phase) CHECK_EQ(started[phase].load(), phase <= 2 ? 3 : 0);
    check_phases(pool, 5);
  }
  // All throw, in the last phase, every time.
  for (int round = 0; round < 100; ++round) {
    CHECK_THROWS(SystemError, pool.run([](int) { throw SystemError("all"); }), "all");
  }
  check_phases(pool, 5);
}

TEST(nesting_in_a_phase_is_refused) {
  ThreadPool pool(2), other(2);
  CHECK_THROWS(InvalidArgument,
               pool.run_phases(2, [&](int, int) { pool.run_phases(1, [](int, int) {}); }),
               "from inside a body");
  std::atomic<int> ran{0};
  pool.run([&](int worker) {  // another pool is fine
    if (worker == 0) other.run([&](int) { ++ran; });
  });
  CHECK_EQ(ran.load(), 2);
}

TEST(bad_arguments_are_named) {
  CHECK_THROWS(InvalidArgument, ThreadPool(4097), "threads is 4097");
  CHECK_THROWS(InvalidArgument, ThreadPool(2, -7), "spin_ns is -7");
  ThreadPool pool(2);
  CHECK_THROWS(InvalidArgument, pool.run_phases(-1, [](int, int) {}), "count is -1");
}

TEST(a_forked_child_gets_an_error_and_can_make_its_own_pool) {
  auto* pool = new ThreadPool(3, 1'000);
  check_phases(*pool, 3);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    int code = 1;
    try {
      pool->run([](int) {});
    } catch (const SystemError& error) {
      code = std::string(error.what()).find("before fork()") != std::string::npos ? 0 : 2;
    }
    delete pool;  // must not wait for threads that are not here
#if !defined(__SANITIZE_THREAD__)
    // ThreadSanitizer does not let a forked child of a threaded process start threads.
    if (code == 0) {
      ThreadPool own(2);
      std::atomic<int> ran{0};
      own.run([&](int) { ++ran; });
      if (ran != 2) code = 3;
    }
#endif
    _exit(code);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
  check_phases(*pool, 3);  // the parent's is none the worse
  delete pool;
}

TEST(the_probe_times_every_round) {
  for (int64_t spin_ns : {0, 10'000}) {
    const std::vector<double> times = tgv::barrier_times({2, spin_ns, 10, 7, 0});
    CHECK_EQ(times.size(), size_t{7});
    for (double nanoseconds : times) CHECK(nanoseconds > 0);
  }
  CHECK_THROWS(InvalidArgument, tgv::barrier_times({2, 0, 0, 1, 0}), "phases is 0");
  CHECK_THROWS(InvalidArgument, tgv::barrier_times({2, 0, 1, 0, 0}), "rounds is 0");
  CHECK_THROWS(InvalidArgument, tgv::barrier_times({2, 0, 1, 1, -1}), "pause_ns is -1");
}

TEST_MAIN()
