// Choosing a token without sorting the vocabulary: weights are counted by size in buckets, and only the bucket in which a
// limit falls is put in order.
#pragma once

namespace parity::PARITY_ISA {

constexpr int kBuckets = 1 << 12;

// By the exponent and four bits of the mantissa: larger weights, higher buckets.
inline int bucket_of(float weight) {
    uint32_t bits;
    __builtin_memcpy(&bits, &weight, 4);
    return int(bits >> 19);
}

// The tokens kept: those heavier than `weight`, and of equal ones those up to `token`.
struct Limit {
    float weight = 0;
    int64_t token = INT64_MAX;
    bool keeps(float w, int64_t t) const { return w > weight || (w == weight && t <= token); }
};

struct Candidates {
    const float* weights;
    int64_t columns;
    int32_t* order;                 // room for all tokens
    int32_t count[kBuckets];
    double mass[kBuckets];

    void fill() {
        for (int b = 0; b < kBuckets; ++b) count[b] = 0, mass[b] = 0;
        for (int64_t t = 0; t < columns; ++t) {
            const int b = bucket_of(weights[t]);
            ++count[b], mass[b] += double(weights[t]);
        }
    }

    bool heavier(int32_t a, int32_t b) const { return weights[a] > weights[b] || (weights[a] == weights[b] && a < b); }

    void sink(int64_t root, int64_t n) {
        for (int64_t child = 2 * root + 1; child < n; root = child, child = 2 * root + 1) {
            if (child + 1 < n && heavier(order[child], order[child + 1])) ++child;
            if (!heavier(order[root], order[child])) return;
            const int32_t swap = order[root];
            order[root] = order[child], order[child] = swap;
        }
    }

    // The tokens of a bucket, heaviest first, ties by id.
    int64_t sort_bucket(int bucket) {
        int64_t n = 0;
        for (int64_t t = 0; t < columns; ++t)
            if (bucket_of(weights[t]) == bucket) order[n++] = int32_t(t);
        for (int64_t i = n / 2; i-- > 0;) sink(i, n);
        for (int64_t i = n; i-- > 1;) {
            const int32_t swap = order[0];
            order[0] = order[i], order[i] = swap;
            sink(0, i);
        }
        return n;
    }

    // Keeps tokens from the heaviest on while fewer than `most` and less than `share` of `total` were taken before; `kept` is
    // what they weigh.
    Limit cut(int64_t most, double enough, double* kept) {
        int64_t taken = 0;
        double before = 0;
        int b = kBuckets - 1;
        for (; b > 0; --b) {
            if (taken + count[b] >= most || before + mass[b] >= enough) break;
            taken += count[b], before += mass[b];
        }
        Limit limit;
        const int64_t n = sort_bucket(b);
        for (int64_t i = 0; i < n && taken < most && (before < enough || taken == 0); ++i, ++taken) {
            before += double(weights[order[i]]);
            limit = Limit{weights[order[i]], order[i]};
        }
        if (kept) *kept = before;
        return limit;
    }
};

inline int64_t largest_token(const float* x, int64_t columns) {
    F best = set(-__builtin_inff());
    int64_t c = 0;
    for (; c + 16 <= columns; c += 16) best = max(load(x + c), best);
    float most = largest(best);
    for (; c < columns; ++c)
        if (x[c] > most) most = x[c];
    for (c = 0; c < columns; ++c)
        if (x[c] == most) return c;
    return 0;
}

inline int64_t sample_row(const SampleArgs& args, int64_t row, Candidates& candidates, float* weights) {
    const float* logits = args.logits + row * args.stride;
    const int64_t greedy = largest_token(logits, args.columns);
    if (!(args.temperature[row] > 0)) return greedy;
    const F most = set(logits[greedy]), inverse = set(1.0f / args.temperature[row]);
    // exp stops at 1.2e-38: what is that small weighs nothing.
    over(args.columns, [&](auto get, auto put) { put(weights, max(set(0), exp((get(logits) - most) * inverse) - set(1.3e-38f))); });
    candidates.weights = weights, candidates.columns = args.columns;
    const bool few = args.top_k[row] > 0 && args.top_k[row] < args.columns, share = args.top_p[row] < 1.0f;
    Limit limit;
    if (few || share) {
        candidates.fill();
        double kept = 0;
        for (double mass : candidates.mass) kept += mass;
        if (few) limit = candidates.cut(args.top_k[row], __builtin_inf(), &kept);
        if (share) {
            const Limit nearer = candidates.cut(few ? args.top_k[row] : args.columns, double(args.top_p[row]) * kept, nullptr);
            if (nearer.weight > limit.weight || (nearer.weight == limit.weight && nearer.token < limit.token)) limit = nearer;
        }
    }
    if (args.min_p[row] > limit.weight) limit = Limit{args.min_p[row], INT64_MAX};
    double total = 0;
    for (int64_t t = 0; t < args.columns; ++t)
        if (limit.keeps(weights[t], t)) total += double(weights[t]);
    const double target = double(args.uniform[row]) * total;
    double reached = 0;
    int64_t last = greedy;
    for (int64_t t = 0; t < args.columns; ++t)
        if (weights[t] > 0 && limit.keeps(weights[t], t)) {
            reached += double(weights[t]), last = t;
            if (reached > target) return t;
        }
    return last;
}

inline void sample(const void* raw, Team& team) {
    const auto& args = *static_cast<const SampleArgs*>(raw);
    const size_t size = size_t(round_up(4 * args.columns, 64));
    std::byte* memory = team.local(2 * size + sizeof(Candidates) + 64);
    auto& candidates = *reinterpret_cast<Candidates*>(memory + 2 * size);
    candidates.order = reinterpret_cast<int32_t*>(memory + size);
    for (int64_t row = team.claim(); row < args.rows; row = team.claim())
        args.out[row] = sample_row(args, row, candidates, reinterpret_cast<float*>(memory));
}

}  // namespace parity::PARITY_ISA
