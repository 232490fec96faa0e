// Norms and gates: one pass or two over each row.
#pragma once

namespace parity::PARITY_ISA {

// Threads share rows in pieces that are worth claiming.
template <class Fn> void share_rows(Team& team, int64_t rows, int64_t columns, Fn fn) {
    const int64_t chunk = 1 + (1 << 13) / (columns + 1);
    for (int64_t start = team.claim() * chunk; start < rows; start = team.claim() * chunk)
        for (int64_t row = start; row < start + chunk && row < rows; ++row) fn(row);
}

inline void norm(const void* raw, Team& team) {
    const auto& args = *static_cast<const NormArgs*>(raw);
    share_rows(team, args.rows, args.columns, [&](int64_t row) {
        const int64_t n = args.columns;
        const float* x = row_of(args.x, row);
        const float* weight = args.weight ? args.weight + row % args.weights * n : nullptr;
        const float* gates = args.gate.data ? row_of(args.gate, row) : nullptr;
        float* out = args.out + row * n;
        if (args.residual) {
            float* total = args.sum + row * n;
            const float* residual = args.residual + row * n;
            over(n, [&](auto get, auto put) { put(total, get(x) + get(residual)); });
            x = total;
        }
        float mean = 0;
        if (args.bias) {
            F total = set(0);
            over(n, [&](auto get, auto) { total = total + get(x); });
            mean = sum(total) / float(n);
        }
        F squares = set(0);
        // The lanes past the end hold 0 - mean, taken out of the sum below.
        over(n, [&](auto get, auto) {
            const F centred = get(x) - set(mean);
            squares = fma(centred, centred, squares);
        });
        float total = sum(squares);
        if (args.bias && n % 16) total -= float(16 - n % 16) * mean * mean;
        const F inverse = set(1.0f / __builtin_sqrtf(total / float(n) + args.eps));
        over(n, [&](auto get, auto put) {
            F y = (get(x) - set(mean)) * inverse;
            if (weight) y = y * (set(args.shift) + get(weight));
            if (args.bias) y = y + get(args.bias);
            if (gates) {
                const F gate = get(gates);
                y = y * (args.activation ? sigmoid(gate) : gate * sigmoid(gate));
            }
            put(out, y);
        });
    });
}

// A gated activation, whose kind and numbers are among the arguments of several ops.
template <class Args> F activated(const Args& args, F gate, F up) {
    if (args.kind == 2) {
        const F left = set(args.beta) * tanh(gate / set(args.beta)) * sigmoid(gate);
        return left * set(args.linear) * tanh(up / set(args.linear));
    }
    if (args.kind == 1) gate = min(gate, set(args.limit)), up = max(min(up, set(args.limit)), set(-args.limit));
    return gate * sigmoid(gate) * up;
}

template <class Args> void gate_row(const Args& args, const float* gates, int64_t columns, float* out) {
    over(columns, [&](auto get, auto put) { put(out, activated(args, get(gates), get(gates + columns))); });
}

inline void gated(const void* raw, Team& team) {
    const auto& args = *static_cast<const GatedArgs*>(raw);
    share_rows(team, args.rows, args.columns, [&](int64_t row) {
        gate_row(args, args.gate_up + row * 2 * args.columns, args.columns, args.out + row * args.columns);
    });
}

inline void sigmoid_gate(const void* raw, Team& team) {
    const auto& args = *static_cast<const SigmoidGateArgs*>(raw);
    share_rows(team, args.rows, args.columns, [&](int64_t row) {
        const float *x = row_of(args.x, row), *gate = row_of(args.gate, row);
        float* out = args.out + row * args.columns;
        const F one = args.one ? sigmoid(set(gate[0])) : set(0);
        over(args.columns, [&](auto get, auto put) { put(out, get(x) * (args.one ? one : sigmoid(get(gate)))); });
    });
}

inline void add(const void* raw, Team& team) {
    const auto& args = *static_cast<const AddArgs*>(raw);
    share_rows(team, args.rows, args.columns, [&](int64_t row) {
        const float *a = row_of(args.a, row), *b = row_of(args.b, row);
        float* out = args.out + row * args.columns;
        over(args.columns, [&](auto get, auto put) { put(out, get(a) + get(b)); });
    });
}

inline void copy(const void* raw, Team& team) {
    const auto& args = *static_cast<const CopyArgs*>(raw);
    share_rows(team, args.rows, args.columns, [&](int64_t row) {
        const float* x = row_of(args.x, row);
        float* out = args.out + row * args.columns;
        if (!args.factors) return void(__builtin_memcpy(out, x, size_t(4 * args.columns)));
        const F factor = set(args.factors[row]);
        over(args.columns, [&](auto get, auto put) { put(out, get(x) * factor); });
    });
}

inline void activate(const void* raw, Team& team) {
    const auto& args = *static_cast<const ActivateArgs*>(raw);
    share_rows(team, args.rows, 4 * args.columns, [&](int64_t row) {
        const float* x = row_of(args.x, row);
        float* out = args.out + row * args.columns;
        over(args.columns, [&](auto get, auto put) {
            const F scaled = get(x) * set(args.scale), gate = sigmoid(scaled);
            put(out, (args.kind ? gate : scaled * gate) * set(args.factor));
        });
    });
}

inline void read(const void* raw, Team& team) {
    const auto& args = *static_cast<const ReadArgs*>(raw);
    constexpr int64_t piece = 1 << 16, quarter = piece / 4;  // four places at once, as the products read their weights
    F totals[4] = {set(0), set(0), set(0), set(0)};
    for (int64_t start = team.claim() * piece; start + piece <= args.count; start = team.claim() * piece)
        for (int64_t i = start; i < start + quarter; i += 16)
            for (int k = 0; k < 4; ++k) {
                prefetch(args.data + i + k * quarter + 512);
                totals[k] = max(totals[k], load(args.data + i + k * quarter));
            }
    args.out[team.index] = sum(totals[0] + totals[1] + totals[2] + totals[3]);
}

}  // namespace parity::PARITY_ISA
