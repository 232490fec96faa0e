// The vectors of AVX-512 with VNNI: one register each. See portable.h for what every function means.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace parity::PARITY_ISA {

// A product of matrices takes `kTilePanels` panels and `kTileTokens` rows of activations at a time; for up to `kDirectTokens`
// rows, weights are unpacked as they are used. Panels are fetched `kAhead` bytes before they are read.
constexpr int kTilePanels = 2, kTileTokens = 6, kDirectTokens = 4, kAhead = 2048;
constexpr bool kPairSums = false, kLargeInPlace = false;
// Rows and tokens of a tile of plain numbers: as many as registers have room for.
constexpr int kPlainRows = 4, kPlainTokens = 4;
// Numbers of a register, and tokens of a tile of four rows of them.
constexpr int kLanes = 16, kLaneTokens = 6;

struct F { __m512 v; };
struct R { __m512 v; };
struct I { __m512i v; };
struct B { __m512i v; };

// vpdpbusd takes unsigned weights of any size.
constexpr int kSignOffset = 128;

inline F set(float x) { return {_mm512_set1_ps(x)}; }
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline R load_register(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store_register(float* p, R a) { _mm512_storeu_ps(p, a.v); }
inline __mmask16 first(int64_t n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }
inline F load_some(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store_some(float* p, F a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
inline F load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline F load_bfloat(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
inline void store_half(uint16_t* p, F a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void store_bfloat(uint16_t* p, F a) {
    const __m512i bits = _mm512_castps_si512(a.v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 none = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    const __m512i all = _mm512_mask_or_epi32(rounded, none, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(all, 16)));
}
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline R fma(R a, R b, R c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
inline float sum(F a) { return _mm512_reduce_add_ps(a.v); }
inline void sum_four(const float* p, float* out) {
    for (int i = 0; i < 4; ++i) out[i] = sum(load(p + 16 * i));
}
inline float largest(F a) { return _mm512_reduce_max_ps(a.v); }
// As integers, since these order sizes as numbers are, and have NaN above them.
inline float largest_size(F a, F b) {
    const __m512i size = _mm512_set1_epi32(0x7fffffff);
    const auto bits = [&](__m512 v) { return _mm512_and_si512(_mm512_castps_si512(v), size); };
    const int most = _mm512_reduce_max_epi32(_mm512_max_epi32(bits(a.v), bits(b.v)));
    float out;
    __builtin_memcpy(&out, &most, 4);
    return out;
}

inline I set_int(int x) { return {_mm512_set1_epi32(x)}; }
inline I load_int(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_int(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
inline I load_i8(const int8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline I load_u8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I operator*(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
template <int n> I shift_int(I a) { return {_mm512_slli_epi32(a.v, n)}; }
inline F widen(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I nearest(F a) { return {_mm512_cvtps_epi32(a.v)}; }
inline F power_of_two(I a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a.v, _mm512_set1_epi32(127)), 23))}; }
inline void store_i8(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v)); }
// The sum of sixteen signed bytes.
inline int sum_bytes(const int8_t* p) {
    const __m128i all = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), _mm_set1_epi8(static_cast<char>(0x80)));
    const __m128i two = _mm_sad_epu8(all, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0x4e))) - 16 * 128;
}

inline B load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(void* p, B a) { _mm512_storeu_si512(p, a.v); }
inline B set_bytes(uint8_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
inline B operator&(B a, B b) { return {_mm512_and_si512(a.v, b.v)}; }
inline B operator|(B a, B b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n> B shift_right(B a) { return {_mm512_srli_epi16(a.v, n)}; }
inline B lookup(const uint8_t* table, B a) {
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), a.v)};
}
inline F load_e4m3(const uint8_t* p) {
    const __m256i words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 7);
    return {_mm512_cvtph_ps(_mm256_and_si256(words, _mm256_set1_epi16(static_cast<short>(0xbfff))))};
}

inline __m512i four(const int8_t* a) {
    int32_t x;
    __builtin_memcpy(&x, a, 4);
    return _mm512_set1_epi32(x);
}

inline I add_step(I sum, B w, const int8_t* a) { return {_mm512_dpbusd_epi32(sum.v, w.v, four(a))}; }

// An integer scale of 16 columns.
inline void store_factor(int32_t* to, I x) { store_int(to, x); }

template <int kBound, int kSteps, int kPanels, int kTokens>
void dot_tile(I (*sums)[kTokens], const uint8_t* w, ptrdiff_t panel_bytes, const int8_t* a) {
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
        __m512i weights[kPanels];
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) weights[p] = _mm512_load_si512(w + p * panel_bytes + 64 * s);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
            const __m512i activations = four(a + 4 * (s * kTileTokens + t));
#pragma GCC unroll 2
            for (int p = 0; p < kPanels; ++p) sums[p][t].v = _mm512_dpbusd_epi32(sums[p][t].v, weights[p], activations);
        }
    }
}

// to[16 columns][16 rows, `stride` apart] from 16 rows of 16 numbers.
inline void transpose(const float* const* rows, float* to, int64_t stride) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        const __m512 x = _mm512_loadu_ps(rows[i]), y = _mm512_loadu_ps(rows[i + 1]);
        a[i] = _mm512_unpacklo_ps(x, y), a[i + 1] = _mm512_unpackhi_ps(x, y);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; ++k) {
            const __m512d x = _mm512_castps_pd(a[i + k]), y = _mm512_castps_pd(a[i + k + 2]);
            b[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), b[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    // b[4 i + k] holds, in its lane of 128 bits l, column 4 l + k of rows 4 i .. 4 i + 3.
    for (int k = 0; k < 4; ++k) {
        const __m512 low = _mm512_shuffle_f32x4(b[k], b[4 + k], 0x88), high = _mm512_shuffle_f32x4(b[8 + k], b[12 + k], 0x88);
        const __m512 low2 = _mm512_shuffle_f32x4(b[k], b[4 + k], 0xdd), high2 = _mm512_shuffle_f32x4(b[8 + k], b[12 + k], 0xdd);
        _mm512_storeu_ps(to + k * stride, _mm512_shuffle_f32x4(low, high, 0x88));
        _mm512_storeu_ps(to + (8 + k) * stride, _mm512_shuffle_f32x4(low, high, 0xdd));
        _mm512_storeu_ps(to + (4 + k) * stride, _mm512_shuffle_f32x4(low2, high2, 0x88));
        _mm512_storeu_ps(to + (12 + k) * stride, _mm512_shuffle_f32x4(low2, high2, 0xdd));
    }
}

// Has `x` in registers at this point, where a compiler has to be told.
inline void settle(F&) {}
inline void settle(R&) {}
inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace parity::PARITY_ISA
