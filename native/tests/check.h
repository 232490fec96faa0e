// What the kernels' tests share: random numbers, the same in every run; weights and pages made of them; failures counted.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <random>
#include <utility>
#include <vector>

#include "../isa/choose.h"
#include "../pool.h"

namespace parity::tests {

inline std::mt19937 random_bits(1);
inline int failures = 0;

inline void check(bool right, const char* isa, const char* what, int64_t a = 0, int64_t b = 0) {
    if (right) return;
    ++failures;
    std::printf("%s: %s (%lld, %lld)\n", isa, what, static_cast<long long>(a), static_cast<long long>(b));
}

inline std::vector<float> normal(size_t n) {
    std::normal_distribution<float> draw;
    std::vector<float> out(n);
    for (float& x : out) x = draw(random_bits);
    return out;
}

// Bytes, random ones or all the same, with harmless scales: every half-float of a block is found by setting it to 0.01.
constexpr int kRandom = -1;
inline std::vector<uint8_t> blocks(int64_t format, int64_t rows, int64_t columns, int fill) {
    const FormatInfo& info = format_info(format);
    const int64_t count = rows * columns / info.columns;
    std::vector<uint8_t> out(static_cast<size_t>(count * info.bytes));
    for (uint8_t& x : out) x = static_cast<uint8_t>(fill == kRandom ? static_cast<int>(random_bits()) : fill);
    const std::vector<int64_t> at = format == kQ2_K   ? std::vector<int64_t>{80, 82}
                                    : format == kQ3_K ? std::vector<int64_t>{108}
                                    : format == kQ6_K ? std::vector<int64_t>{208}
                                    : format == kQ8_0 || format == kQ4_0 || format == kQ5_0 ? std::vector<int64_t>{0}
                                                                                           : std::vector<int64_t>{0, 2};
    const uint16_t small = 0x211f;  // 0.01
    for (int64_t i = 0; i < count; ++i)
        for (int64_t offset : at) std::memcpy(&out[static_cast<size_t>(i * info.bytes + offset)], &small, 2);
    return out;
}

// Random codes with scales between a hundredth and two, zero points up to 16: the panels of a format of groups.
template <class Pack> void pack_groups_of(int64_t format, int64_t rows, int64_t columns, uint8_t* panels, Pack pack) {
    const FormatInfo& info = format_info(format);
    const int64_t group = info.columns, count = rows * columns / group;
    std::vector<uint8_t> codes(static_cast<size_t>(rows * columns)), zeros(static_cast<size_t>(count)), powers(zeros.size());
    for (uint8_t& x : codes) x = static_cast<uint8_t>(random_bits());
    if (format >= kFirstFloatPanels)
        for (uint8_t& x : codes) x = (x & 0x7f) == 0x7f ? 0 : x;  // no NaN
    for (uint8_t& x : zeros) x = static_cast<uint8_t>(random_bits() % 17);
    for (uint8_t& x : powers) x = static_cast<uint8_t>(120 + random_bits() % 8);
    const bool half = format == kZero4_32, bfloat = format == kInt4_32 || format == kInt8_32;
    std::vector<float> floats(zeros.size());
    for (float& x : floats) x = 0.01f + 0.01f * static_cast<float>(random_bits() % 100);
    std::vector<uint16_t> two(zeros.size());
    for (uint16_t& x : two) x = static_cast<uint16_t>((half ? 0x2200 : 0x3c00) + random_bits() % 64);
    const void* scale = format == kMxfp4 || format == kFp8_Power ? static_cast<const void*>(powers.data()) : half || bfloat ? static_cast<const void*>(two.data()) : floats.data();
    pack(PackGroupsArgs{codes.data(), scale, zeros.data(), format, rows, columns, 1, group, half ? kF16 : bfloat ? kBf16 : kF32, panels});
}

template <class Args> void run(Pool& pool, Kernel kernel, const Args& args, size_t scratch = 0) {
    Task task{kernel, false, "", {}};
    std::memcpy(task.args, &args, sizeof args);
    pool.run(&task, 1, scratch);
}

// From now on the allocation of working memory after `count` more fails, once; a negative number ends that. Says whether one has.
bool fail_after(int count);

// Runs a kernel on threads that have no memory yet, of which each allocation fails in turn, until none does.
template <class Args> void run_starved(Kernel kernel, const Args& args, size_t scratch) {
    for (int count = 0;; ++count) {
        Pool pool(3);
        fail_after(count);
        bool thrown = false;
        try {
            run(pool, kernel, args, scratch);
        } catch (const OutOfMemory&) {
            thrown = true;
        }
        check(fail_after(-1) == thrown, "any", "an op without memory ends by an exception", count);
        if (!thrown) return;
    }
}

struct Pages {
    std::vector<int32_t> positions, starts{0}, lengths, pages;
    Places places{};
    int64_t count = 0;

    Pages(std::initializer_list<std::pair<int, int>> chunks, int64_t size) {
        int64_t most = 0;
        for (const auto& [start, n] : chunks) {
            for (int i = 0; i < n; ++i) positions.push_back(start + i);
            starts.push_back(starts.back() + n), lengths.push_back(start + n);
            most = std::max<int64_t>(most, (start + n + size - 1) / size);
        }
        for (size_t s = 0; s < chunks.size(); ++s)
            for (int64_t i = 0; i < most; ++i) pages.push_back(static_cast<int32_t>(count++));
        places = {positions.data(), starts.data(), lengths.data(), pages.data(), static_cast<int64_t>(chunks.size()), static_cast<int64_t>(positions.size()), most, size};
    }
};

}  // namespace parity::tests
