#include "memory.h"

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#endif

namespace parity {

#if defined(__linux__)
namespace {

// The whole pages of `size` inside a range.
struct Inside {
    uintptr_t start, end;
    Inside(const void* data, size_t bytes, uintptr_t size)
        : start((reinterpret_cast<uintptr_t>(data) + size - 1) / size * size), end((reinterpret_cast<uintptr_t>(data) + bytes) / size * size) {}
};

bool mapped_privately_from_file(uintptr_t start, uintptr_t end) {
    std::FILE* maps = std::fopen("/proc/self/maps", "r");
    if (!maps) return false;
    bool found = false;
    char line[512];
    while (!found && std::fgets(line, sizeof line, maps)) {
        uintptr_t from = 0, to = 0;
        char flags[8] = {};
        unsigned long inode = 0;
        if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s %*s %*s %lu", &from, &to, flags, &inode) == 4)
            found = from <= start && end <= to && inode != 0 && flags[3] == 'p';
    }
    std::fclose(maps);
    return found;
}

}  // namespace

void want_large_pages(void* data, size_t bytes) {
    const Inside range(data, bytes, uintptr_t{1} << 21);
    if (range.start < range.end) madvise(reinterpret_cast<void*>(range.start), range.end - range.start, MADV_HUGEPAGE);
}

void drop_mapped(const void* data, size_t bytes) {
    const Inside range(data, bytes, static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)));
    if (range.start < range.end && mapped_privately_from_file(range.start, range.end))
        madvise(reinterpret_cast<void*>(range.start), range.end - range.start, MADV_DONTNEED);
}
#else
void want_large_pages(void*, size_t) {}
void drop_mapped(const void*, size_t) {}
#endif

}  // namespace parity
