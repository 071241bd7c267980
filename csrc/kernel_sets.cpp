#include "kernel_sets.h"

#include "system.h"

namespace trilens {

std::vector<const Kernels*> kernel_sets() {
  std::vector<const Kernels*> sets;
  if (avx512_kernels && has_avx512()) sets.push_back(avx512_kernels);
  if (avx2_kernels && has_avx2()) sets.push_back(avx2_kernels);
  if (neon_kernels && has_dot_products()) sets.push_back(neon_kernels);
  sets.push_back(&portable_kernels);
  return sets;
}

}  // namespace trilens
