#pragma once
#include <cstddef>

namespace parity {

// Asks for large pages for memory that is about to be filled: weights are read from end to end at every step.
void want_large_pages(void* data, size_t bytes);

}  // namespace parity
