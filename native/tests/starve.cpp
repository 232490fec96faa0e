// Working memory that runs out: whoever submitted the tasks is told, and the threads can be used again.
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

#include "agree.h"

namespace {
std::atomic<int> left{-1};  // allocations until one fails
std::atomic<bool> has_failed{false};
}  // namespace

// All memory aligned to a cache line; what an arena allocates with is the one that does not throw.
void* operator new(size_t bytes, std::align_val_t alignment) {
    const auto unit = static_cast<size_t>(alignment);
    if (void* memory = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit)) return memory;
    throw std::bad_alloc();
}
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
    const auto unit = static_cast<size_t>(alignment);
    if (left.load() < 0 || left.fetch_sub(1) != 0) return std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    has_failed = true;
    return nullptr;
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace parity::tests {

bool fail_after(int count) {
    left = count;
    return has_failed.exchange(false);
}

namespace {

struct TakeArgs {
    size_t bytes;
    std::atomic<int>* ran;  // threads that have had their memory
};

void take(const void* raw, Team& team) {
    const auto& args = *static_cast<const TakeArgs*>(raw);
    for (size_t bytes : {args.bytes / 2, args.bytes}) {
        std::byte* memory = team.local(bytes);
        if (!memory) return;
        std::memset(memory, team.index, bytes);
        team.barrier();
    }
    ++*args.ran;
}

// Some tasks, more and more greedy, those marked in `solo` by one thread alone. Every allocation fails once.
void starve_tasks(const std::string& solo) {
    constexpr int threads = 3;
    std::vector<std::atomic<int>> ran(solo.size());
    Recording recording;
    for (size_t i = 0; i < solo.size(); ++i) {
        const TakeArgs args{1000 * (i + 1), &ran[i]};
        Task task{take, solo[i] == '1', "", {}};
        std::memcpy(task.args, &args, sizeof args);
        recording.add(task, 500 * (i + 1));
    }
    int failures = 0;
    for (bool thrown = true; thrown; ++failures) {
        Pool pool(threads);
        fail_after(failures);
        thrown = false;
        try {
            recording.replay(pool);
        } catch (const OutOfMemory& error) {
            thrown = std::string(error.what()).find(" bytes were asked for") != std::string::npos;
        }
        check(fail_after(-1) == thrown, "any", "tasks without memory end by an exception that says so", failures);
        bool ended = false;
        for (size_t i = 0; i < solo.size(); ++i) {
            const int all = solo[i] == '1' ? 1 : threads, some = ran[i].exchange(0);
            check(some == (ended ? 0 : all) || (thrown && some == 0), "any", "no task runs after one that has no memory", failures, static_cast<int64_t>(i));
            ended = ended || some == 0;
        }
        check(ended == thrown, "any", "the task that has no memory does not run", failures);
        recording.replay(pool);  // what failed once does not now
        for (size_t i = 0; i < solo.size(); ++i) check(ran[i].exchange(0) == (solo[i] == '1' ? 1 : threads), "any", "threads that had no memory run on", failures, static_cast<int64_t>(i));
    }
    check(failures > 4, "any", "several allocations can fail", failures);
}

}  // namespace

void starve() {
    for (const char* solo : {"0", "000", "0110", "11011", "1111", "00101"}) starve_tasks(solo);
}

}  // namespace parity::tests
