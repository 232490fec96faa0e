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
        // One row of activations leaves the processor's own prefetching far enough ahead. (By `each_place` gcc leaves this out.)
        for (int r = 0; kTokens > 1 && r < kRows; ++r) prefetch(next + r * stride);
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

constexpr int64_t kFewTokens = 12;  // up to these, numbers are widened as they are used
constexpr int64_t kWideRows = 8, kWideColumns = 512;  // widened at a time: 16 kB, half of the nearest cache
constexpr int64_t kWideStride = kWideColumns + 16;
constexpr int64_t kWideTokens = 63;  // whose partial sums are kept at a time: 32 kB

inline size_t plain_scratch(int64_t tokens) {
    return tokens > kFewTokens ? 4 * kWideRows * size_t(kWideStride + 16 * (tokens < kWideTokens ? tokens : kWideTokens)) : 0;
}

// totals [token, kWideRows, 16] += four widened rows times some activations, over whole registers of columns.
template <int kTokens> void wide_tile(const float* w, const float* x, int64_t x_stride, int64_t columns, bool first, float* totals) {
    for (int64_t lanes = 0; lanes < 16; lanes += kLanes) {
        R sums[4][kTokens];
        const auto place = [&](int r, int t) { return totals + 16 * (kWideRows * t + r) + lanes; };
        const R none = {};
        each_place<4, kTokens>([&](int r, int t) __attribute__((always_inline)) { sums[r][t] = first ? none : load_register(place(r, t)); });
        for (int64_t c = lanes; c < columns; c += 16) {
            R activations[kTokens], weights;
            each_place<1, kTokens>([&](int, int t) __attribute__((always_inline)) { activations[t] = load_register(x + t * x_stride + c), settle(activations[t]); });
            each_place<4, kTokens>([&](int r, int t) __attribute__((always_inline)) {
                if (t == 0) weights = load_register(w + r * kWideStride + c), settle(weights);  // loaded once, not for each product
                sums[r][t] = fma(weights, activations[t], sums[r][t]), settle(sums[r][t]);
            });
        }
        each_place<4, kTokens>([&](int r, int t) __attribute__((always_inline)) { store_register(place(r, t), sums[r][t]); });
    }
}

// Calls fn<count>(first) for tiles of some tokens: as few tiles as there can be, and of nearly one size.
template <class Fn> void each_tile(int64_t tokens, const Fn& fn) {
    for (int64_t t = 0; t < tokens;) {
        const int64_t left = tokens - t, tiles = (left + kLaneTokens - 1) / kLaneTokens, count = (left + tiles - 1) / tiles;
        with_count<kLaneTokens>(count, [&]<int kTokens>() { fn.template operator()<kTokens>(t); });
        t += count;
    }
}

// Some tokens' activations from `x` on times up to eight rows from `w` on. A stretch of columns is widened once for all tokens,
// and while it is used the next one is fetched from memory: the last is followed by that of the rows behind.
template <class W>
void wide_rows(const W* w, int64_t rows, const LinearArgs& args, const float* x, int64_t tokens, float* wide, float* out, const float* bias) {
    constexpr int64_t lines = kWideColumns * int64_t(sizeof(W)) / 64;
    const int64_t columns = args.columns, whole = columns / 16 * 16, tiles = (tokens + kLaneTokens - 1) / kLaneTokens;
    float* totals = wide + kWideRows * kWideStride;
    for (int64_t c = 0; c < whole || c == 0; c += kWideColumns) {
        const int64_t count = whole - c < kWideColumns ? whole - c : kWideColumns;
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < count; i += 16) store(wide + r * kWideStride + i, load_number(w + r * columns + c + i));
        const W* next = w + (c + kWideColumns < whole ? c + kWideColumns : rows * columns);
        int64_t fetched = 0;
        each_tile(tokens, [&]<int kTokens>(int64_t t) {
            for (const int64_t end = fetched + (lines * kWideRows + tiles - 1) / tiles; fetched < end && fetched < lines * kWideRows; ++fetched)
                prefetch(next + fetched / lines * columns + fetched % lines * (64 / int64_t(sizeof(W))));
            for (int64_t r = 0; r < rows; r += 4)
                wide_tile<kTokens>(wide + r * kWideStride, x + t * args.x_stride + c, args.x_stride, count, c == 0, totals + 16 * (kWideRows * t + r));
        });
    }
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t r = 0; r < rows; r += 4) {
            float sums[4], *sixteen = totals + 16 * (kWideRows * t + r);
            for (int64_t i = r; whole < columns && i < r + 4 && i < rows; ++i) {
                float* at = sixteen + 16 * (i - r);
                store(at, fma(load_last(w + i * columns + whole, columns - whole), load_some(x + t * args.x_stride + whole, columns - whole), load(at)));
            }
            sum_four(sixteen, sums);
            for (int64_t i = r; i < r + 4 && i < rows; ++i) out[t * args.out_stride + i] = sums[i - r] + (bias ? bias[i] : 0.0f);
        }
}

// Up to 16 rows of a plain weight.
template <class W> void plain_linear(const W* w, int64_t rows, const LinearArgs& args, std::byte* scratch, float* out, const float* bias) {
    if (args.tokens > kFewTokens) {
        for (int64_t t = 0; t < args.tokens; t += kWideTokens)
            for (int64_t r = 0; r < rows; r += kWideRows) {
                const int64_t tokens = args.tokens - t < kWideTokens ? args.tokens - t : kWideTokens, count = rows - r < kWideRows ? rows - r : kWideRows;
                wide_rows(w + r * args.columns, count, args, args.x + t * args.x_stride, tokens, reinterpret_cast<float*>(scratch), out + t * args.out_stride + r, bias ? bias + r : nullptr);
            }
        return;
    }
    if (rows == kPanelRows && args.tokens < kPlainTokens) return plain_panel_rows<W, 4>(w, args, out, bias);
    if (rows == kPanelRows) return plain_panel_rows<W, kPlainRows>(w, args, out, bias);
    for (int64_t r = 0; r < rows; ++r)
        plain_rows<W, 1>(PlainTile<W>{w + r * args.columns, args.columns, 0, out + r, bias ? bias + r : nullptr, 1}, args);
}

}  // namespace parity::PARITY_ISA
