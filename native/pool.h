// One pool of threads, and the recording of what it was given to run.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#include "team.h"

namespace parity {

using Run = void (*)(const void* args, Team& team);

// One op with its arguments.
struct Task {
    Run run;
    bool solo;  // too little work to share
    const char* name;
    alignas(16) unsigned char args[240];
};

// Working memory that cannot be had; what was asked for is in the text.
class OutOfMemory : public std::bad_alloc {
public:
    OutOfMemory(size_t bytes, int threads);
    const char* what() const noexcept override { return text_; }

private:
    char text_[192];
};

// Memory aligned to a cache line that only grows.
class Arena {
public:
    Arena() = default;
    Arena(const Arena&) = delete;
    ~Arena();
    // False, and nothing is changed, where there is no more.
    bool grow(size_t bytes);
    std::byte* data() const { return data_; }

private:
    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

// Threads, pinned where they are as many as the processors that we may use; the caller is thread 0. Between runs they spin briefly, then sleep.
class Pool {
public:
    // Throws std::runtime_error where so many threads cannot be started.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;

    int size() const { return size_; }
    // Runs the tasks in order, each by all threads unless it is solo. `scratch` is what the largest of them shares.
    // With `seconds`, the time of each task is added to its element. Throws OutOfMemory, and then has run no task after the one
    // that asked for too much; it can be run again.
    void run(const Task* tasks, size_t count, size_t scratch, double* seconds = nullptr);

private:
    friend class Team;

    // One thread's own memory, and how much of it each thread is known to have: the same number in all threads.
    struct Local {
        Arena memory;
        size_t common = 0;
    };

    void work(int index, int processor);
    void region(int index);
    void barrier();
    void stop();
    void fail(size_t task, size_t bytes);
    // Whether a task up to this one failed: to be asked after a barrier that follows it.
    bool failed(size_t task) const { return failed_.load(std::memory_order_relaxed) <= task; }

    int size_;
    std::vector<std::thread> threads_;
    std::vector<std::unique_ptr<Local>> locals_;
    Arena shared_;

    std::mutex busy_;
    const Task* tasks_ = nullptr;
    size_t count_ = 0;
    double* seconds_ = nullptr;
    static constexpr size_t kNone = SIZE_MAX;
    std::atomic<size_t> failed_{kNone};  // the task that has no memory
    std::atomic<size_t> asked_{0};       // the bytes that it asked for
    alignas(64) std::atomic<uint32_t> generation_{0};
    std::atomic<bool> stop_{false};
    alignas(64) std::atomic<uint32_t> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    alignas(64) std::atomic<int64_t> claimed_{0};
};

// A list of tasks that can be run again.
class Recording {
public:
    void add(const Task& task, size_t scratch);
    void replay(Pool& pool) const { pool.run(tasks_.data(), tasks_.size(), scratch_); }
    std::vector<double> timed(Pool& pool, int repeats) const;
    const std::vector<Task>& tasks() const { return tasks_; }

private:
    std::vector<Task> tasks_;
    size_t scratch_ = 0;
};

// What ops are submitted to, by any thread: runs them, and keeps those of a thread that records too.
class Engine {
public:
    // A caller's own hold of the pool: another thread may set a new one meanwhile.
    std::shared_ptr<Pool> pool();
    // 0 for as many as we may use.
    void set_threads(int threads);
    // Calls of this thread are kept in `recording`, until null.
    static void record(Recording* recording) { recording_ = recording; }

    template <class Args> void submit(const char* name, Run run, const Args& args, bool solo, size_t scratch) {
        static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= sizeof(Task::args));
        Task task{run, solo, name, {}};
        std::memcpy(task.args, &args, sizeof args);
        if (recording_) recording_->add(task, scratch);
        pool()->run(&task, 1, scratch);
    }

    // Around a fork, of which the child has none of the pool's threads: it starts its own when it first needs them.
    void before_fork() { changing_.lock(); }
    void after_fork() { changing_.unlock(); }
    void after_fork_in_child();

private:
    std::mutex changing_;
    int threads_ = 0;
    std::shared_ptr<Pool> pool_;
    static thread_local Recording* recording_;
};

// The processors that this process may use: its affinity, cut to its control group's quota.
std::vector<int> usable_processors();

}  // namespace parity
