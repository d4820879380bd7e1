# Sources of kernels/cpu. A new op adds its lines here (docs/adding_an_op.md):
#   target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/<op>.cc)
#   tgv_add_isa_sources(tgv_kernels avx2 cpu/avx2/<op>.cc)

# -Wno-psabi: a vector type never crosses a call that is not inlined, so how one would be passed does not matter.
set(quantize_int4_files quantize_int4.cc avx2/quantize_int4.cc avx512/quantize_int4.cc)
list(TRANSFORM quantize_int4_files PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
set_source_files_properties(${quantize_int4_files} PROPERTIES COMPILE_OPTIONS -Wno-psabi)
# GCC 12 warns of uninitialised values inside its own 512-bit intrinsics.
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/avx512/linear.cc ${CMAKE_CURRENT_LIST_DIR}/avx512vnni/linear.cc
  PROPERTIES COMPILE_OPTIONS -Wno-maybe-uninitialized)
target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/quantize_int4.cc ${CMAKE_CURRENT_LIST_DIR}/linear.cc
  ${CMAKE_CURRENT_LIST_DIR}/linear_pack.cc ${CMAKE_CURRENT_LIST_DIR}/linear_probe.cc
  ${CMAKE_CURRENT_LIST_DIR}/matmul.cc)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  tgv_add_isa_sources(tgv_kernels avx2 cpu/avx2/quantize_int4.cc cpu/avx2/linear.cc)
  tgv_add_isa_sources(tgv_kernels avxvnni cpu/avxvnni/linear.cc)
  tgv_add_isa_sources(tgv_kernels avx512 cpu/avx512/quantize_int4.cc cpu/avx512/linear.cc)
  tgv_add_isa_sources(tgv_kernels avx512vnni cpu/avx512vnni/linear.cc)
endif()
