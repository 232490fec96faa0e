// Choosing a token without sorting the vocabulary: only tokens heavy enough to matter are counted by size in buckets, and only
// the bucket in which a limit falls is put in order.
#pragma once

namespace parity::PARITY_ISA {

constexpr int kBuckets = 1 << 12;
constexpr int64_t kTokens = 256;  // whose weights are summed up together

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
    int32_t *ids, *order;  // the candidates in order, and room for as many
    int64_t size;
    int32_t count[kBuckets];
    double mass[kBuckets];

    void fill() {
        for (int b = 0; b < kBuckets; ++b) count[b] = 0, mass[b] = 0;
        for (int64_t i = 0; i < size; ++i) {
            const int b = bucket_of(weights[ids[i]]);
            ++count[b], mass[b] += double(weights[ids[i]]);
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
        for (int64_t i = 0; i < size; ++i)
            if (bucket_of(weights[ids[i]]) == bucket) order[n++] = ids[i];
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

// The first of the largest; -1 where one is no number or none is above -inf.
inline int64_t largest_token(const float* x, int64_t columns) {
    constexpr int64_t piece = 1024;
    float most = -__builtin_inff(), odd = 0;  // what is no number, or infinite, times 0 is no number
    int64_t at = -1;
    for (int64_t start = 0; start < columns; start += piece) {
        const int64_t end = start + piece < columns ? start + piece : columns;
        F best = set(-__builtin_inff()), strange = set(0);
        int64_t c = start;
        for (; c + 16 <= end; c += 16) {
            const F value = load(x + c);
            best = max(value, best), strange = fma(max(set(-3e38f), value), set(0), strange);
        }
        float here = largest(best);
        odd += sum(strange);
        for (; c < end; ++c) {
            odd += (x[c] < -3e38f ? -3e38f : x[c]) * 0.0f;
            if (x[c] > here) here = x[c];
        }
        if (!(here > most)) continue;
        most = here;
        for (at = start; x[at] != most;) ++at;
    }
    return odd == 0 ? at : -1;
}

// A row's weights, relative to the heaviest token's, and what is known of each `kTokens` of them.
struct Weights {
    float *weight, *peak;
    double* mass;
    int64_t columns, pieces;
    double total = 0;

    Weights(std::byte* memory, int64_t columns) : columns(columns), pieces((columns + kTokens - 1) / kTokens) {
        mass = reinterpret_cast<double*>(memory), weight = reinterpret_cast<float*>(mass + pieces), peak = weight + pieces * kTokens;
    }
    static int64_t bytes(int64_t columns) { return (columns + kTokens - 1) / kTokens * (kTokens * 4 + 12); }

    void fill(const float* logits, float most, float temperature) {
        const F top = set(most), inverse = set(1.0f / temperature);
        for (int64_t p = 0; p < pieces; ++p) {
            F sums = set(0), peaks = set(0);
            for (int64_t t = p * kTokens; t < (p + 1) * kTokens; t += 16) {
                alignas(64) float last[16];
                for (int i = 0; i < 16 && t + 16 > columns; ++i) last[i] = t + i < columns ? logits[t + i] : -__builtin_inff();
                const F logit = load(t + 16 > columns ? last : logits + t);
                // exp stops at 1.2e-38: what is that small weighs nothing.
                const F one = max(set(0), exp((logit - top) * inverse) - set(1.3e-38f));
                store(weight + t, one);
                sums = sums + one, peaks = max(one, peaks);
            }
            mass[p] = double(sum(sums)), peak[p] = largest(peaks), total += mass[p];
        }
    }

    // The tokens of at least the given weight, in order; what they weigh.
    double gather(float least, int32_t* ids, int64_t* size) const {
        double found = 0;
        int64_t n = 0;
        for (int64_t p = 0; p < pieces; ++p) {
            if (peak[p] < least) continue;
            for (int64_t t = p * kTokens; t < (p + 1) * kTokens && t < columns; ++t)
                if (weight[t] >= least && weight[t] > 0) ids[n++] = int32_t(t), found += double(weight[t]);
        }
        *size = n;
        return found;
    }

    // The first token at which the sum of the weights exceeds the target.
    int64_t reach(double target) const {
        double reached = 0;
        int64_t last = 0;
        for (int64_t p = 0; p < pieces; ++p) {
            if (reached + mass[p] <= target && p + 1 < pieces) {
                reached += mass[p];
                if (mass[p] > 0) last = p;
                continue;
            }
            double inside = reached;
            for (int64_t t = p * kTokens; t < (p + 1) * kTokens && t < columns; ++t)
                if ((inside += double(weight[t])) > target && weight[t] > 0) return t;
            reached += mass[p];
            if (mass[p] > 0) last = p;
        }
        // The sum was rounded below the target: the last token that weighs anything.
        for (int64_t t = (last + 1) * kTokens; t-- > 0;)
            if (t < columns && weight[t] > 0) return t;
        return 0;
    }
};

// Gathers candidates until the limits fall among them.
inline void gather_enough(const Weights& all, int64_t top_k, double share, float min_p, Candidates& candidates) {
    for (int round = 0; round < 3; ++round) {
        const float least = round == 0 ? 1.0f / 256 : round == 1 ? 1.0f / (1 << 20) : 0.0f;
        const double found = all.gather(top_k || share < 1 ? least : min_p, candidates.ids, &candidates.size);
        if (top_k ? candidates.size >= top_k : share < 1 ? found >= share * all.total : true) return;
    }
}

inline int64_t sample_row(const SampleArgs& args, int64_t row, Candidates& candidates, Weights weights) {
    const float* logits = args.logits + row * args.stride;
    const int64_t greedy = largest_token(logits, args.columns);
    if (greedy < 0 || !(args.temperature[row] > 0)) return greedy;
    weights.fill(logits, logits[greedy], args.temperature[row]);
    const int64_t top_k = args.top_k[row] > 0 && args.top_k[row] < args.columns ? args.top_k[row] : 0;
    const double share = double(args.top_p[row]), uniform = double(args.uniform[row]);
    const float min_p = args.min_p[row];
    if (!top_k && share >= 1 && min_p <= 0) return weights.reach(uniform * weights.total);
    gather_enough(weights, top_k, share, min_p, candidates);
    candidates.weights = weights.weight;
    Limit limit;
    if (top_k || share < 1) {
        candidates.fill();
        double kept = weights.total;
        if (top_k) limit = candidates.cut(top_k, __builtin_inf(), &kept);
        if (share < 1) {
            const Limit nearer = candidates.cut(top_k ? top_k : args.columns, share * kept, nullptr);
            if (nearer.weight > limit.weight || (nearer.weight == limit.weight && nearer.token < limit.token)) limit = nearer;
        }
    }
    if (min_p > limit.weight) limit = Limit{min_p, INT64_MAX};
    double total = 0, reached = 0;
    const auto each = [&](auto fn) {
        for (int64_t i = 0; i < candidates.size; ++i)
            if (limit.keeps(weights.weight[candidates.ids[i]], candidates.ids[i])) fn(candidates.ids[i], double(weights.weight[candidates.ids[i]]));
    };
    each([&](int64_t, double weight) { total += weight; });
    int64_t chosen = -1, last = greedy;
    each([&](int64_t token, double weight) {
        reached += weight, last = token;
        if (chosen < 0 && reached > uniform * total) chosen = token;
    });
    return chosen < 0 ? last : chosen;
}

inline void sample(const void* raw, Team& team) {
    const auto& args = *static_cast<const SampleArgs*>(raw);
    const int64_t weights = round_up(Weights::bytes(args.columns), 64), ids = round_up(4 * args.columns, 64);
    std::byte* memory = team.local(size_t(weights + 2 * ids) + sizeof(Candidates));
    if (!memory) return;
    auto& candidates = *reinterpret_cast<Candidates*>(memory + weights + 2 * ids);
    candidates.ids = reinterpret_cast<int32_t*>(memory + weights);
    candidates.order = reinterpret_cast<int32_t*>(memory + weights + ids);
    for (int64_t row = team.claim(); row < args.rows; row = team.claim())
        args.out[row] = sample_row(args, row, candidates, Weights(memory, args.columns));
}

}  // namespace parity::PARITY_ISA
