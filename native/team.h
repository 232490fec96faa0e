// The threads that compute an op together. Only declarations: the sources that include this are compiled for several
// instruction sets, and a function defined here could be taken from the wrong one.
#pragma once
#include <cstddef>
#include <cstdint>

namespace parity {

class Pool;

// One thread's view of the threads that run an op.
class Team {
public:
    Team(Pool* pool, int index, int size, size_t task);

    const int index;
    const int size;

    // Waits for all threads of the team; `claim` then starts again from 0.
    void barrier();
    // The next number of 0, 1, 2, ... that no other thread of the team has claimed.
    int64_t claim();
    // The op's shared memory, of at least the size that it was submitted with.
    std::byte* shared();
    // This thread's own memory, of a size that all threads of the team ask for at one place, before any of them claims. Null
    // where one of them cannot have it: the op then returns, and whoever submitted it is told.
    std::byte* local(size_t bytes);

private:
    Pool* pool_;
    size_t task_;  // of those that the pool runs
    int64_t claimed_ = 0;
};

}  // namespace parity
