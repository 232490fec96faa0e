// Layers that keep a state of fixed size for each request.
#pragma once

namespace parity::PARITY_ISA {

inline void causal_conv(const void* raw, Team& team) {
    const auto& args = *static_cast<const ConvArgs*>(raw);
    constexpr int64_t piece = 64;
    const int64_t pieces = (args.channels + piece - 1) / piece, past = args.width - 1;
    for (int64_t claimed = team.claim(); claimed < pieces * args.sequences; claimed = team.claim()) {
        const int64_t s = claimed / pieces, first = claimed % pieces * piece;
        const int64_t end = first + piece < args.channels ? first + piece : args.channels;
        const int64_t start = args.starts[s], rows = args.starts[s + 1] - start;
        if (rows == 0) continue;
        for (int64_t c = first; c < end; ++c) {
            float* state = args.state + (args.slots[s] * args.channels + c) * past;
            const float* weight = args.weight + c * args.width;
            const auto input = [&](int64_t row) { return row < 0 ? state[past + row] : args.x[(start + row) * args.x_stride + c]; };
            for (int64_t row = 0; row < rows; ++row) {
                float y = 0;
                for (int64_t j = 0; j < args.width; ++j) y += input(row - past + j) * weight[j];
                args.out[(start + row) * args.channels + c] = y + (args.bias ? args.bias[c] : 0.0f);
            }
            // Oldest first: each is read before its place is written.
            for (int64_t j = 0; j < past; ++j) state[j] = input(rows - past + j);
        }
        if (args.activation)
            for (int64_t row = 0; row < rows; ++row) {
                float* y = args.out + (start + row) * args.channels + first;
                over(end - first, [&](auto get, auto put) { put(y, get(y) * sigmoid(get(y))); });
            }
    }
}

// x over its length: x * rsqrt(sum x^2 + 1e-6).
inline void unit(const float* x, int64_t n, float* out) {
    F squares = set(0);
    over(n, [&](auto get, auto) { squares = fma(get(x), get(x), squares); });
    const F inverse = set(1.0f / __builtin_sqrtf(sum(squares) + 1e-6f));
    over(n, [&](auto get, auto put) { put(out, get(x) * inverse); });
}

// One row of the gated delta rule (arXiv 2412.06464) over one head's memory [k_dim, v_dim].
inline void delta_row(float* memory, const float* q, const float* k, const float* v, const float* keep, int64_t keep_step, float beta, float scale, int64_t k_dim, int64_t v_dim, float* out) {
    int64_t e = 0;
    for (; e + 16 <= v_dim; e += 16) {
        F recalled = set(0), result = set(0);
        for (int64_t d = 0; d < k_dim; ++d) {
            const F kept = load(memory + d * v_dim + e) * set(keep[d * keep_step]);
            store(memory + d * v_dim + e, kept);
            recalled = fma(kept, set(k[d]), recalled);
        }
        const F change = (load(v + e) - recalled) * set(beta);
        for (int64_t d = 0; d < k_dim; ++d) {
            const F now = fma(set(k[d]), change, load(memory + d * v_dim + e));
            store(memory + d * v_dim + e, now);
            result = fma(now, set(q[d]), result);
        }
        store(out + e, result * set(scale));
    }
    for (; e < v_dim; ++e) {
        float recalled = 0, result = 0;
        for (int64_t d = 0; d < k_dim; ++d) recalled += (memory[d * v_dim + e] *= keep[d * keep_step]) * k[d];
        const float change = (v[e] - recalled) * beta;
        for (int64_t d = 0; d < k_dim; ++d) result += (memory[d * v_dim + e] += k[d] * change) * q[d];
        out[e] = result * scale;
    }
}

inline void gated_delta(const void* raw, Team& team) {
    const auto& args = *static_cast<const DeltaArgs*>(raw);
    const int64_t heads = args.value_heads, repeats = heads / args.key_heads, size = int64_t(args.k_dim) * args.v_dim;
    const int64_t padded = round_up(args.k_dim, 16);
    auto* q = reinterpret_cast<float*>(team.local(size_t(4 * 3 * padded)));
    if (!q) return;
    float *k = q + padded, *keep = k + padded;
    for (int64_t claimed = team.claim(); claimed < args.sequences * heads; claimed = team.claim()) {
        const int64_t s = claimed / heads, head = claimed % heads;
        float* memory = args.state + (args.slots[s] * heads + head) * size;
        for (int64_t t = args.starts[s]; t < args.starts[s + 1]; ++t) {
            unit(args.q + t * args.q_stride + head / repeats * args.k_dim, args.k_dim, q);
            unit(args.k + t * args.k_stride + head / repeats * args.k_dim, args.k_dim, k);
            const float* decay = args.decay + (t * heads + head) * args.decay_width;
            over(args.decay_width, [&](auto get, auto put) { put(keep, exp(get(decay))); });
            delta_row(memory, q, k, args.v + t * args.v_stride + head * args.v_dim, keep, args.decay_width > 1, args.beta[t * heads + head],
                      args.scale, args.k_dim, args.v_dim, args.out + (t * heads + head) * args.v_dim);
        }
    }
}

}  // namespace parity::PARITY_ISA
