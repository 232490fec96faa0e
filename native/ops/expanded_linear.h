// Products of panels of packed weights and activations as they are, in float32: some columns of a panel are expanded to
// numbers, and used for all rows of activations before the next. A result is a sum over each stretch of columns in turn,
// added to the total: the same order whatever the number of rows.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t kStretch = 8;  // blocks of 32 columns expanded at a time: 16 kB of float32
constexpr int kExpandedTokens = 6;

// The weight that a stored number stands for: of column `c` of a block, for the row `lane`.
template <class C> float expanded(const Unpacked& block, int c, int64_t lane, int q) {
    if constexpr (C::bound == 255) q = kSignOffset ? q - kSignOffset : int8_t(q);
    else if constexpr (C::log_offset >= 0) q -= 1 << C::log_offset;
    if constexpr (C::kind == kSub || C::kind == kSubMin) q *= block.sub[c / 16][lane];
    float value = block.scale[lane] * float(q);
    if constexpr (C::kind == kMin) value += block.low[lane];
    if constexpr (C::kind == kSubMin) value += block.low[lane] * float(block.min[c / 16][lane]);
    return value;
}

// Block `j` of a panel as numbers [32 columns, 16 rows].
template <class C> void expand_block(const uint8_t* panel, int j, float* to) {
    alignas(64) Unpacked block;
    unpack_block<C>(panel, j, block, store_int);
    for (int step = 0; step < 8; ++step) {
        uint32_t four[16];  // columns of each row
        __builtin_memcpy(four, block.w + 64 * step, 64);
        for (int c = 0; c < 4; ++c, to += kPanelRows)
            for (int lane = 0; lane < kPanelRows; ++lane) to[lane] = expanded<C>(block, 4 * step + c, lane, int(four[lane] >> 8 * c & 255));
    }
}

// totals [kTokens, 16] += weights [columns, 16] times `kTokens` rows of activations.
template <int kTokens> void add_stretch(const float* weights, int64_t columns, const float* x, int64_t x_stride, float* totals) {
    F sums[kTokens];
    for (F& sum : sums) sum = set(0);
    for (int64_t c = 0; c < columns; ++c) {
        const F weight = load(weights + kPanelRows * c);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) sums[t] = fma(weight, set(x[t * x_stride + c]), sums[t]);
    }
    for (int t = 0; t < kTokens; ++t) store(totals + kPanelRows * t, load(totals + kPanelRows * t) + sums[t]);
}

inline size_t expanded_scratch(int64_t tokens) { return size_t(4 * kPanelRows * (kStretch * kBlock + tokens)); }

// One panel times all activations. `scratch` holds the expanded columns and the totals.
template <class C> void expanded_panel(const uint8_t* panel, const LinearArgs& args, std::byte* scratch, const Target& to) {
    constexpr int64_t per = C::columns / kBlock;
    auto *weights = reinterpret_cast<float*>(scratch), *totals = weights + kPanelRows * kStretch * kBlock;
    __builtin_memset(totals, 0, size_t(4 * kPanelRows * args.tokens));
    const int64_t blocks = args.columns / kBlock;
    for (int64_t first = 0; first < blocks; first += kStretch) {
        const int64_t count = blocks - first < kStretch ? blocks - first : kStretch, columns = count * kBlock;
        for (int64_t b = first; b < first + count; ++b)
            expand_block<C>(panel + b / per * C::bytes, int(b % per), weights + kPanelRows * kBlock * (b - first));
        const float* x = args.x + first * kBlock;
        int64_t t = 0;
        for (; t + kExpandedTokens <= args.tokens; t += kExpandedTokens)
            add_stretch<kExpandedTokens>(weights, columns, x + t * args.x_stride, args.x_stride, totals + kPanelRows * t);
        for (; t < args.tokens; ++t) add_stretch<1>(weights, columns, x + t * args.x_stride, args.x_stride, totals + kPanelRows * t);
    }
    for (int64_t t = 0; t < args.tokens; ++t) {
        const F total = load(totals + kPanelRows * t);
        to.put(0, t, &total, 1);
    }
}

}  // namespace parity::PARITY_ISA
