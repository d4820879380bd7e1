# Sources of kernels/cpu. A new op adds its line here (docs/adding_an_op.md).
#
# tgv_cpu_op(<op> [<isa>...]): <op>.cc, and <isa>/<op>.cc with the flags of each instruction set.
# -Wno-psabi: a vector type never crosses a call that is not inlined, so how one would be passed does not matter.
# -Wno-uninitialized: GCC's own AVX-512 header makes undefined vectors of themselves and warns about it.
set(cpu_op_options -Wno-psabi -Wno-uninitialized -Wno-maybe-uninitialized)
if(TINYGPTV_SANITIZE)
  # The large bodies would take the compiler minutes, instrumented in line and optimised.
  list(APPEND cpu_op_options -O1)
  if(TINYGPTV_SANITIZE MATCHES "address")
    list(APPEND cpu_op_options --param=asan-instrumentation-with-call-threshold=0)
  endif()
endif()

function(tgv_cpu_op op)
  set(here ${CMAKE_CURRENT_FUNCTION_LIST_DIR})
  target_sources(tgv_kernels PRIVATE ${here}/${op}.cc)
  set_source_files_properties(${here}/${op}.cc PROPERTIES COMPILE_OPTIONS "${cpu_op_options}")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    foreach(isa ${ARGN})
      tgv_add_isa_sources(tgv_kernels ${isa} cpu/${isa}/${op}.cc)
      # Undefined behaviour is looked for in the portable body, which is the same source over another vector.
      set_source_files_properties(${here}/${isa}/${op}.cc PROPERTIES COMPILE_OPTIONS
                                  "${cpu_op_options};-fno-sanitize=undefined")
    endforeach()
  endif()
endfunction()

tgv_cpu_op(embedding)
tgv_cpu_op(linear avx2 avxvnni avx512 avx512vnni)
tgv_cpu_op(linear_finish avx2 avx512)
tgv_cpu_op(linear_pack)
tgv_cpu_op(linear_probe)
tgv_cpu_op(matmul)
tgv_cpu_op(norm avx2 avx512)
tgv_cpu_op(paged_attention avx2 avx512 avx512vnni)
tgv_cpu_op(qkv_append avx2 avx512)
tgv_cpu_op(quantize_int4 avx2 avx512)
tgv_cpu_op(sampling avx2 avx512)
