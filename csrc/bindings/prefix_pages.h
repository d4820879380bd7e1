// Keys and values of a prompt's beginning, as Python holds them.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "engine/events.h"
#include "engine/prefix_pages.h"

namespace tgv::bindings {

// The holder of the Python object _native.PrefixPages; it is never changed once made.
using PagesHandle = std::shared_ptr<engine::PrefixPages>;

// ("pages", numbers [n, L, 2, H, PS, D], scales f16 [n, L, 2, H, PS] or None).
pybind11::tuple pages_tuple(const engine::PagesEvent& event);

}  // namespace tgv::bindings
