#include "pool.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace parity {
namespace {

using Clock = std::chrono::steady_clock;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits until `value` is no longer `old`: spins, then gives the processor away now and then, then sleeps.
uint32_t wait_change(const std::atomic<uint32_t>& value, uint32_t old, int spins) {
    for (int i = 0; i < spins; ++i) {
        const uint32_t now = value.load(std::memory_order_acquire);
        if (now != old) return now;
        pause();
        if (i > 4096 && i % 512 == 0) std::this_thread::yield();
    }
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

constexpr int kSpinsInside = 1 << 16;  // for the other threads of an op
constexpr int kSpinsIdle = 1 << 13;    // for the next op: a few tens of microseconds

void pin(int processor) {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(processor), &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#else
    (void)processor;
#endif
}

#if defined(__linux__)
// Processors' worth of time that one control group grants, or 0 for no limit.
double quota_of(const std::string& folder) {
    std::string most;
    double period = 0;
    std::ifstream both(folder + "/cpu.max");  // version 2
    if (!(both >> most >> period)) {
        std::ifstream quota(folder + "/cpu.cfs_quota_us"), periods(folder + "/cpu.cfs_period_us");
        if (!(quota >> most) || !(periods >> period)) return 0;
    }
    const double granted = std::strtod(most.c_str(), nullptr);
    return granted > 0 && period > 0 ? granted / period : 0;  // "max" and -1 are no limit
}

// The least that our control group and those around it grant, or 0 for no limit.
double quota() {
    std::ifstream groups("/proc/self/cgroup");
    double least = 0;
    for (std::string line; std::getline(groups, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string kinds = "," + line.substr(first + 1, second - first - 1) + ",";
        if (kinds != ",," && kinds.find(",cpu,") == std::string::npos) continue;
        const std::string root = kinds == ",," ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
            const double granted = quota_of(root + path);
            if (granted > 0 && (least == 0 || granted < least)) least = granted;
            if (path.rfind('/') == std::string::npos) break;
        }
    }
    return least;
}
#endif

// The processors of this process's affinity, or none where the system does not say.
std::vector<int> affinity() {
    std::vector<int> found;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int i = 0; i < CPU_SETSIZE; ++i)
            if (CPU_ISSET(static_cast<size_t>(i), &set)) found.push_back(i);
#endif
    return found;
}

}  // namespace

std::vector<int> usable_processors() {
    std::vector<int> found = affinity();
#if defined(__linux__)
    const double most = quota();
    if (most > 0) found.resize(std::min(found.size(), static_cast<size_t>(std::max(1.0, std::ceil(most)))));
#endif
    if (found.empty())
        for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) found.push_back(static_cast<int>(i));
    return found;
}

Arena::~Arena() { ::operator delete(data_, std::align_val_t{64}); }

bool Arena::grow(size_t bytes) {
    if (bytes <= size_) return true;
    auto* grown = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64}, std::nothrow));
    if (!grown) return false;
    ::operator delete(data_, std::align_val_t{64});
    data_ = grown, size_ = bytes;
    return true;
}

OutOfMemory::OutOfMemory(size_t bytes, int threads) {
    std::snprintf(text_, sizeof text_, "no memory for the kernels of the cpu stack: %zu bytes were asked for%s; smaller batches and fewer threads take less", bytes, threads > 1 ? " by each thread" : "");
}

Team::Team(Pool* pool, int index, int size, size_t task) : index(index), size(size), pool_(pool), task_(task) {}

void Team::barrier() {
    if (size > 1)
        pool_->barrier();
    else
        claimed_ = 0;
}

int64_t Team::claim() { return size > 1 ? pool_->claimed_.fetch_add(1, std::memory_order_relaxed) : claimed_++; }
std::byte* Team::shared() { return pool_->shared_.data(); }

std::byte* Team::local(size_t bytes) {
    Pool::Local& mine = *pool_->locals_[static_cast<size_t>(index)];
    bytes = std::max(bytes, size_t{1});  // nothing is had, too
    if (size == 1) {
        if (!mine.memory.grow(bytes)) return pool_->fail(task_, bytes), nullptr;
    } else if (bytes > mine.common) {
        // All threads come here, or none: they have asked for the same so far.
        if (!mine.memory.grow(bytes)) pool_->fail(task_, bytes);
        barrier();
        if (pool_->failed(task_)) return nullptr;
        mine.common = bytes;
    }
    return mine.memory.data();
}

Pool::Pool(int threads) : size_(std::max(1, threads)) {
    const auto processors = affinity();
    // Fewer threads than processors are the system's to place: other processes would be given the same first ones.
    // The caller is not ours to pin: it stays off our processors by itself, since they are busy.
    const bool pinned = static_cast<size_t>(size_) == processors.size();
    for (int i = 0; i < size_; ++i) locals_.push_back(std::make_unique<Local>());
    threads_.reserve(static_cast<size_t>(size_ - 1));
    try {
        for (int i = 1; i < size_; ++i) threads_.emplace_back([this, i, processor = pinned ? processors[static_cast<size_t>(i)] : -1] { work(i, processor); });
    } catch (const std::system_error& error) {
        const size_t started = threads_.size() + 1;
        stop();
        throw std::runtime_error("of " + std::to_string(size_) + " threads of the cpu stack only " + std::to_string(started) + " could be started (" + error.what() + "): give it fewer, by PARITY_THREADS or --threads");
    } catch (...) {
        stop();
        throw;
    }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
    stop_.store(true);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (auto& thread : threads_) thread.join();
}

void Pool::work(int index, int processor) {
    if (processor >= 0) pin(processor);
    uint32_t seen = 0;
    while (true) {
        seen = wait_change(generation_, seen, kSpinsIdle);
        if (stop_.load()) return;
        region(index);
    }
}

void Pool::barrier() {
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
        arrived_.store(0, std::memory_order_relaxed);
        claimed_.store(0, std::memory_order_relaxed);
        phase_.fetch_add(1, std::memory_order_acq_rel);
        phase_.notify_all();
    } else {
        wait_change(phase_, phase, kSpinsInside);
    }
}

void Pool::fail(size_t task, size_t bytes) {
    asked_.store(bytes, std::memory_order_relaxed);
    failed_.store(task, std::memory_order_relaxed);
}

void Pool::region(int index) {
    // Copies: after the last barrier the caller may already be setting up the next run.
    const Task* const tasks = tasks_;
    const size_t count = count_;
    double* const seconds = index == 0 ? seconds_ : nullptr;
    for (size_t i = 0; i < count; ++i) {
        const Task& task = tasks[i];
        const auto start = seconds ? Clock::now() : Clock::time_point{};
        if (!task.solo) {
            Team team(this, index, size_, i);
            task.run(task.args, team);
        } else if (index == 0 && !failed(i)) {
            Team alone(this, 0, 1, i);
            task.run(task.args, alone);
        }
        // Solo tasks in a row need no meeting between them.
        if (!(task.solo && i + 1 < count && tasks[i + 1].solo)) {
            barrier();
            // All threads see the same here, and have seen it before the caller sets up the next run.
            if (i + 1 < count && failed(i)) return barrier();
        }
        if (seconds) seconds[i] += std::chrono::duration<double>(Clock::now() - start).count();
    }
}

void Pool::run(const Task* tasks, size_t count, size_t scratch, double* seconds) {
    const std::lock_guard lock(busy_);
    if (!shared_.grow(scratch)) throw OutOfMemory(scratch, 1);
    failed_.store(kNone, std::memory_order_relaxed);
    bool alone = size_ == 1;
    if (!alone) alone = std::all_of(tasks, tasks + count, [](const Task& task) { return task.solo; });
    if (alone) {
        for (size_t i = 0; i < count && !failed(i); ++i) {
            const auto start = Clock::now();
            Team team(this, 0, 1, i);
            tasks[i].run(tasks[i].args, team);
            if (seconds) seconds[i] += std::chrono::duration<double>(Clock::now() - start).count();
        }
        if (failed(count)) throw OutOfMemory(asked_.load(), 1);
        return;
    }
    tasks_ = tasks, count_ = count, seconds_ = seconds;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    region(0);
    if (failed(count)) throw OutOfMemory(asked_.load(), size_);
}

void Recording::add(const Task& task, size_t scratch) {
    tasks_.push_back(task);
    scratch_ = std::max(scratch_, scratch);
}

std::vector<double> Recording::timed(Pool& pool, int repeats) const {
    std::vector<double> seconds(tasks_.size());
    for (int i = 0; i < repeats; ++i) pool.run(tasks_.data(), tasks_.size(), scratch_, seconds.data());
    for (double& value : seconds) value /= repeats;
    return seconds;
}

thread_local Recording* Engine::recording_ = nullptr;

std::shared_ptr<Pool> Engine::pool() {
    const std::lock_guard lock(changing_);
    if (!pool_) pool_ = std::make_shared<Pool>(threads_ > 0 ? threads_ : static_cast<int>(usable_processors().size()));
    return pool_;
}

void Engine::set_threads(int threads) {
    std::shared_ptr<Pool> before;  // ends when nobody runs on it any more, and not while the lock is held
    const std::lock_guard lock(changing_);
    threads_ = threads > 0 ? threads : static_cast<int>(usable_processors().size());
    if (pool_ && pool_->size() != threads_) before = std::move(pool_);
}

void Engine::after_fork_in_child() {
    // Never destroyed: that would wait for threads that are not there.
    if (pool_) new std::shared_ptr<Pool>(std::move(pool_));
    pool_ = nullptr;
    changing_.unlock();
}

}  // namespace parity
