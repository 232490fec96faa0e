// Products of panels of packed weights and rows of activations. Every path adds the same numbers in the same order, so a
// row's result is the same to the bit whatever is computed with it: sums of products within a block are exact integers, and
// blocks are added in the order of columns.
#pragma once

namespace parity::PARITY_ISA {

template <class C> constexpr int kHalves = C::kind == kSub || C::kind == kSubMin ? 2 : 1;

// The scales and sums of one token's activations over a block.
struct TokenBlock {
    const float *scale, *sum;
    const int32_t *minus, *minus2[2], *pairs;

    TokenBlock(const Activations& a, int64_t tile, int64_t b, int64_t place) {
        const int64_t block = tile * a.blocks + b, at = block * a.width + place;
        scale = a.scale + at, sum = a.sum + at, minus = a.minus + at;
        for (int i = 0; i < 2; ++i) minus2[i] = a.minus2 + (2 * block + i) * a.width + place;
        pairs = a.pairs + 3 * block * a.width + place;
    }
};

// What a sum of products starts from: minus the offset times the activations' sum.
template <class C> inline I start_sum(const TokenBlock& token, int half) {
    if constexpr (C::log_offset < 0) return set_int(0);
    else return shift_int<C::log_offset>(set_int(kHalves<C> == 2 ? *token.minus2[half] : *token.minus));
}

// The total with one block added: `sum` is of products, times the integer scales of both halves where the kind has them.
template <class C> inline F add_block(F total, I sum, const Scales& s, const TokenBlock& token) {
    total = fma(widen(sum), s.scale * set(*token.scale), total);
    if constexpr (C::kind == kMin) total = fma(s.low, set(*token.sum), total);
    if constexpr (C::kind == kSubMin) {
        const I minus = s.min[0] * set_int(*token.minus2[0]) + s.min[1] * set_int(*token.minus2[1]);
        total = fma(widen(minus), s.low * set(-*token.scale), total);
    }
    return total;
}

// Each instruction set has one of the two (`kPairSums`), and a compiler wants to have seen the other's name.
I add_step(I sum, B w, const int8_t* a);
template <int kBound, int kLogOffset, int kHalves> class WordSums;

// The products of a block and one row of activations, its steps added in any order as they are unpacked.
template <class C> class StepSums {
    I sums_[kHalves<C>];

  public:
    void start(const TokenBlock& token) {
        for (int half = 0; half < kHalves<C>; ++half) sums_[half] = start_sum<C>(token, half);
    }
    void add(int step, B w, const int8_t* q) {
        I& sum = sums_[step / (8 / kHalves<C>)];
        sum = add_step(sum, w, q + 4 * step);
    }
    I total(const Scales& s, const TokenBlock&) const {
        if constexpr (kHalves<C> == 2) return sums_[0] * s.sub[0] + sums_[1] * s.sub[1];
        else return sums_[0];
    }
};

template <class C, bool kPairs = kPairSums> struct ChosenSums { using type = StepSums<C>; };
template <class C> struct ChosenSums<C, true> { using type = WordSums<C::bound, C::log_offset, kHalves<C>>; };

// `kStreams` panels, `apart` from each other, times a few rows of activations (in tiles of one): weights are multiplied as they
// are unpacked, a block of each panel in turn, since memory is read faster in several places at once. All is inlined: sums are
// kept in registers only where the compiler sees which step each product belongs to.
template <class C, int kTokens, int kStreams>
[[gnu::flatten]] void streams_direct(const uint8_t* panels, int64_t apart, const Activations& a, F (*totals)[kTokens]) {
    constexpr int per = C::columns / kBlock, each = C::bytes / per;
    for (int s = 0; s < kStreams; ++s)
        for (int t = 0; t < kTokens; ++t) totals[s][t] = set(0);
    for (int64_t b = 0; b < a.blocks; b += per, panels += C::bytes) {
        for (int j = 0; j < per; ++j) {
#pragma GCC unroll 1
            for (int s = 0; s < kStreams; ++s) {
                const uint8_t* panel = panels + s * apart;
                for (int line = 0; line < each; line += 64) prefetch(panel + kAhead + j * each + line);
                typename ChosenSums<C>::type sums[kTokens];
                for (int t = 0; t < kTokens; ++t) sums[t].start(TokenBlock(a, t, b + j, 0));
                C::weights(panel, j, [&](int step, B w) {
                    for (int t = 0; t < kTokens; ++t) sums[t].add(step, w, a.q + kBlock * (t * a.blocks + b + j));
                });
                Scales scales;
                C::scales(panel, j, scales);
                for (int t = 0; t < kTokens; ++t) {
                    const TokenBlock token(a, t, b + j, 0);
                    totals[s][t] = add_block<C>(totals[s][t], sums[t].total(scales, token), scales, token);
                }
            }
        }
    }
}

// A block of a panel unpacked: 512 bytes of weights, then its scales, as many of them as the kind has.
struct Unpacked {
    uint8_t w[512];
    float scale[16], low[16];
    int32_t sub[2][16], min[2][16];
};
template <class C> constexpr int64_t kUnpackedBytes = C::kind == kPlain ? 576 : C::kind == kMin ? 640 : C::kind == kSub ? 768 : 896;

// `put_factor` writes the integer scales of 16 columns.
template <class C, class Put> void unpack_block(const uint8_t* panel, int j, Unpacked& out, Put put_factor) {
    C::weights(panel, j, [&](int step, B w) { store_bytes(out.w + 64 * step, w); });
    Scales s;
    C::scales(panel, j, s);
    store(out.scale, s.scale);
    if constexpr (C::kind == kMin || C::kind == kSubMin) store(out.low, s.low);
    if constexpr (kHalves<C> == 2)
        for (int i = 0; i < 2; ++i) put_factor(out.sub[i], s.sub[i]);
    if constexpr (C::kind == kSubMin)
        for (int i = 0; i < 2; ++i) store_int(out.min[i], s.min[i]);
}

// A panel as tiles read it. One of whole bytes may be read where it is packed.
template <class C> constexpr bool kInPlace = kLargeInPlace && C::bound > 127;

template <class C> void unpack_panel(const uint8_t* panel, int64_t blocks, std::byte* to) {
    constexpr int per = C::columns / kBlock;
    for (int64_t b = 0; b < blocks; b += per, panel += C::bytes) {
        for (int line = 0; line < C::bytes; line += 64) prefetch(panel + kAhead + line);
        for (int j = 0; j < per; ++j, to += kUnpackedBytes<C>) unpack_block<C>(panel, j, *reinterpret_cast<Unpacked*>(to), store_factor);
    }
}

template <class C> const Unpacked& tile_block(const std::byte* panel, int64_t b) {
    return *reinterpret_cast<const Unpacked*>(panel + b * kUnpackedBytes<C>);
}

template <class C> const uint8_t* tile_weights(const std::byte* panel, int64_t b) {
    constexpr int per = C::columns / kBlock;
    if constexpr (kInPlace<C>) return reinterpret_cast<const uint8_t*>(panel) + b / per * C::bytes + C::header + 512 * (b % per);
    else return tile_block<C>(panel, b).w;
}

template <class C> void tile_scales(const std::byte* panel, int64_t b, Scales& s) {
    if constexpr (kInPlace<C>) return C::scales(reinterpret_cast<const uint8_t*>(panel) + b / (C::columns / kBlock) * C::bytes, 0, s);
    else {
        const Unpacked& in = tile_block<C>(panel, b);
        s.scale = load(in.scale);
        if constexpr (C::kind == kMin || C::kind == kSubMin) s.low = load(in.low);
        if constexpr (C::kind == kSubMin)
            for (int i = 0; i < 2; ++i) s.min[i] = load_int(in.min[i]);
    }
}

// Memory fetched while products are computed: `lines` cache lines for each block.
struct Ahead {
    const uint8_t* at;
    int64_t lines;

    void fetch() {
        for (int64_t i = 0; i < lines; ++i, at += 64) prefetch(at);
    }
};

// The same of tiles.
template <int kBound, int kLogOffset, int kHalves, int kPanels, int kTokens>
void dot_block(I (*sums)[kTokens], const uint8_t* w, const int32_t* sub, ptrdiff_t panel_bytes, const int8_t* a, const int32_t* pairs);
template <int kBound, int kSteps, int kPanels, int kTokens>
void dot_tile(I (*sums)[kTokens], const uint8_t* w, ptrdiff_t panel_bytes, const int8_t* a);

// The products of block `b` of a tile, with the offset taken out and, where the kind has them, times the integer scales.
template <class C, int kPanels, int kTokens>
inline void tile_sums(I (*sums)[kTokens], const std::byte* panels, int64_t panel_bytes, int64_t b, const int8_t* q, const TokenBlock& token) {
    constexpr int halves = kHalves<C>, steps = 8 / halves;
    const uint8_t* w = tile_weights<C>(panels, b);
    const auto sub = [&](int p, int half) { return tile_block<C>(panels + p * panel_bytes, b).sub[half]; };
    if constexpr (kPairSums) {
        dot_block<C::bound, C::log_offset, halves, kPanels, kTokens>(sums, w, sub(0, 0), panel_bytes, q, token.pairs);
    } else {
        I part[halves][kPanels][kTokens];
#pragma GCC unroll 2
        for (int half = 0; half < halves; ++half) {
            const int at = steps * half;
#pragma GCC unroll 8
            for (int t = 0; t < kTokens; ++t) {
                TokenBlock one = token;
                one.minus += t, one.minus2[0] += t, one.minus2[1] += t;
                for (int p = 0; p < kPanels; ++p) part[half][p][t] = start_sum<C>(one, half);
            }
            dot_tile<C::bound, steps, kPanels, kTokens>(part[half], w + 64 * at, panel_bytes, q + 4 * kTileTokens * at);
        }
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 8
            for (int t = 0; t < kTokens; ++t) {
                if constexpr (halves == 2) sums[p][t] = part[0][p][t] * load_int(sub(p, 0)) + part[1][p][t] * load_int(sub(p, 1));
                else sums[p][t] = part[0][p][t];
            }
    }
}

// Some tokens of a tile times `kPanels` panels, `panel_bytes` apart: results [kPanels, kTokens].
template <class C, int kPanels, int kTokens>
void panel_tile(const std::byte* panels, int64_t panel_bytes, const Activations& a, int64_t tile, Ahead& ahead, F* results) {
    F totals[kPanels][kTokens];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) totals[p][t] = set(0);
    const int8_t* q = a.q + tile * a.blocks * kBlock * kTileTokens;
    for (int64_t b = 0; b < a.blocks; ++b, q += kBlock * kTileTokens) {
        const TokenBlock token(a, tile, b, 0);
        ahead.fetch();
        I sums[kPanels][kTokens];
        tile_sums<C, kPanels, kTokens>(sums, panels, panel_bytes, b, q, token);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
            Scales s;
            tile_scales<C>(panels + p * panel_bytes, b, s);
#pragma GCC unroll 8
            for (int t = 0; t < kTokens; ++t) {
                TokenBlock one = token;
                one.scale += t, one.sum += t, one.minus2[0] += t, one.minus2[1] += t;
                totals[p][t] = add_block<C>(totals[p][t], sums[p][t], s, one);
            }
        }
    }
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) results[p * kTokens + t] = totals[p][t];
}

// Where the results of neighbouring panels go.
struct Target {
    float* out;
    const float* bias;
    int64_t stride, rows;

    F biased(int64_t panel, F total) const {
        const int64_t row = panel * kPanelRows, left = rows - row;
        if (!bias) return total;
        return total + (left >= kPanelRows ? load(bias + row) : load_some(bias + row, left));
    }
    // The lines that `put` will write come while their numbers are computed: a store that waits for memory holds up those behind.
    void expect(int64_t panel, int64_t token, int count) const {
        for (int t = 0; t < count; ++t) prefetch(out + (token + t) * stride + panel * kPanelRows);
    }
    void put(int64_t panel, int64_t token, const F* totals, int count) const {
        const int64_t row = panel * kPanelRows, left = rows - row;
        for (int t = 0; t < count; ++t) {
            float* to = out + (token + t) * stride + row;
            if (left >= kPanelRows) store(to, biased(panel, totals[t]));
            else store_some(to, biased(panel, totals[t]), left);
        }
    }
};

template <class C, int kPanels, int kTokens>
void tile(const std::byte* panels, int64_t panel_bytes, const Activations& a, int64_t tile, int64_t tokens, Ahead& ahead, const Target& to) {
    if constexpr (kTokens > 1) {
        if (tokens < kTokens) return parity::PARITY_ISA::tile<C, kPanels, kTokens - 1>(panels, panel_bytes, a, tile, tokens, ahead, to);
    }
    for (int p = 0; p < kPanels; ++p) to.expect(p, tile * kTileTokens, kTokens);
    F results[kPanels * kTokens];
    panel_tile<C, kPanels, kTokens>(panels, panel_bytes, a, tile, ahead, results);
    for (int p = 0; p < kPanels; ++p) to.put(p, tile * kTileTokens, results + p * kTokens, kTokens);
}

// Places of a matrix that a thread reads at once.
constexpr int kStreams = 2;

// `count` neighbouring panels times a few rows of activations.
template <class C, int kTokens> void panels_direct(const uint8_t* panels, int64_t count, const Activations& a, const Target& to) {
    const int64_t bytes = a.blocks / (C::columns / kBlock) * C::bytes, each = count / kStreams;
    F totals[kStreams][kTokens];
    for (int64_t i = 0; i < each; ++i) {
        streams_direct<C, kTokens, kStreams>(panels + i * bytes, each * bytes, a, totals);
        for (int s = 0; s < kStreams; ++s) to.put(s * each + i, 0, totals[s], kTokens);
    }
    for (int64_t i = kStreams * each; i < count; ++i) {
        streams_direct<C, kTokens, 1>(panels + i * bytes, 0, a, totals);
        to.put(i, 0, totals[0], kTokens);
    }
}

template <class C> void few_rows(const uint8_t* panels, int64_t count, const Activations& a, int64_t tokens, const Target& to) {
    with_count<kDirectTokens>(tokens, [&]<int kTokens>() { panels_direct<C, kTokens>(panels, count, a, to); });
}

// `kPanels` neighbouring panels times all activations, in tiles.
template <class C, int kPanels>
void panels_linear(const uint8_t* panels, const Activations& a, int64_t tokens, std::byte* scratch, const Target& to) {
    const int64_t packed_bytes = a.blocks / (C::columns / kBlock) * C::bytes;
    const int64_t panel_bytes = kInPlace<C> ? packed_bytes : a.blocks * kUnpackedBytes<C>;
    const std::byte* tiles = kInPlace<C> ? reinterpret_cast<const std::byte*>(panels) : scratch;
    if constexpr (!kInPlace<C>)
        for (int p = 0; p < kPanels; ++p) unpack_panel<C>(panels + p * packed_bytes, a.blocks, scratch + p * panel_bytes);
    // The panels that follow come from memory while these are computed with.
    const int64_t count = (tokens + kTileTokens - 1) / kTileTokens, lines = kPanels * packed_bytes / 64;
    Ahead ahead{panels + kPanels * packed_bytes, (lines + count * a.blocks - 1) / (count * a.blocks)};
    for (int64_t at = 0; at < count; ++at) {
        if (ahead.at >= panels + 2 * kPanels * packed_bytes) ahead.lines = 0;
        tile<C, kPanels, kTileTokens>(tiles, panel_bytes, a, at, tokens - at * kTileTokens, ahead, to);
    }
}

}  // namespace parity::PARITY_ISA
