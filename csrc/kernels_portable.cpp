// The kernels in plain C++, for every processor.
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "half.h"
#include "kernels.h"
#include "octets.h"

namespace trilens {
namespace portable {
#include "lanes_portable.h"
#include "one_tile.h"
#include "codes.inl"
#include "dots_of_pairs.inl"
#include "octets_of_pairs.inl"
#include "quantised.inl"
#include "products.inl"
#include "eight.h"
using Widest = Eight;
#include "kernels.inl"
}  // namespace portable

constinit const Kernels portable_kernels = portable::table("portable");

}  // namespace trilens
