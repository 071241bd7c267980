// The kernels for processors with AVX2, FMA and F16C. Compiled with those switched on, so nothing of the standard
// library that the linker could share with other files may be instantiated here.
#include "kernels.h"
#include "octets.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

namespace trilens {
namespace avx2 {
#include "lanes_avx2.h"
namespace narrow {
#include "one_tile.h"
#include "codes.inl"
#include "dots_of_pairs.inl"
#include "octets_of_pairs.inl"
#include "quantised.inl"
#include "products.inl"
}  // namespace narrow
namespace wide {
#include "two_places.h"
#include "two_tiles.h"
#include "codes.inl"
#include "dots_of_pairs.inl"
#include "octets_of_pairs.inl"
#include "quantised.inl"
#include "unpacked.inl"
#include "products.inl"
}  // namespace wide

// One or two rows wait for memory, which comes faster from one tile after the other than from two at once.
static void product(const Matrix& m, int which, int t0, int t1, const Activations& x, int rows, float* y, size_t y_stride) {
  if (rows <= (is_float(m.type) ? 3 : 2)) return narrow::product(m, which, t0, t1, x, rows, y, y_stride);
  if (!(x.fine ? wide::unpacked_product<true> : wide::unpacked_product<false>)(m, which, t0, t1, x, rows, y, y_stride))
    wide::product(m, which, t0, t1, x, rows, y, y_stride);
}

#include "eight.h"
using Widest = Eight;
using narrow::SUMS_OF_FOURS;
#include "kernels.inl"
static constinit const Kernels kernels = table("avx2");
}  // namespace avx2

constinit const Kernels* const avx2_kernels = &avx2::kernels;

}  // namespace trilens
#else
namespace trilens {
constinit const Kernels* const avx2_kernels = nullptr;
}  // namespace trilens
#endif
