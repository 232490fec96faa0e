// Products of panels of FP8 numbers and float32 activations, which are not rounded. A sum runs over 32 columns in order, is
// multiplied by their scale and added to the sum so far: the same on every path, so that a row does not depend on its batch.
#pragma once

namespace parity::PARITY_ISA {

inline bool in_float_panels(int64_t format) { return format >= kFirstFloatPanels; }

constexpr int kFloatTokens = 6;            // of a tile
constexpr int64_t kFloatColumns = 256;     // unpacked at a time: 16 kB
constexpr int64_t kFloatDirectTokens = 2;  // up to these, numbers are unpacked as they are used

inline size_t float_panels_scratch(int64_t tokens) { return size_t(64 * kFloatColumns + 64 * round_up(tokens, kFloatTokens)); }

// totals [kTokens] += `kChains` blocks of 32 columns, the next of a panel, times x [kTokens, stride].
template <class C, int kTokens, int kChains>
void float_blocks(const uint8_t* panel, int64_t block, const float* x, int64_t stride, F* totals) {
    constexpr int per = C::columns / kBlock;
    const uint8_t *codes[kChains], *headers[kChains];
    F sums[kChains][kTokens];
    for (int k = 0; k < kChains; ++k) {
        headers[k] = panel + (block + k) / per * C::bytes;
        codes[k] = headers[k] + C::header + (block + k) % per * kBlock * 16;
        for (int t = 0; t < kTokens; ++t) sums[k][t] = set(0);
    }
    x += block * kBlock;
    for (int c = 0; c < kBlock; ++c) {
#pragma GCC unroll 4
        for (int k = 0; k < kChains; ++k) {
            if (c % 4 == 0) prefetch(codes[k] + 16 * c + kAhead);
            const F w = load_e4m3(codes[k] + 16 * c);
#pragma GCC unroll 2
            for (int t = 0; t < kTokens; ++t) sums[k][t] = fma(w, set(x[t * stride + kBlock * k + c]), sums[k][t]);
        }
    }
    for (int k = 0; k < kChains; ++k)
        for (int t = 0; t < kTokens; ++t) totals[t] = fma(sums[k][t], C::scale(headers[k]), totals[t]);
}

template <class C, int kTokens> void float_direct(const uint8_t* panel, const LinearArgs& args, const Target& to) {
    constexpr int chains = 4 / kTokens;
    F totals[kTokens];
    for (F& total : totals) total = set(0);
    const int64_t blocks = args.columns / kBlock;
    int64_t b = 0;
    for (; b + chains <= blocks; b += chains) float_blocks<C, kTokens, chains>(panel, b, args.x, args.x_stride, totals);
    for (; b < blocks; ++b) float_blocks<C, kTokens, 1>(panel, b, args.x, args.x_stride, totals);
    to.put(0, 0, totals, kTokens);
}

// totals [kTokens, 16] += the unpacked blocks of 32 columns from `block` on times x.
template <class C, int kTokens>
void float_tile(const float* weights, const uint8_t* panel, int64_t block, int64_t count, const float* x, int64_t stride, float* totals) {
    F whole[kTokens];
    for (int t = 0; t < kTokens; ++t) whole[t] = load(totals + 16 * t);
    for (int64_t b = block; b < block + count; ++b) {
        F sums[kTokens];
#pragma GCC unroll 6
        for (int t = 0; t < kTokens; ++t) sums[t] = set(0);
        for (int c = 0; c < kBlock; ++c, weights += 16) {
            const F w = load(weights);
#pragma GCC unroll 6
            for (int t = 0; t < kTokens; ++t) sums[t] = fma(w, set(x[t * stride + b * kBlock + c]), sums[t]);
        }
        const F scale = C::scale(panel + b / (C::columns / kBlock) * C::bytes);
        for (int t = 0; t < kTokens; ++t) whole[t] = fma(sums[t], scale, whole[t]);
    }
    for (int t = 0; t < kTokens; ++t) store(totals + 16 * t, whole[t]);
}

template <class C> void float_tiles(const uint8_t* panel, const LinearArgs& args, std::byte* scratch, const Target& to) {
    auto* weights = reinterpret_cast<float*>(scratch);
    float* totals = weights + 16 * kFloatColumns;
    for (int64_t i = 0; i < args.tokens; ++i) store(totals + 16 * i, set(0));
    constexpr int per = C::columns / kBlock;
    const int64_t blocks = args.columns / kBlock, step = kFloatColumns / kBlock;
    for (int64_t first = 0; first < blocks; first += step) {
        const int64_t count = blocks - first < step ? blocks - first : step;
        for (int64_t b = 0; b < count; ++b) {
            const uint8_t* codes = panel + (first + b) / per * C::bytes + C::header + (first + b) % per * kBlock * 16;
            for (int c = 0; c < kBlock; ++c) store(weights + 16 * (kBlock * b + c), load_e4m3(codes + 16 * c));
        }
        int64_t t = 0;
        for (; t + kFloatTokens <= args.tokens; t += kFloatTokens)
            float_tile<C, kFloatTokens>(weights, panel, first, count, args.x + t * args.x_stride, args.x_stride, totals + 16 * t);
        for (; t < args.tokens; ++t) float_tile<C, 1>(weights, panel, first, count, args.x + t * args.x_stride, args.x_stride, totals + 16 * t);
    }
    for (int64_t t = 0; t < args.tokens; ++t) {
        const F total = load(totals + 16 * t);
        to.put(0, t, &total, 1);
    }
}

// One panel of a part times all activations.
inline void float_panel(int64_t format, const uint8_t* panel, const LinearArgs& args, std::byte* scratch, const Target& to) {
    with_float_codec(format, [&]<class C>(C) {
        if (args.tokens == 1) float_direct<C, 1>(panel, args, to);
        else if (args.tokens == kFloatDirectTokens) float_direct<C, 2>(panel, args, to);
        else float_tiles<C>(panel, args, scratch, to);
    });
}

inline void embed_float_row(int64_t format, const uint8_t* panels, int64_t columns, int64_t row, float* out) {
    with_float_codec(format, [&]<class C>(C) {
        const uint8_t* panel = panels + row / kPanelRows * (columns / C::columns * C::bytes);
        const int64_t lane = row % kPanelRows;
        alignas(64) float numbers[16];
        for (int64_t c = 0; c < columns; ++c) {
            const uint8_t* block = panel + c / C::columns * C::bytes;
            store(numbers, load_e4m3(block + C::header + 16 * (c % C::columns)) * C::scale(block));
            out[c] = numbers[lane];
        }
    });
}

}  // namespace parity::PARITY_ISA
