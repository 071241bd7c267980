// Which sets of kernels can run here.
#pragma once
#include <vector>

#include "kernels.h"

namespace trilens {

std::vector<const Kernels*> kernel_sets();  // what this processor can run, the fastest first

}  // namespace trilens
