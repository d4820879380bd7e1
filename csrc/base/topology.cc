#include "base/topology.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

namespace tgv {

namespace {

bool read_line(const std::string& path, std::string* line) {
  std::ifstream file(path);
  return static_cast<bool>(std::getline(file, *line));
}

bool read_number(const std::string& path, long* value) {
  std::ifstream file(path);
  return static_cast<bool>(file >> *value);
}

// cpu.max holds "<quota|max> <period>" in microseconds.
double quota_v2(const std::string& folder) {
  std::string line, quota;
  double period = 0;
  if (!read_line(folder + "/cpu.max", &line)) return 0;
  std::istringstream words(line);
  words >> quota >> period;
  if (quota.empty() || quota == "max" || period <= 0) return 0;
  double allowed = 0;
  std::istringstream(quota) >> allowed;
  return allowed / period;
}

double quota_v1(const std::string& folder) {
  long quota = 0, period = 0;
  if (!read_number(folder + "/cpu.cfs_quota_us", &quota)) return 0;
  if (!read_number(folder + "/cpu.cfs_period_us", &period)) return 0;
  return quota > 0 && period > 0 ? static_cast<double>(quota) / static_cast<double>(period) : 0;
}

// The smallest quota of `path` and its ancestors under `mount`. Inside a container the path the
// kernel reports may lie outside what is mounted, so folders that are not there are passed over.
double smallest_quota(const std::string& mount, std::string path,
                      double (*quota)(const std::string&)) {
  double smallest = 0;
  while (true) {
    const double here = quota(path == "/" ? mount : mount + path);
    if (here > 0 && (smallest == 0 || here < smallest)) smallest = here;
    if (path.empty() || path == "/") return smallest;
    path = path.substr(0, path.rfind('/'));
  }
}

bool lists_cpu(const std::string& controllers) {
  std::istringstream words(controllers);
  for (std::string word; std::getline(words, word, ',');) {
    if (word == "cpu") return true;
  }
  return false;
}

}  // namespace

std::vector<int> affinity_cpus() {
  // The kernel's mask may be wider than a cpu_set_t; grow until it fits.
  for (int limit = CPU_SETSIZE; limit <= 1 << 20; limit *= 2) {
    cpu_set_t* mask = CPU_ALLOC(limit);
    const size_t bytes = CPU_ALLOC_SIZE(limit);
    std::vector<int> cpus;
    const bool read = mask && sched_getaffinity(0, bytes, mask) == 0;
    for (int cpu = 0; read && cpu < limit; ++cpu) {
      if (CPU_ISSET_S(cpu, bytes, mask)) cpus.push_back(cpu);
    }
    CPU_FREE(mask);
    if (read) return cpus;
  }
  return {0};
}

int count_physical_cores(const std::vector<int>& cpus, const std::string& root) {
  std::set<std::pair<long, long>> cores;
  for (int cpu : cpus) {
    const std::string folder =
        root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    long package = 0, core = 0;
    if (!read_number(folder + "physical_package_id", &package) ||
        !read_number(folder + "core_id", &core)) {
      package = -2;  // no real package has this id
      core = cpu;
    }
    cores.emplace(package, core);
  }
  return static_cast<int>(cores.size());
}

double cgroup_cpu_quota(const std::string& root) {
  double smallest = 0;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "id:controllers:path", "0::path" for v2
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    double quota = 0;
    if (controllers.empty()) {
      quota = smallest_quota(root + "/sys/fs/cgroup", path, quota_v2);
    } else if (lists_cpu(controllers)) {
      quota = smallest_quota(root + "/sys/fs/cgroup/cpu", path, quota_v1);
    }
    if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
  }
  return smallest;
}

int physical_cores(const std::string& root) {
  const int cores = count_physical_cores(affinity_cpus(), root);
  const double quota = cgroup_cpu_quota(root);
  const int capped = quota > 0 ? std::min(cores, static_cast<int>(quota)) : cores;
  return std::max(1, capped);
}

}  // namespace tgv
