// Level base: shape matching and its messages, topology read from a made-up /sys, the thread pool,
// the bandwidth probe.
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "base/bandwidth.h"
#include "base/cpu_features.h"
#include "base/int8_peak.h"
#include "base/match.h"
#include "base/thread_pool.h"
#include "base/topology.h"
#include "tests/check.h"

using tgv::DType;
using tgv::InvalidArgument;
using tgv::Sizes;
using tgv::TensorView;

namespace {

float some_memory[1];

TensorView tensor(std::vector<int64_t> shape, DType dtype = DType::kF16) {
  return TensorView::contiguous(some_memory, dtype, std::move(shape));
}

// A folder that plays the root of a file system.
class FakeRoot {
 public:
  FakeRoot() {
    char name[] = "/tmp/tgv_root_XXXXXX";
    path_ = mkdtemp(name);
  }
  ~FakeRoot() { std::filesystem::remove_all(path_); }
  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(path_ + file).parent_path());
    std::ofstream(path_ + file) << text;
  }
  void cpu(int index, int package, int core) {
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(index) + "/topology/";
    write(folder + "physical_package_id", std::to_string(package) + "\n");
    write(folder + "core_id", std::to_string(core) + "\n");
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

TEST(a_match_binds_names_and_a_mismatch_names_them) {
  Sizes sizes;
  sizes.match("q", tensor({3, 32, 80}), {"S", "H", "D"}, {DType::kF16});
  CHECK_EQ(sizes["H"], 32);
  CHECK_THROWS(
      InvalidArgument,
      sizes.match("k_pages", tensor({512, 32, 16, 64}), {"NP", "H", "PS", "D"}, {DType::kF16}),
      "k_pages is [512,32,16,64] f16, expected [NP,H=32,PS,D=80] f16; D was set by q");
  CHECK(!sizes.has("NP"));  // a failed match binds nothing
  sizes.match("k_pages", tensor({512, 32, 16, 80}), {"NP", "H", "PS", "D"}, {DType::kF16});
  CHECK_EQ(sizes["NP"], 512);
}

TEST(a_match_checks_rank_dtype_numbers_layout_and_access) {
  Sizes sizes;
  CHECK_THROWS(InvalidArgument, sizes.match("x", tensor({3}), {"T", "K"}, {DType::kF16}),
               "x is [3] f16, expected [T,K] f16");
  CHECK_THROWS(InvalidArgument, sizes.match("x", tensor({3, 4}), {"T", 5}, {DType::kF16}),
               "x is [3,4] f16, expected [T,5] f16");
  CHECK_THROWS(InvalidArgument,
               sizes.match("x", tensor({3}, DType::kI8), {"T"}, {DType::kF32, DType::kF16}),
               "x is [3] i8, expected [T] f32 or f16");
  CHECK_THROWS(InvalidArgument, sizes.match("x", tensor({3, 4}), {"T", "T"}, {DType::kF16}),
               "T was set by x");
  TensorView strided = tensor({3, 4});
  strided.strides_elems = {8, 1};
  CHECK_THROWS(InvalidArgument, sizes.match("x", strided, {"T", "K"}, {DType::kF16}),
               "x is [3,4] f16, strided, expected contiguous [T,K] f16");
  TensorView constant = tensor({2});
  constant.read_only = true;
  sizes.match("x", constant, {2}, {DType::kF16});
  CHECK_THROWS(InvalidArgument,
               sizes.match("out", constant, {2}, {DType::kF16}, tgv::Access::kWrite),
               "out is [2] f16, read-only, expected writable memory");
  TensorView nothing = tensor({2});
  nothing.data = nullptr;
  CHECK_THROWS(InvalidArgument, sizes.match("x", nothing, {2}, {DType::kF16}), "null pointer");
}

TEST(a_size_set_by_hand_is_held_to) {
  Sizes sizes;
  sizes.set("G", 32, "group_size");
  CHECK_THROWS(InvalidArgument, sizes.match("s", tensor({16}), {"G"}, {DType::kF16}),
               "G was set by group_size");
  CHECK_THROWS(InvalidArgument, sizes.set("G", 64, "other"), "expected 32 as set by group_size");
  CHECK_THROWS(InvalidArgument, sizes["K"], "K was asked for before");
}

TEST(strides_of_single_elements_do_not_matter) {
  TensorView view = tensor({1, 4});
  view.strides_elems = {99, 1};
  CHECK(view.is_contiguous());
  CHECK_EQ(tensor({0, 4}).elements(), 0);
}

TEST(hyperthreads_are_one_core) {
  FakeRoot root;
  for (int i = 0; i < 8; ++i)
    root.cpu(i, i / 4, i % 2);  // two packages of two cores of two threads
  CHECK_EQ(tgv::count_physical_cores({0, 1, 2, 3, 4, 5, 6, 7}, root.path()), 4);
  CHECK_EQ(tgv::count_physical_cores({0, 2}, root.path()), 1);
  CHECK_EQ(tgv::count_physical_cores({0, 4}, root.path()), 2);
  CHECK_EQ(tgv::count_physical_cores({0, 100, 101}, root.path()), 3);  // unknown CPUs count alone
}

TEST(the_smallest_quota_of_the_ancestors_counts) {
  FakeRoot root;
  CHECK_EQ(tgv::cgroup_cpu_quota(root.path()), 0.0);
  root.write("/proc/self/cgroup", "0::/a/b\n");
  CHECK_EQ(tgv::cgroup_cpu_quota(root.path()), 0.0);
  root.write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  CHECK_EQ(tgv::cgroup_cpu_quota(root.path()), 0.0);
  root.write("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
  root.write("/sys/fs/cgroup/cpu.max", "800000 100000\n");
  CHECK_EQ(tgv::cgroup_cpu_quota(root.path()), 2.5);
}

TEST(a_quota_of_cgroup_v1_counts_too) {
  FakeRoot root;
  root.write("/proc/self/cgroup", "4:memory:/x\n2:cpu,cpuacct:/x\n");
  root.write("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "150000\n");
  root.write("/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
  CHECK_EQ(tgv::cgroup_cpu_quota(root.path()), 1.5);
  CHECK_EQ(tgv::physical_cores(root.path()), 1);
}

TEST(this_machine_has_cores) {
  CHECK(!tgv::affinity_cpus().empty());
  CHECK(tgv::physical_cores() >= 1);
  CHECK(tgv::physical_cores() <= static_cast<int>(tgv::affinity_cpus().size()));
}

TEST(features_imply_what_they_stand_on) {
  const tgv::CpuFeatures f = tgv::detect_cpu_features();
  CHECK(!f.avx_vnni || f.avx2);
  CHECK(!f.avx512_vnni || f.avx512f);
  CHECK(!f.avx512bw || f.avx512f);
  CHECK(!f.amx_int8 || f.amx_tile);
}

TEST(every_worker_runs_once_per_run) {
  tgv::ThreadPool pool(4);
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> seen[4] = {};
    pool.run([&](int worker) { ++seen[worker]; });
    for (auto& count : seen) CHECK_EQ(count.load(), 1);
  }
}

TEST(parallel_for_covers_everything_once) {
  tgv::ThreadPool pool(3);
  for (int64_t count : {0, 1, 6, 7, 8, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
    pool.parallel_for(count, 7, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
    });
    for (auto& times : seen) CHECK_EQ(times.load(), 1);
  }
  CHECK_THROWS(InvalidArgument, pool.parallel_for(-1, 7, [](int64_t, int64_t) {}), "count=-1");
}

TEST(an_exception_of_a_worker_reaches_the_caller) {
  tgv::ThreadPool pool(3);
  CHECK_THROWS(InvalidArgument, pool.run([](int worker) {
    if (worker == 2) throw InvalidArgument("from worker 2");
  }),
               "from worker 2");
  std::atomic<int> ran{0};
  pool.run([&](int) { ++ran; });  // and the pool is none the worse
  CHECK_EQ(ran.load(), 3);
}

TEST(callers_take_turns_and_nesting_is_refused) {
  tgv::ThreadPool pool(2);
  std::atomic<int> inside{0}, overlaps{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) {
    callers.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        pool.run([&](int worker) {
          if (worker == 0 && inside.exchange(1)) ++overlaps;
          if (worker == 0) inside = 0;
        });
      }
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK_EQ(overlaps.load(), 0);
  CHECK_THROWS(InvalidArgument, pool.run([&](int) { pool.run([](int) {}); }), "from inside a body");
}

TEST(a_pool_needs_a_thread) { CHECK_THROWS(InvalidArgument, tgv::ThreadPool(0), "threads is 0"); }

TEST(bandwidth_is_a_positive_rate) {
  CHECK(tgv::read_bandwidth({2, 8 << 20, 3}) > 1e6);
  CHECK_THROWS(InvalidArgument, tgv::read_bandwidth({2, 64, 3}), "bytes is 64");
  CHECK_THROWS(InvalidArgument, tgv::read_bandwidth({-3, 1 << 20, 3}), "threads is -3");
  CHECK_THROWS(InvalidArgument, tgv::read_bandwidth({1, 1 << 20, 0}), "passes is 0");
}

TEST(int8_peak_is_a_positive_rate_on_every_instruction_set) {
  for (const tgv::Isa isa : tgv::available_isas()) {
    if (isa == tgv::Isa::kPortable) {
      CHECK_THROWS(tgv::Unsupported, tgv::int8_peak({1, isa, 1, 1000}), "'portable'");
    } else {
      CHECK(tgv::int8_peak({2, isa, 2, 1000}) > 1e6);
    }
  }
  CHECK_THROWS(InvalidArgument, tgv::int8_peak({-1, tgv::best_isa(), 1, 1}), "threads is -1");
  CHECK_THROWS(InvalidArgument, tgv::int8_peak({1, tgv::best_isa(), 0, 1}), "passes is 0");
  CHECK_THROWS(InvalidArgument, tgv::int8_peak({1, tgv::best_isa(), 1, 0}), "rounds is 0");
}

TEST_MAIN()
