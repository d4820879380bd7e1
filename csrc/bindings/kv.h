// What other files of bindings/ need of the KV cache's.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstdint>

#include "kv/kv_cache.h"

namespace tgv::bindings {

using IntDict = pybind11::typing::Dict<pybind11::str, int64_t>;

IntDict counts_dict(const kv::Counts& counts);

}  // namespace tgv::bindings
