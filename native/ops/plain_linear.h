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

template <class W, int kRows, int kTokens>
void dot_rows(const W* w, int64_t columns, const float* x, int64_t x_stride, float* out, int64_t out_stride, const float* bias) {
    F totals[kRows][kTokens];
    for (auto& row : totals)
        for (F& total : row) total = set(0);
    int64_t c = 0;
    for (; c + 16 <= columns; c += 16) {
        F weights[kRows];
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            weights[r] = load_number(w + r * columns + c);
            prefetch(w + r * columns + c + 1024 / sizeof(W));
        }
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {
            const F activation = load(x + t * x_stride + c);
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) totals[r][t] = fma(weights[r], activation, totals[r][t]);
        }
    }
    if (c < columns)
        for (int r = 0; r < kRows; ++r)
            for (int t = 0; t < kTokens; ++t)
                totals[r][t] = fma(load_last(w + r * columns + c, columns - c), load_some(x + t * x_stride + c, columns - c), totals[r][t]);
    for (int t = 0; t < kTokens; ++t)
        for (int r = 0; r < kRows; ++r) out[t * out_stride + r] = sum(totals[r][t]) + (bias ? bias[r] : 0.0f);
}

constexpr int kPlainTokens = sizeof(F) == 64 && kTilePanels > 1 ? 4 : 2;

template <class W, int kRows> void plain_rows(const W* w, const LinearArgs& args, float* out, const float* bias) {
    int64_t t = 0;
    for (; t + kPlainTokens <= args.tokens; t += kPlainTokens)
        dot_rows<W, kRows, kPlainTokens>(w, args.columns, args.x + t * args.x_stride, args.x_stride, out + t * args.out_stride, args.out_stride, bias);
    for (; t < args.tokens; ++t)
        dot_rows<W, kRows, 1>(w, args.columns, args.x + t * args.x_stride, args.x_stride, out + t * args.out_stride, args.out_stride, bias);
}

// Up to 16 rows of a plain weight.
template <class W> void plain_linear(const W* w, int64_t rows, const LinearArgs& args, float* out, const float* bias) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) plain_rows<W, 4>(w + r * args.columns, args, out + r, bias ? bias + r : nullptr);
    for (; r < rows; ++r) plain_rows<W, 1>(w + r * args.columns, args, out + r, bias ? bias + r : nullptr);
}

}  // namespace parity::PARITY_ISA
