// Compiles CUDA C++ for the host: the keywords, built-in variables and intrinsics that our kernels
// use. Included first (the build does it with -include), so that kernels and kernels/cuda/device
// never name the emulation.
#pragma once

#define TGV_SIMT 1

#include <algorithm>
#include <cmath>

#include "simt/async.h"
#include "simt/block.h"
#include "simt/collectives.h"
#include "simt/mma.h"
#include "simt/numbers.h"
#include "simt/stream.h"
#include "simt/types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define threadIdx (::simt::block().current->index)
#define blockIdx (::simt::block().index)
#define blockDim (::simt::block().block_size)
#define gridDim (::simt::block().grid_size)

// Statically shared arrays: one per block (thread_local, as a block is an OS thread), poisoned when
// a block starts.
#define TGV_SHARED(type, name, extents)  \
  static thread_local type name extents; \
  ::simt::poison_once(&name, sizeof name)
#define TGV_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(::simt::dynamic_shared())
#define TGV_SPIN() ::simt::spin()

using std::max;
using std::min;
