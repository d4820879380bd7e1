// How many threads this process should use: physical cores it may run on, capped by its cgroup's
// CPU quota.
#pragma once

#include <string>
#include <vector>

namespace tgv {

// Logical CPUs in this process's affinity mask, ascending.
std::vector<int> affinity_cpus();

// Distinct physical cores among `cpus`, by package and core id under <root>/sys. A CPU whose
// topology the system does not show counts as a core of its own.
int count_physical_cores(const std::vector<int>& cpus, const std::string& root = "");

// CPUs' worth of time the cgroup (v2 or v1) of this process allows, smallest over its ancestors; 0
// when unlimited.
double cgroup_cpu_quota(const std::string& root = "");

// What `threads=None` means: physical cores in the affinity mask, at most the whole CPUs of the
// quota, at least 1.
int physical_cores(const std::string& root = "");

}  // namespace tgv
