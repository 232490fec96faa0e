// One query's softmax, taken over some scores after the others.
#pragma once

namespace parity::PARITY_ISA {

struct Softmax {
    float most = -__builtin_inff(), total = 0;  // the largest score, and the sum of the weights that it gives

    // Turns the scores of a tile into weights 2^(base2 (score - most)), 0 outside [from, to); returns what earlier sums are
    // multiplied by. Equal scores have a weight of exactly 1.
    float take(float* scores, int64_t from, int64_t to, float base2) {
        const bool whole = from == 0 && to == kEntries;
        if (from >= to) {
            for (int64_t e = 0; e < kEntries; ++e) scores[e] = 0;
            return 1.0f;
        }
        if (!whole) fill_outside(scores, from, to, -__builtin_inff());
        F best = load(scores);
        for (int64_t e = 16; e < kEntries; e += 16) best = max(best, load(scores + e));
        const float here = largest(best), before = most;
        if (!(here <= most)) most = here;
        F sums = set(0);
        for (int64_t e = 0; e < kEntries; e += 16) {
            const F weights = exp2((load(scores + e) - set(most)) * set(base2));
            store(scores + e, weights);
            sums = sums + weights;
        }
        if (!whole) {
            fill_outside(scores, from, to, 0);  // what is infinitely less still had the least weight above 0
            sums = set(0);
            for (int64_t e = 0; e < kEntries; e += 16) sums = sums + load(scores + e);
        }
        const float factor = before == most ? 1.0f : weight_of(before, base2);
        total = total * factor + sum(sums);
        return factor;
    }

    // The weight of a score that is at most the largest.
    float weight_of(float score, float base2) const {
        if (score == -__builtin_inff()) return 0;
        alignas(64) float weights[16];
        store(weights, exp2((set(score) - set(most)) * set(base2)));
        return weights[0];
    }

private:
    static void fill_outside(float* scores, int64_t from, int64_t to, float value) {
        for (int64_t e = 0; e < from; ++e) scores[e] = value;
        for (int64_t e = to; e < kEntries; ++e) scores[e] = value;
    }
};

// Adds a later softmax, with its sums [width], to one of earlier scores.
inline void join(const Softmax& later, const float* later_sums, int64_t width, float base2, Softmax& total, float* sums) {
    if (later.total == 0) return;
    const Softmax both{later.most > total.most ? later.most : total.most};
    const float before = total.total == 0 ? 0.0f : both.weight_of(total.most, base2), after = both.weight_of(later.most, base2);
    total = Softmax{both.most, total.total * before + later.total * after};
    for (int64_t c = 0; c < width; c += 16) store(sums + c, fma(load(sums + c), set(before), load(later_sums + c) * set(after)));
}

}  // namespace parity::PARITY_ISA
