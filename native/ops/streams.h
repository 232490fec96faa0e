// Several residual streams: how they are read, written and mixed.
#pragma once

namespace parity::PARITY_ISA {

// comb [n, n]: its rows' softmax, then columns and rows divided by their sums in turn.
inline void balance(float* comb, int64_t n, int64_t iterations, float eps) {
    for (int64_t j = 0; j < n; ++j) {
        float *row = comb + j * n, most = row[0], total = 0;
        for (int64_t k = 1; k < n; ++k)
            if (!(row[k] <= most)) most = row[k];
        for (int64_t k = 0; k < n; ++k) total += row[k] = __builtin_expf(row[k] - most);
        for (int64_t k = 0; k < n; ++k) row[k] = row[k] / total + eps;
    }
    const auto divide = [&](int64_t step, int64_t across) {
        for (int64_t j = 0; j < n; ++j) {
            float total = eps;
            for (int64_t k = 0; k < n; ++k) total += comb[j * step + k * across];
            for (int64_t k = 0; k < n; ++k) comb[j * step + k * across] /= total;
        }
    };
    divide(1, n);
    for (int64_t i = 1; i < iterations; ++i) divide(n, 1), divide(1, n);
}

inline void hyper_weights(const void* raw, Team& team) {
    const auto& args = *static_cast<const HyperWeightsArgs*>(raw);
    const int64_t n = args.count, rows = args.post ? n * (2 + n) : n;
    share_rows(team, args.tokens, 16 * rows, [&](int64_t t) {
        const float *mixed = args.mixed + t * rows, *base = args.base;
        float *pre = args.pre + t * n, *post = args.post + t * n, *comb = args.comb + t * n * n;
        over(n, [&](auto get, auto put) { put(pre, sigmoid(fma(get(mixed), set(args.scale[0]), get(base))) + set(args.eps)); });
        if (!args.post) return;
        over(n, [&](auto get, auto put) { put(post, set(2) * sigmoid(fma(get(mixed + n), set(args.scale[1]), get(base + n)))); });
        for (int64_t i = 0; i < n * n; ++i) comb[i] = mixed[2 * n + i] * args.scale[2] + base[2 * n + i];
        balance(comb, n, args.iterations, args.eps);
    });
}

inline void hyper_read(const void* raw, Team& team) {
    const auto& args = *static_cast<const HyperArgs*>(raw);
    share_rows(team, args.tokens, args.count * args.columns, [&](int64_t t) {
        const float *streams = args.streams + t * args.count * args.columns, *weights = args.weights + t * args.count;
        over(args.columns, [&](auto get, auto put) {
            F total = set(0);
            for (int64_t i = 0; i < args.count; ++i) total = fma(get(streams + i * args.columns), set(weights[i]), total);
            put(args.out + t * args.columns, total);
        });
    });
}

inline void hyper_write(const void* raw, Team& team) {
    const auto& args = *static_cast<const HyperArgs*>(raw);
    const int64_t n = args.count, size = n * args.columns;
    share_rows(team, args.tokens * n, args.columns * (args.comb ? n : 1), [&](int64_t row) {
        const int64_t t = row / n, k = row % n;
        const float *streams = args.streams + t * size, *y = args.y + t * args.columns, *comb = args.comb + t * n * n + k;
        const F weight = set(args.weights[row]);
        over(args.columns, [&](auto get, auto put) {
            F mixed = set(0);
            if (args.comb)
                for (int64_t j = 0; j < n; ++j) mixed = fma(get(streams + j * args.columns), set(comb[j * n]), mixed);
            else
                mixed = get(streams + k * args.columns);
            put(args.out + row * args.columns, fma(get(y), weight, mixed));
        });
    });
}

inline void gated_mean(const void* raw, Team& team) {
    const auto& args = *static_cast<const StreamGateArgs*>(raw);
    const int64_t size = args.count * args.columns;
    share_rows(team, args.tokens, 4 * size, [&](int64_t t) {
        const float *x = args.x + t * size, *gates = args.gates + t * size;
        over(args.columns, [&](auto get, auto put) {
            F total = set(0);
            for (int64_t i = 0; i < size; i += args.columns) total = fma(get(x + i), sigmoid(get(gates + i)), total);
            put(args.out + t * args.columns, total * set(1.0f / float(args.count)));
        });
    });
}

inline void stream_gate(const void* raw, Team& team) {
    const auto& args = *static_cast<const StreamGateArgs*>(raw);
    share_rows(team, args.tokens * args.count, args.columns, [&](int64_t row) {
        const float *x = args.x + row * args.columns, *gates = args.gates + row * args.columns;
        F total = set(0);
        over(args.columns, [&](auto get, auto) { total = fma(get(x), get(gates), total); });
        const float score = sum(total) / __builtin_sqrtf(float(args.columns)), size = __builtin_fabsf(score);
        const float root = __builtin_sqrtf(size < 1e-6f ? 1e-6f : size);
        args.out[row] = 1.0f / (1.0f + __builtin_expf(score > 0 ? -root : score < 0 ? root : score));
    });
}

inline void mix(const void* raw, Team& team) {
    const auto& args = *static_cast<const MixArgs*>(raw);
    share_rows(team, args.tokens, 3 * args.count * args.columns, [&](int64_t t) {
        float weights[kMaxMixed], most = -__builtin_inff(), total = 0;
        for (int32_t i = 0; i < args.count; ++i) {
            const float* x = args.values[i] + t * args.columns;
            F squares = set(0), product = set(0);
            over(args.columns, [&](auto get, auto) {
                const F value = get(x);
                squares = fma(value, value, squares), product = fma(value, get(args.norm) * get(args.proj), product);
            });
            weights[i] = sum(product) / __builtin_sqrtf(sum(squares) / float(args.columns) + args.eps);
            if (!(weights[i] <= most)) most = weights[i];
        }
        for (int32_t i = 0; i < args.count; ++i) total += weights[i] = __builtin_expf(weights[i] - most);
        over(args.columns, [&](auto get, auto put) {
            F mixed = set(0);
            for (int32_t i = 0; i < args.count; ++i) mixed = fma(get(args.values[i] + t * args.columns), set(weights[i] / total), mixed);
            put(args.out + t * args.columns, mixed);
        });
    });
}

}  // namespace parity::PARITY_ISA
