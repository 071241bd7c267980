// The kernels for 64-bit ARM processors with dot products of bytes. Compiled with those switched on, so nothing of the
// standard library that the linker could share with other files may be instantiated here.
#include "kernels.h"
#include "octets.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

namespace trilens {
namespace neon {
#include "lanes_neon.h"
#include "one_tile.h"
#include "codes.inl"
#include "dots_of_fours.inl"
#include "octets_of_fours.inl"
#include "quantised.inl"
#include "products.inl"
#include "eight.h"
using Widest = Eight;
#include "kernels.inl"
static constinit const Kernels kernels = table("neon");
}  // namespace neon

constinit const Kernels* const neon_kernels = &neon::kernels;

}  // namespace trilens
#else
namespace trilens {
constinit const Kernels* const neon_kernels = nullptr;
}  // namespace trilens
#endif
