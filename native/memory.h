#pragma once
#include <cstddef>

namespace parity {

// Asks for large pages for memory that is about to be filled: weights are read from end to end at every step.
void want_large_pages(void* data, size_t bytes);

// Gives back the memory of pages mapped from a file, where the range lies in such a mapping; they are read again when touched.
void drop_mapped(const void* data, size_t bytes);

}  // namespace parity
