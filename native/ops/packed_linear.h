// Products of a panel of packed weights and rows of activations. Every path adds the same numbers in the same order, so a
// row's result is the same to the bit whatever is computed with it: sums of products within a block are exact integers, and
// blocks are added in the order of columns.
#pragma once

namespace parity::PARITY_ISA {

// The sum of one block, given `sums` of products of its two halves (all in the first unless the kind has sub-scales).
template <class C> inline F add_block(F total, const I* sums, const Scales& s, const Activations& a, int64_t at) {
    const F scale = s.scale * set(a.scale[at]);
    if constexpr (C::kind == kPlain) return fma(widen(sums[0]), scale, total);
    if constexpr (C::kind == kMin) return fma(s.low, set(a.sum[at]), fma(widen(sums[0]), scale, total));
    total = fma(widen(sums[0] * s.sub[0] + sums[1] * s.sub[1]), scale, total);
    if constexpr (C::kind == kSubMin) {
        const I minus = s.min[0] * set_int(a.minus2[2 * at]) + s.min[1] * set_int(a.minus2[2 * at + 1]);
        total = fma(widen(minus), s.low * set(-a.scale[at]), total);
    }
    return total;
}

// What the sums start from: minus the offset times the activations' sum.
template <class C> inline void start_sums(I* sums, const Activations& a, int64_t at) {
    if constexpr (C::kind == kSub || C::kind == kSubMin) {
        for (int i = 0; i < 2; ++i) {
            if constexpr (C::log_offset >= 0) sums[i] = shift_int<C::log_offset < 0 ? 0 : C::log_offset>(set_int(a.minus2[2 * at + i]));
            else sums[i] = set_int(0);
        }
    } else {
        if constexpr (C::log_offset >= 0) sums[0] = shift_int<C::log_offset < 0 ? 0 : C::log_offset>(set_int(a.minus[at]));
        else sums[0] = set_int(0);
    }
}

template <class C> constexpr int kHalves = C::kind == kSub || C::kind == kSubMin ? 2 : 1;

// A few rows of activations: weights are unpacked as they are read.
template <class C, int kTokens> void panel_direct(const uint8_t* panel, const Activations& a, int64_t token, F* totals) {
    constexpr int per = C::columns / kBlock, halves = kHalves<C>, steps = 8 / halves;
    for (int t = 0; t < kTokens; ++t) totals[t] = set(0);
    for (int64_t b = 0; b < a.blocks; b += per, panel += C::bytes) {
        for (int line = 0; line < C::bytes; line += 64) prefetch(panel + 2048 + line);
        for (int j = 0; j < per; ++j) {
            B w[8];
            Scales s;
            C::weights(panel, j, w);
            C::scales(panel, j, s);
#pragma GCC unroll 4
            for (int t = 0; t < kTokens; ++t) {
                const int64_t at = (token + t) * a.blocks + b + j;
                const int8_t* q = a.q + (token + t) * a.stride + kBlock * (b + j);
                I sums[halves];
                start_sums<C>(sums, a, at);
                for (int i = 0; i < halves; ++i) sums[i] = dot<C::bound, steps>(sums[i], w + steps * i, q + 16 * i);
                totals[t] = add_block<C>(totals[t], sums, s, a, at);
            }
        }
    }
}

// A block of a panel unpacked: 512 bytes of weights, then its scales.
struct Unpacked {
    uint8_t w[512];
    float scale[16], low[16];
    int32_t sub[2][16], min[2][16];
};
template <class C> constexpr int64_t kUnpackedBytes = C::kind == kPlain ? 576 : C::kind == kMin ? 640 : 896;

template <class C> void unpack_panel(const uint8_t* panel, int64_t blocks, std::byte* to) {
    constexpr int per = C::columns / kBlock;
    for (int64_t b = 0; b < blocks; b += per, panel += C::bytes) {
        for (int line = 0; line < C::bytes; line += 64) prefetch(panel + 4096 + line);
        for (int j = 0; j < per; ++j, to += kUnpackedBytes<C>) {
            auto& out = *reinterpret_cast<Unpacked*>(to);
            B w[8];
            Scales s;
            C::weights(panel, j, w);
            C::scales(panel, j, s);
            for (int i = 0; i < 8; ++i) store_bytes(out.w + 64 * i, w[i]);
            store(out.scale, s.scale);
            if constexpr (C::kind == kMin) store(out.low, s.low);
            if constexpr (C::kind == kSub || C::kind == kSubMin)
                for (int i = 0; i < 2; ++i) store_int(out.sub[i], s.sub[i]);
            if constexpr (C::kind == kSubMin) {
                store(out.low, s.low);
                for (int i = 0; i < 2; ++i) store_int(out.min[i], s.min[i]);
            }
        }
    }
}

// Many rows of activations times unpacked weights.
template <class C, int kTokens>
void panel_tile(const std::byte* unpacked, const Activations& a, int64_t token, F* results) {
    constexpr int halves = kHalves<C>, steps = 8 / halves;
    F totals[kTokens];
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) totals[t] = set(0);
    const int8_t* q = a.q + token * a.stride;
    for (int64_t b = 0; b < a.blocks; ++b, unpacked += kUnpackedBytes<C>, q += kBlock) {
        const auto& in = *reinterpret_cast<const Unpacked*>(unpacked);
        I sums[halves][kTokens];
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t) {
            I start[halves];
            start_sums<C>(start, a, (token + t) * a.blocks + b);
            for (int i = 0; i < halves; ++i) sums[i][t] = start[i];
        }
        for (int i = 0; i < halves; ++i) dot_tile<C::bound, steps, kTokens>(sums[i], in.w + 64 * steps * i, q + 16 * i, a.stride);
        Scales s;
        s.scale = load(in.scale);
        if constexpr (C::kind == kMin || C::kind == kSubMin) s.low = load(in.low);
        if constexpr (C::kind == kSub || C::kind == kSubMin)
            for (int i = 0; i < 2; ++i) s.sub[i] = load_int(in.sub[i]);
        if constexpr (C::kind == kSubMin)
            for (int i = 0; i < 2; ++i) s.min[i] = load_int(in.min[i]);
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t) {
            I both[halves];
            for (int i = 0; i < halves; ++i) both[i] = sums[i][t];
            totals[t] = add_block<C>(totals[t], both, s, a, (token + t) * a.blocks + b);
        }
    }
    for (int t = 0; t < kTokens; ++t) results[t] = totals[t];
}

// Where the 16 results of a panel go.
struct Target {
    float* out;
    const float* bias;
    int64_t stride, rows;

    void put(int64_t token, const F* totals, int count) const {
        for (int t = 0; t < count; ++t) {
            float* to = out + (token + t) * stride;
            if (rows >= kPanelRows) {
                store(to, bias ? totals[t] + load(bias) : totals[t]);
            } else {
                store_some(to, bias ? totals[t] + load_some(bias, rows) : totals[t], rows);
            }
        }
    }
};

template <class C, int kTokens> void tiles(const std::byte* unpacked, const Activations& a, int64_t& token, int64_t tokens, const Target& to) {
    F totals[kTokens];
    for (; token + kTokens <= tokens; token += kTokens) {
        panel_tile<C, kTokens>(unpacked, a, token, totals);
        to.put(token, totals, kTokens);
    }
    if constexpr (kTokens > 1) tiles<C, kTokens == 12 ? 8 : kTokens / 2>(unpacked, a, token, tokens, to);
}

template <class C> void panel_linear(const uint8_t* panel, const Activations& a, int64_t tokens, std::byte* scratch, const Target& to) {
    if (tokens > kTileDirect) {
        int64_t token = 0;
        unpack_panel<C>(panel, a.blocks, scratch);
        tiles<C, kTile>(scratch, a, token, tokens, to);
        return;
    }
    F totals[4];
    if (tokens == 1) panel_direct<C, 1>(panel, a, 0, totals);
    if constexpr (kTileDirect >= 2) {
        if (tokens == 2) panel_direct<C, 2>(panel, a, 0, totals);
    }
    if constexpr (kTileDirect >= 4) {
        if (tokens == 3) panel_direct<C, 3>(panel, a, 0, totals);
        if (tokens == 4) panel_direct<C, 4>(panel, a, 0, totals);
    }
    to.put(0, totals, int(tokens));
}

}  // namespace parity::PARITY_ISA
