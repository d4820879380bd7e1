// The instruction set a kernel runs with: the widest this CPU has, or the one asked for.
#pragma once

#include <string_view>

namespace tgv {

// Each holds the ones before it. kAvx2 is AVX2 + FMA + F16C; kAvx512 is AVX-512 F, BW, VL and DQ.
enum class Isa { kPortable, kAvx2, kAvx512 };

const char* isa_name(Isa isa);  // "portable", "avx2", "avx512"

// Widest instruction set that this CPU has and its operating system lets it use.
Isa best_isa();

// "" means best_isa(). Throws InvalidArgument for a name that is none of the above and Unsupported
// for one this CPU does not have.
Isa choose_isa(std::string_view asked);

}  // namespace tgv
