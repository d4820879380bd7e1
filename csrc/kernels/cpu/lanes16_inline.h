// TGV_INLINE of the functions over sixteen lanes: a body must become one loop over registers. Under
// a sanitizer, which instruments every load, that would take minutes to compile and run no faster.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TGV_INLINE inline
#else
#define TGV_INLINE inline __attribute__((always_inline))
#endif
