// Sixteen lanes in plain C++: the meaning of every vector function, and what runs where nothing better is compiled in.
//
//   F  16 floats             I  16 32-bit integers           B  64 bytes: four columns of each of 16 rows
//   R  a register of an F: `kLanes` floats
//
// A panel of weights holds 16 rows. Four consecutive columns of a row fill one 32-bit lane, so that a product with four
// activations, the same for all rows, adds into that row's lane.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace parity::PARITY_ISA {

// A product of matrices takes `kTilePanels` panels and `kTileTokens` rows of activations at a time; for up to `kDirectTokens`
// rows, weights are unpacked as they are used. Panels are fetched `kAhead` bytes before they are read.
constexpr int kTilePanels = 1, kTileTokens = 4, kDirectTokens = 1, kAhead = 0;
// Whether a tile's products are summed in words, which start from the sums of pairs of activations (`dot_block`).
constexpr bool kPairSums = false;
// Whether a tile reads weights of whole bytes where they lie packed, or a copy of them, which starts at whole cache lines.
constexpr bool kLargeInPlace = false;
// Rows and tokens of a tile of plain numbers: as many as registers have room for.
constexpr int kPlainRows = 4, kPlainTokens = 2;
// Numbers of a register, and tokens of a tile of four rows of them.
constexpr int kLanes = 16, kLaneTokens = 2;

struct F { float v[16]; };
using R = F;
struct I { int32_t v[16]; };
struct B { uint8_t v[64]; };

// What is added to a weight of the range -128 .. 127 in a panel: 128 where products take any unsigned byte, and 0 where they
// take such weights as signed.
constexpr int kSignOffset = 128;

template <class V, class Fn> V each(Fn fn) {
    V out;
    for (size_t i = 0; i < sizeof(out.v) / sizeof(out.v[0]); ++i) out.v[i] = fn(i);
    return out;
}

inline F set(float x) { return each<F>([=](size_t) { return x; }); }
inline F load(const float* p) { return each<F>([=](size_t i) { return p[i]; }); }
inline void store(float* p, F a) { memcpy(p, a.v, sizeof a.v); }
inline F load_some(const float* p, int64_t n) { return each<F>([=](size_t i) { return int64_t(i) < n ? p[i] : 0.0f; }); }
inline void store_some(float* p, F a, int64_t n) { memcpy(p, a.v, sizeof(float) * size_t(n < 16 ? n : 16)); }
inline float bits_to_float(uint32_t x) {
    float out;
    memcpy(&out, &x, 4);
    return out;
}
inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    if (exponent == 31) return bits_to_float(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
    const float tiny = float(mantissa) * 5.9604644775390625e-8f;
    return sign ? -tiny : tiny;
}
inline F load_half(const uint16_t* p) { return each<F>([=](size_t i) { return half_to_float(p[i]); }); }
inline F load_bfloat(const uint16_t* p) { return each<F>([=](size_t i) { return bits_to_float(uint32_t(p[i]) << 16); }); }
inline R load_register(const float* p) { return load(p); }
inline void store_register(float* p, R a) { store(p, a); }
// Rounded to nearest, halves to even; what is no number stays one.
inline uint16_t float_to_bfloat(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint16_t float_to_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);
    // Below 2^-14 the sum with 0.5 has the half's last place in its own last one.
    if (size < 0x38800000) {
        const float moved = bits_to_float(size) + 0.5f;
        uint32_t tiny;
        memcpy(&tiny, &moved, 4);
        return uint16_t(sign | (tiny - 0x3f000000));
    }
    return uint16_t(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
}
inline void store_half(uint16_t* p, F a) {
    for (int i = 0; i < 16; ++i) p[i] = float_to_half(a.v[i]);
}
inline void store_bfloat(uint16_t* p, F a) {
    for (int i = 0; i < 16; ++i) p[i] = float_to_bfloat(a.v[i]);
}
inline F operator+(F a, F b) { return each<F>([&](size_t i) { return a.v[i] + b.v[i]; }); }
inline F operator-(F a, F b) { return each<F>([&](size_t i) { return a.v[i] - b.v[i]; }); }
inline F operator*(F a, F b) { return each<F>([&](size_t i) { return a.v[i] * b.v[i]; }); }
inline F operator/(F a, F b) { return each<F>([&](size_t i) { return a.v[i] / b.v[i]; }); }
// Rounded once or twice, whichever the machine does.
inline F fma(F a, F b, F c) { return each<F>([&](size_t i) { return a.v[i] * b.v[i] + c.v[i]; }); }
inline F max(F a, F b) { return each<F>([&](size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline F min(F a, F b) { return each<F>([&](size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline F abs(F a) { return each<F>([&](size_t i) { return a.v[i] < 0 ? -a.v[i] : a.v[i]; }); }
inline float sum(F a) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; ++i) a.v[i] += a.v[i + n];
    return a.v[0];
}
// The sums of four, one after the other.
inline void sum_four(const float* p, float* out) {
    for (int i = 0; i < 4; ++i) out[i] = sum(load(p + 16 * i));
}
inline float largest(F a) {
    for (int i = 1; i < 16; ++i)
        if (a.v[i] > a.v[0]) a.v[0] = a.v[i];
    return a.v[0];
}
// The largest absolute value of both; NaN where there is one.
inline float largest_size(F a, F b) {
    float most = 0;
    for (int i = 0; i < 32; ++i) {
        const float x = i < 16 ? a.v[i] : b.v[i - 16], size = x < 0 ? -x : x;
        if (most == most && !(size <= most)) most = size;
    }
    return most;
}

inline I set_int(int x) { return each<I>([=](size_t) { return x; }); }
inline I load_int(const int32_t* p) { return each<I>([=](size_t i) { return p[i]; }); }
inline void store_int(int32_t* p, I a) { memcpy(p, a.v, sizeof a.v); }
inline I load_i8(const int8_t* p) { return each<I>([=](size_t i) { return int32_t(p[i]); }); }
inline I load_u8(const uint8_t* p) { return each<I>([=](size_t i) { return int32_t(p[i]); }); }
inline I operator+(I a, I b) { return each<I>([&](size_t i) { return a.v[i] + b.v[i]; }); }
inline I operator*(I a, I b) { return each<I>([&](size_t i) { return a.v[i] * b.v[i]; }); }
template <int n> I shift_int(I a) { return each<I>([&](size_t i) { return int32_t(uint32_t(a.v[i]) << n); }); }
inline F widen(I a) { return each<F>([&](size_t i) { return float(a.v[i]); }); }
// To the nearest integer, halves to even; some integer where there is no number.
inline I nearest(F a) { return each<I>([&](size_t i) { return a.v[i] == a.v[i] ? int32_t(nearbyintf(a.v[i])) : 0; }); }
// 2 to the power of each, for -126 .. 127.
inline F power_of_two(I a) { return each<F>([&](size_t i) { return bits_to_float(uint32_t(a.v[i] + 127) << 23); }); }
inline void store_i8(int8_t* p, I a) {
    for (int i = 0; i < 16; ++i) p[i] = int8_t(a.v[i]);
}
// The sum of sixteen signed bytes.
inline int sum_bytes(const int8_t* p) {
    int out = 0;
    for (int i = 0; i < 16; ++i) out += p[i];
    return out;
}

inline B load_bytes(const void* p) {
    B out;
    memcpy(out.v, p, 64);
    return out;
}
inline void store_bytes(void* p, B a) { memcpy(p, a.v, 64); }
inline B set_bytes(uint8_t x) { return each<B>([=](size_t) { return x; }); }
inline B operator&(B a, B b) { return each<B>([&](size_t i) { return uint8_t(a.v[i] & b.v[i]); }); }
inline B operator|(B a, B b) { return each<B>([&](size_t i) { return uint8_t(a.v[i] | b.v[i]); }); }
// By bits, in units of at least a byte: what crosses from a neighbour has to be masked away.
template <int n> B shift_right(B a) { return each<B>([&](size_t i) { return uint8_t(a.v[i] >> n); }); }

// table[x] of each byte x, 0 .. 15.
inline B lookup(const uint8_t* table, B a) { return each<B>([&](size_t i) { return table[a.v[i] & 15]; }); }
// Sixteen FP8 (e4m3) numbers divided by 256: their bits, one place down, are those of halves. Their NaN is not one here.
inline F load_e4m3(const uint8_t* p) { return each<F>([=](size_t i) { return half_to_float(uint16_t((int8_t(p[i]) * 128) & 0xbfff)); }); }

// sum + for each row: four columns of w times the activations a (-127 .. 127).
inline I add_step(I sum, B w, const int8_t* a) {
    for (int i = 0; i < 64; ++i) sum.v[i / 4] += int(w.v[i]) * a[i % 4];
    return sum;
}

// An integer scale of 16 columns as a tile wants it.
inline void store_factor(int32_t* to, I x) { store_int(to, x); }

// The same for `kSteps` steps of `kPanels` panels, `panel_bytes` apart and aligned to 64 bytes, and `kTokens` of a tile of
// activations: sums +=. No weight is larger than kBound.
template <int kBound, int kSteps, int kPanels, int kTokens>
void dot_tile(I (*sums)[kTokens], const uint8_t* w, ptrdiff_t panel_bytes, const int8_t* a) {
    for (int p = 0; p < kPanels; ++p, w += panel_bytes)
        for (int s = 0; s < kSteps; ++s)
            for (int t = 0; t < kTokens; ++t)
                for (int i = 0; i < 64; ++i) sums[p][t].v[i / 4] += int(w[64 * s + i]) * a[4 * (s * kTileTokens + t) + i % 4];
}

// to[16 columns][16 rows, `stride` apart] from 16 rows of 16 numbers.
inline void transpose(const float* const* rows, float* to, int64_t stride) {
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 16; ++column) to[column * stride + row] = rows[row][column];
}

// Has `x` in registers at this point, where a compiler has to be told.
inline void settle(F&) {}
inline void prefetch(const void*) {}

}  // namespace parity::PARITY_ISA
