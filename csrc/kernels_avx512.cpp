// The kernels for processors with AVX-512 and VNNI: products of sixteen rows at a time, everything else as with AVX2.
// Compiled with those switched on, so nothing of the standard library that the linker could share with other files may
// be instantiated here.
#include "kernels.h"
#include "octets.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

namespace trilens {
namespace avx512 {
#include "lanes_avx2.h"
namespace narrow {
#include "one_tile.h"
#include "lanes_vnni.h"
#include "codes.inl"
#include "dots_of_fours.inl"
#include "octets_of_pairs.inl"
#include "quantised.inl"
#include "products.inl"
}  // namespace narrow
namespace wide {
#include "two_places.h"
#include "lanes_avx512.h"
#include "codes.inl"
#include "dots_of_fours.inl"
#include "octets_of_fours.inl"
#include "quantised.inl"
#include "products.inl"
}  // namespace wide

// One or two rows wait for memory, which comes faster from one tile after the other than from two at once.
static void product(const Matrix& m, int which, int t0, int t1, const Activations& x, int rows, float* y, size_t y_stride) {
  (rows > 2 ? wide::product : narrow::product)(m, which, t0, t1, x, rows, y, y_stride);
}

#include "eight.h"
using Widest = wide::Sixteen;
using narrow::SUMS_OF_FOURS;
template <> inline wide::Floats filled<wide::Floats>(float x) { return wide::every(x); }
#include "kernels.inl"
static constinit const Kernels kernels = table("avx512");
}  // namespace avx512

constinit const Kernels* const avx512_kernels = &avx512::kernels;

}  // namespace trilens
#else
namespace trilens {
constinit const Kernels* const avx512_kernels = nullptr;
}  // namespace trilens
#endif
