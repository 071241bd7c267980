// The kernels for 64-bit ARM processors with dot products of bytes. Compiled with those switched on, so nothing of the
// standard library that the linker could share with other files may be instantiated here.
#include "kernels.h"
#include "octets.h"
#include "system.h"

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
#include "products.inl"
#include "eight.h"
using Widest = Eight;
#include "kernels.inl"
static constexpr Kernels kernels = table("neon");
}  // namespace neon

const Kernels* neon_kernels() {
  static const bool have = has_dot_products();
  return have ? &neon::kernels : nullptr;
}

}  // namespace trilens
#else
namespace trilens {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace trilens
#endif
