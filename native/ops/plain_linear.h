// Products of rows of plain numbers (float32, float16, bfloat16), used in place, and rows of float32 activations. Each result
// is sixteen partial sums over the columns, added at the end: the same order whatever the tile.
#pragma once

namespace parity::PARITY_ISA {

inline F load_number(const float* p) { return load(p); }
struct Half { uint16_t bits; };
struct Bfloat { uint16_t bits; };
inline F load_number(const Half* p) { return load_half(reinterpret_cast<const uint16_t*>(p)); }
inline F load_number(const Bfloat* p) { return load_bfloat(reinterpret_cast<const uint16_t*>(p)); }

template <class W> F load_last(const W* p, int64_t n) {
    W all[16] = {};
    for (int64_t i = 0; i < n; ++i) all[i] = p[i];
    return load_number(all);
}

// Calls fn(r, t) for each place of a tile. Not a loop: the compiler keeps an array of pairs of registers in memory when it
// sees it indexed by a variable, even by one that it unrolls later.
template <int kRows, int kTokens, int kPlace = 0, class Fn> [[gnu::always_inline]] inline void each_place(const Fn& fn) {
    if constexpr (kPlace < kRows * kTokens) {
        fn(kPlace / kTokens, kPlace % kTokens);
        each_place<kRows, kTokens, kPlace + 1>(fn);
    }
}

// Bytes of each row fetched before they are used.
constexpr int64_t kRowAhead = 1024;

// Rows of a weight in a tile: each `stride` numbers from the one before. What follows a row in memory is read soon after it;
// `jump` numbers later still where that belongs to another row of the tile.
template <class W> struct PlainTile {
    const W* w;
    int64_t stride, jump;
    float* out;
    const float* bias;
    int64_t apart;  // in `out`
};

template <class W, int kRows, int kTokens> void dot_rows(const PlainTile<W>& tile, const LinearArgs& args, int64_t token) {
    const int64_t columns = args.columns, stride = tile.stride, x_stride = args.x_stride;
    const W* const w = tile.w;
    const float* const x = args.x + token * x_stride;
    F totals[kRows][kTokens];
    each_place<kRows, kTokens>([&](int r, int t) __attribute__((always_inline)) { totals[r][t] = set(0); });
    const auto add = [&](int64_t c) __attribute__((always_inline)) {
        F activations[kTokens], weights;
        each_place<1, kTokens>([&](int, int t) __attribute__((always_inline)) { activations[t] = load(x + t * x_stride + c), settle(activations[t]); });
        each_place<kRows, kTokens>([&](int r, int t) __attribute__((always_inline)) {
            if (t == 0) weights = load_number(w + r * stride + c);
            totals[r][t] = fma(weights, activations[t], totals[r][t]), settle(totals[r][t]);
        });
    };
    constexpr int64_t line = 64 / sizeof(W), ahead = kRowAhead / sizeof(W);
    int64_t c = 0;
    for (; c + line <= columns; c += line) {
        const W* next = w + c + ahead + (c + ahead < columns ? 0 : tile.jump);
        each_place<kRows, 1>([&](int r, int) __attribute__((always_inline)) { prefetch(next + r * stride); });
        add(c);
        if constexpr (line > 16) add(c + 16);
    }
    for (; c + 16 <= columns; c += 16) add(c);
    if (c < columns) {
        F activations[kTokens];
        each_place<1, kTokens>([&](int, int t) __attribute__((always_inline)) { activations[t] = load_some(x + t * x_stride + c, columns - c); });
        each_place<kRows, kTokens>([&](int r, int t) __attribute__((always_inline)) {
            totals[r][t] = fma(load_last(w + r * stride + c, columns - c), activations[t], totals[r][t]);
        });
    }
    each_place<kRows, kTokens>([&](int r, int t) __attribute__((always_inline)) {
        const int64_t row = r * tile.apart;
        tile.out[(token + t) * args.out_stride + row] = sum(totals[r][t]) + (tile.bias ? tile.bias[row] : 0.0f);
    });
}

template <class W, int kRows> void plain_rows(const PlainTile<W>& tile, const LinearArgs& args) {
    int64_t t = 0;
    if constexpr (kRows <= kPlainRows)
        for (; t + kPlainTokens <= args.tokens; t += kPlainTokens) dot_rows<W, kRows, kPlainTokens>(tile, args, t);
    for (; t < args.tokens; ++t) dot_rows<W, kRows, 1>(tile, args, t);
}

// A whole panel, `kRows` rows at a time that stand as far apart as they can: each then goes on in memory where the one before
// it ended, and no two are in the same page, which the processor's own prefetching would take for one.
template <class W, int kRows> void plain_panel_rows(const W* w, const LinearArgs& args, float* out, const float* bias) {
    constexpr int64_t apart = kPanelRows / kRows;
    for (int64_t r = 0; r < apart; ++r) {
        const int64_t jump = r + 1 < apart ? 0 : (kPanelRows - apart) * args.columns;
        plain_rows<W, kRows>(PlainTile<W>{w + r * args.columns, apart * args.columns, jump, out + r, bias ? bias + r : nullptr, apart}, args);
    }
}

// Up to 16 rows of a plain weight.
template <class W> void plain_linear(const W* w, int64_t rows, const LinearArgs& args, float* out, const float* bias) {
    if (rows == kPanelRows && args.tokens < kPlainTokens) return plain_panel_rows<W, 4>(w, args, out, bias);
    if (rows == kPanelRows) return plain_panel_rows<W, kPlainRows>(w, args, out, bias);
    for (int64_t r = 0; r < rows; ++r)
        plain_rows<W, 1>(PlainTile<W>{w + r * args.columns, args.columns, 0, out + r, bias ? bias + r : nullptr, 1}, args);
}

}  // namespace parity::PARITY_ISA
