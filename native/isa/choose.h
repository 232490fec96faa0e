#pragma once
#include <string>
#include <vector>

#include "../kernels.h"

namespace parity {

// The tables that run on this machine, best first; the last is `portable`.
std::vector<const Kernels*> usable_kernels();

// The table of that name, or the best for an empty name. Throws std::invalid_argument.
const Kernels& kernels_named(const std::string& name);

}  // namespace parity
