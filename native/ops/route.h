// Routers of experts, and the gates of the delta rule.
#pragma once

namespace parity::PARITY_ISA {

// A row's scores, from its logits.
inline void scores_of(const RouteArgs& args, const float* logits, float* scores) {
    const int64_t n = args.columns;
    if (args.score == 1) return over(n, [&](auto get, auto put) { put(scores, sigmoid(get(logits))); });
    if (args.score == 2) {
        over(n, [&](auto get, auto put) { put(scores, softplus(get(logits))); });
        for (int64_t e = 0; e < n; ++e) scores[e] = __builtin_sqrtf(scores[e]);
        return;
    }
    float most = -__builtin_inff(), total = 0;
    for (int64_t e = 0; e < n; ++e)
        if (!(logits[e] <= most)) most = logits[e];
    over(n, [&](auto get, auto put) { put(scores, exp(get(logits) - set(most))); });
    for (int64_t e = 0; e < n; ++e) total += scores[e];
    for (int64_t e = 0; e < n; ++e) scores[e] /= total;
}

// The k largest of `scores`, best first, of equal ones the first; those in groups that are not `kept` are passed over.
inline void best(const float* scores, int64_t n, int64_t k, const bool* kept, int64_t group_size, int32_t* out) {
    int64_t found = 0;
    for (int64_t e = 0; e < n; ++e) {
        if (kept && !kept[e / group_size]) continue;
        if (found == k && !(scores[e] > scores[out[k - 1]])) continue;
        int64_t at = found < k ? found++ : k - 1;
        for (; at > 0 && scores[e] > scores[out[at - 1]]; --at) out[at] = out[at - 1];
        out[at] = int32_t(e);
    }
}

// A group's score: its largest, or the sum of its two largest.
inline float group_score(const float* scores, int64_t n, bool by_largest) {
    float first = -__builtin_inff(), second = first;
    for (int64_t e = 0; e < n; ++e) {
        if (scores[e] > first) second = first, first = scores[e];
        else if (scores[e] > second) second = scores[e];
    }
    return by_largest ? first : first + second;
}

constexpr int64_t kMaxGroups = 64;

inline void choose_experts(const RouteArgs& args, const float* choice, int32_t* out) {
    if (args.groups == 1) return best(choice, args.columns, args.top_k, nullptr, 1, out);
    const int64_t size = args.columns / args.groups;
    float scores[kMaxGroups];
    int32_t order[kMaxGroups];
    bool kept[kMaxGroups] = {};
    for (int64_t g = 0; g < args.groups; ++g) scores[g] = group_score(choice + g * size, size, args.by_largest);
    best(scores, args.groups, args.top_groups, nullptr, 1, order);
    for (int64_t g = 0; g < args.top_groups; ++g) kept[order[g]] = true;
    best(choice, args.columns, args.top_k, kept, size, out);
}

inline void route(const void* raw, Team& team) {
    const auto& args = *static_cast<const RouteArgs*>(raw);
    auto* scores = reinterpret_cast<float*>(team.local(size_t(8 * args.columns)));
    if (!scores) return;
    float* choice = args.bias ? scores + args.columns : scores;
    share_rows(team, args.rows, 8 * args.columns, [&](int64_t t) {
        scores_of(args, args.logits + t * args.stride, scores);
        int32_t* experts = args.experts + t * args.top_k;
        float *weights = args.weights + t * args.top_k, total = 0;
        if (args.tokens) {
            __builtin_memcpy(experts, args.table + int64_t(args.tokens[t]) * args.top_k, size_t(4 * args.top_k));
        } else {
            if (args.bias) over(args.columns, [&](auto get, auto put) { put(choice, get(scores) + get(args.bias)); });
            choose_experts(args, choice, experts);
        }
        for (int64_t k = 0; k < args.top_k; ++k) total += weights[k] = scores[experts[k]];
        for (int64_t k = 0; k < args.top_k; ++k) {
            if (args.renormalize) weights[k] /= total + 1e-20f;
            weights[k] *= args.scale;
        }
    });
}

inline void delta_gates(const void* raw, Team& team) {
    const auto& args = *static_cast<const DeltaGatesArgs*>(raw);
    const auto decay = [&](F a, F bias, F rate) {
        const F moved = a + bias;
        return args.bounded ? set(args.lower_bound) * sigmoid(rate * moved) : set(0) - rate * softplus(moved);
    };
    share_rows(team, args.rows, 16 * args.heads * args.dim, [&](int64_t t) {
        const float *a = args.a + t * args.a_stride, *b = args.b + t * args.b_stride;
        float *out = args.decay + t * args.heads * args.dim, *beta = args.beta + t * args.heads;
        over(args.heads, [&](auto get, auto put) { put(beta, sigmoid(get(b))); });
        if (args.dim == 1) return over(args.heads, [&](auto get, auto put) { put(out, decay(get(a), get(args.dt_bias), exp(get(args.a_log)))); });
        for (int64_t h = 0; h < args.heads; ++h, a += args.dim, out += args.dim) {
            const F rate = exp(set(args.a_log[h]));
            const float* bias = args.dt_bias + h * args.dim;
            over(args.dim, [&](auto get, auto put) { put(out, decay(get(a), get(bias), rate)); });
        }
    });
}

}  // namespace parity::PARITY_ISA
