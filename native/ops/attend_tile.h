// Products of a tile: some query rows with the keys, and then the values, of up to 64 entries. Every sum is taken in the same
// order for any number of rows.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t kEntries = 64;                     // of a tile
constexpr int kQueryRows = kTilePanels > 1 ? 4 : 6;  // multiplied at once
constexpr int kStrip = kTilePanels > 1 ? 4 : 2;      // vectors of a row multiplied at once, at most

// As many of them as there are registers for: with few rows more, so that sums do not wait for each other.
template <int kRows> constexpr int kWide = kTilePanels > 1 || kRows <= 2 ? kStrip : 1;

// Calls fn<rows>(first) over all queries, in tiles of as many as are left.
template <int kRows = kQueryRows, class Fn> void tiles_of(int64_t queries, Fn fn, int64_t first = 0) {
    for (; first + kRows <= queries; first += kRows) fn.template operator()<kRows>(first);
    if constexpr (kRows > 1) tiles_of<(kRows > 2 ? kRows - 2 : 1)>(queries, fn, first);
}

// Up to 16 rows [count, dim] to a panel [dim, 16]; the last is repeated.
inline void transpose_panel(const float* const* rows, int64_t count, int64_t dim, float* to) {
    const float* sixteen[16];
    for (int64_t i = 0; i < 16; ++i) sixteen[i] = rows[i < count ? i : count - 1];
    int64_t d = 0;
    for (; d + 16 <= dim; d += 16) {
        transpose(sixteen, to + 16 * d, 16);
        for (const float*& row : sixteen) row += 16;
    }
    for (int64_t left = 0; d < dim; ++d, ++left)
        for (int64_t i = 0; i < 16; ++i) to[16 * d + i] = sixteen[i][left];
}

// scores [kRows, 16 kWide of 64] = q [kRows, dim] . keys, panels [dim, 16]
template <int kRows> [[gnu::noinline]] void score_panels(const float* q, int64_t q_stride, const float* keys, int64_t dim, float* scores) {
    constexpr int wide = kWide<kRows>;
    F totals[kRows][wide];
    for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < wide; ++i) totals[r][i] = set(0);
    for (int64_t d = 0; d < dim; ++d) {
        F columns[wide];
#pragma GCC unroll 4
        for (int i = 0; i < wide; ++i) columns[i] = load(keys + 16 * (i * dim + d));
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const F x = set(q[r * q_stride + d]);
#pragma GCC unroll 4
            for (int i = 0; i < wide; ++i) totals[r][i] = fma(x, columns[i], totals[r][i]);
        }
    }
    for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < wide; ++i) store(scores + r * kEntries + 16 * i, totals[r][i]);
}

// scores [kRows, 64] for the first `count` keys at least; calls between() now and then.
template <int kRows, class Fn>
void score_rows(const float* q, int64_t q_stride, const float* keys, int64_t count, int64_t dim, float* scores, Fn between) {
    for (int64_t e = 0; e < count; e += 16 * kWide<kRows>) {
        score_panels<kRows>(q, q_stride, keys + e * dim, dim, scores + e);
        between(kWide<kRows> * kRows * dim);
    }
}

// Values where their rows lie, or copied to panels of 16 columns [64, 16].
struct ValueRows {
    const float* const* rows;
    const float* at(int64_t e, int64_t column) const { return rows[e] + column; }
};
struct ValuePanels {
    const float* panels;
    const float* at(int64_t e, int64_t column) const { return panels + column * kEntries + 16 * e; }
};

// sums [kRows, kWide vectors from column c] += weights [kRows, 64] . values [count, ...]
template <int kRows, int kWide, class Values>
[[gnu::noinline]] void add_columns(const float* weights, Values values, int64_t count, float* sums, int64_t stride, int64_t c) {
    F totals[kRows][kWide];
    for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < kWide; ++i) totals[r][i] = load(sums + r * stride + c + 16 * i);
    for (int64_t e = 0; e < count; ++e) {
        F columns[kWide];
#pragma GCC unroll 4
        for (int i = 0; i < kWide; ++i) columns[i] = load(values.at(e, c + 16 * i));
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const F x = set(weights[r * kEntries + e]);
#pragma GCC unroll 4
            for (int i = 0; i < kWide; ++i) totals[r][i] = fma(x, columns[i], totals[r][i]);
        }
    }
    for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < kWide; ++i) store(sums + r * stride + c + 16 * i, totals[r][i]);
}

// sums [kRows, columns from `first` up to `end`] += weights [kRows, 64] . values [count, ...]; calls between() now and then.
template <int kRows, class Values, class Fn>
void add_values(const float* weights, Values values, int64_t count, float* sums, int64_t stride, int64_t first, int64_t end, Fn between) {
    constexpr int wide = kWide<kRows>;
    int64_t c = first;
    for (; c + 16 * wide <= end; c += 16 * wide) add_columns<kRows, wide>(weights, values, count, sums, stride, c), between(wide * kRows * count);
    for (; c + 16 <= end; c += 16) add_columns<kRows, 1>(weights, values, count, sums, stride, c), between(kRows * count);
    for (; c < end; c += 16)  // some columns more: sums have room for sixteen
        for (int r = 0; r < kRows; ++r) {
            F total = load(sums + r * stride + c);
            for (int64_t e = 0; e < count; ++e) total = fma(set(weights[r * kEntries + e]), load_some(values.at(e, c), end - c), total);
            store(sums + r * stride + c, total);
        }
}

// Rows [count, width] to panels of 16 columns [64, 16], the last one filled up with zeros.
inline void copy_values(const float* const* rows, int64_t count, int64_t width, float* to) {
    for (int64_t c = 0; c < width; c += 16, to += 16 * kEntries)
        for (int64_t e = 0; e < count; ++e) store(to + 16 * e, width - c < 16 ? load_some(rows[e] + c, width - c) : load(rows[e] + c));
}

}  // namespace parity::PARITY_ISA
