// The instruction set a kernel runs with: the widest this CPU has, or the one asked for.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tgv {

// From the narrowest to the one preferred. kAvx2 is AVX2 + FMA + F16C; kAvxVnni adds 256-bit int8
// dot products; kAvx512 is AVX-512 F, BW, VL and DQ; kAvx512Vnni adds 512-bit int8 dot products. An
// op without a body for one of these runs the widest body that it implies (all imply kAvx2;
// kAvx512Vnni implies kAvx512, but neither implies kAvxVnni).
enum class Isa { kPortable, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni };

const char* isa_name(Isa isa);  // "portable", "avx2", "avxvnni", "avx512", "avx512vnni"

// Whether this CPU has it and its operating system lets it be used.
bool has_isa(Isa isa);

// All that has_isa, in the order above; the first is kPortable.
std::vector<Isa> available_isas();

// The last of available_isas().
Isa best_isa();

// "" means best_isa(). Throws InvalidArgument for a name that is none of the above and Unsupported
// for one this CPU does not have.
Isa choose_isa(std::string_view asked);

}  // namespace tgv
