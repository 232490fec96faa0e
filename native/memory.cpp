#include "memory.h"

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace parity {

#if defined(__linux__)
void want_large_pages(void* data, size_t bytes) {
    constexpr uintptr_t kPage = uintptr_t{1} << 21;
    const auto first = reinterpret_cast<uintptr_t>(data);
    const uintptr_t start = (first + kPage - 1) / kPage * kPage, end = (first + bytes) / kPage * kPage;
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
}
#else
void want_large_pages(void*, size_t) {}
#endif

}  // namespace parity
