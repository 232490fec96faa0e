// Every kernel of an instruction set beside the same one in plain C++, on the same numbers and odd sizes: where an emulator
// is all there is, this holds it to the reference, to which `parity stacks --check cpu` holds the plain ones.
#pragma once
#include <cmath>

#include "check.h"

namespace parity::tests {

using Floats = std::vector<float>;
using Integers = std::vector<int32_t>;

// Differences allowed, of the largest number of an answer: sums of a few hundred terms in another order or rounded once more;
// and activations of which one is now and then rounded to another byte, since it was computed in another order.
constexpr float kExact = 0, kClose = 1e-5f, kRounded = 5e-3f;

inline Floats normals(int64_t n) { return normal(static_cast<size_t>(n)); }
inline Floats room(int64_t n) { return Floats(static_cast<size_t>(n)); }

// What kernels have answered, as numbers.
struct Answers {
    Floats all;

    template <class T> void add(const std::vector<T>& numbers) {
        for (T x : numbers) all.push_back(static_cast<float>(x));
    }
};

class Both {
public:
    // Where `starved`, each call is made again and again on new threads, short of memory in one place after the other.
    Both(const Kernels& kernels, const Kernels& plain, Pool& pool, bool starved = false) : kernels_(kernels), plain_(plain), pool_(pool), starved_(starved) {}

    // `answer(kernels, run, answers)` runs kernels, by run(kernel, args, scratch bytes), and adds what they answered.
    template <class Answer> void hold(const char* what, int64_t detail, float tolerance, Answer answer) {
        Answers answers[2];
        for (int i = 0; i < 2; ++i)
            answer(i ? plain_ : kernels_, [&](Kernel kernel, const auto& args, size_t scratch = 0) { starved_ && !i ? run_starved(kernel, args, scratch) : run(pool_, kernel, args, scratch); }, answers[i]);
        const Floats &got = answers[0].all, &expected = answers[1].all;
        float largest = 0;
        for (float x : expected)
            if (std::isfinite(x)) largest = std::fmax(largest, std::fabs(x));
        check(got.size() == expected.size() && largest > 0, kernels_.isa, what, detail, -1);
        for (size_t i = 0; i < got.size(); ++i) {
            const bool same = got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]));
            if (same || std::fabs(got[i] - expected[i]) <= tolerance * largest) continue;
            std::printf("%g is %g in plain C++\n", static_cast<double>(got[i]), static_cast<double>(expected[i]));
            return check(false, kernels_.isa, what, detail, static_cast<int64_t>(i));
        }
    }

private:
    const Kernels& kernels_;
    const Kernels& plain_;
    Pool& pool_;
    bool starved_;
};

void agree_on_products(Both& both);
void agree_on_rows(Both& both);
void agree_on_pages(Both& both);

// Several threads on one engine, each running the same step `runs` times.
void stress(const Kernels& kernels, int runs);

// Recorded tasks of which one finds no memory: those after it do not run, and the threads go on.
void starve();

}  // namespace parity::tests
