// The vectors of AVX2 with FMA and F16C: two registers each. See portable.h for what every function means.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace parity::PARITY_ISA {

constexpr int kTilePanels = 1, kTileTokens = 4, kDirectTokens = 4, kAhead = 1024;
constexpr bool kPairSums = true, kLargeInPlace = true;
// Rows and tokens of a tile of plain numbers: as many as registers have room for.
constexpr int kPlainRows = 2, kPlainTokens = 2;
// Numbers of a register, and tokens of a tile of four rows of them.
constexpr int kLanes = 8, kLaneTokens = 3;

inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

struct F { __m256 a, b; };
struct R { __m256 v; };
struct I { __m256i a, b; };
struct B { __m256i a, b; };

// vpmaddubsw adds pairs in 16 bits, which overflows for large unsigned weights: these are taken as signed.
constexpr int kSignOffset = 0;

inline F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
inline R load_register(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store_register(float* p, R x) { _mm256_storeu_ps(p, x.v); }
inline F load_some(const float* p, int64_t n) {
    alignas(32) float all[16] = {};
    for (int64_t i = 0; i < n && i < 16; ++i) all[i] = p[i];
    return load(all);
}
inline void store_some(float* p, F x, int64_t n) {
    alignas(32) float all[16];
    store(all, x);
    for (int64_t i = 0; i < n && i < 16; ++i) p[i] = all[i];
}
inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline F load_half(const uint16_t* p) { return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8))}; }
inline F load_bfloat(const uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p + 8)), 16))};
}
inline void store_half(uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256i bfloat_words(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i none = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, none, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q))), 16);
}
inline void store_bfloat(uint16_t* p, F x) {
    store256(p, _mm256_permute4x64_epi64(_mm256_packus_epi32(bfloat_words(x.a), bfloat_words(x.b)), 0xd8));
}
inline F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline R fma(R x, R y, R z) { return {_mm256_fmadd_ps(x.v, y.v, z.v)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F abs(F x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline float sum(F x) {
    const __m256 half = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
// Each as `sum` adds it: four at a time share their steps.
inline void sum_four(const float* p, float* out) {
    __m256 half[4], pairs[2];
    for (int i = 0; i < 4; ++i) half[i] = _mm256_add_ps(_mm256_loadu_ps(p + 16 * i), _mm256_loadu_ps(p + 16 * i + 8));
    for (int i = 0; i < 2; ++i) {
        const __m256 low = _mm256_permute2f128_ps(half[2 * i], half[2 * i + 1], 0x20), high = _mm256_permute2f128_ps(half[2 * i], half[2 * i + 1], 0x31);
        pairs[i] = _mm256_add_ps(low, high);
    }
    const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(pairs[0], pairs[1], 0x44), _mm256_shuffle_ps(pairs[0], pairs[1], 0xee));
    const __m256 one = _mm256_add_ps(_mm256_shuffle_ps(two, two, 0x88), _mm256_shuffle_ps(two, two, 0xdd));
    // The numbers 0 and 2 are in the low half, 1 and 3 in the high one.
    _mm_storeu_ps(out, _mm_unpacklo_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1)));
}
// As integers, since these order sizes as numbers are, and have NaN above them.
inline float largest_size(F x, F y) {
    const __m256i size = _mm256_set1_epi32(0x7fffffff);
    const auto bits = [&](__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), size); };
    const __m256i eight = _mm256_max_epi32(_mm256_max_epi32(bits(x.a), bits(x.b)), _mm256_max_epi32(bits(y.a), bits(y.b)));
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1))));
}
inline float largest(F x) {
    const __m256 half = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

inline I set_int(int x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I load_int(const int32_t* p) { return {load256(p), load256(p + 8)}; }
inline void store_int(int32_t* p, I x) { store256(p, x.a), store256(p + 8, x.b); }
inline I load_i8(const int8_t* p) {
    const __m128i all = load128(p);
    return {_mm256_cvtepi8_epi32(all), _mm256_cvtepi8_epi32(_mm_srli_si128(all, 8))};
}
inline I load_u8(const uint8_t* p) {
    const __m128i all = load128(p);
    return {_mm256_cvtepu8_epi32(all), _mm256_cvtepu8_epi32(_mm_srli_si128(all, 8))};
}
inline I operator+(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I operator*(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
template <int n> I shift_int(I x) { return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
inline F widen(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I nearest(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline __m256 power_of_two(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(127)), 23)); }
inline F power_of_two(I x) { return {power_of_two(x.a), power_of_two(x.b)}; }
inline void store_i8(int8_t* p, I x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
// The sum of sixteen signed bytes.
inline int sum_bytes(const int8_t* p) {
    const __m128i all = _mm_xor_si128(load128(p), _mm_set1_epi8(static_cast<char>(0x80)));
    const __m128i two = _mm_sad_epu8(all, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0x4e))) - 16 * 128;
}

inline B load_bytes(const void* p) { return {load256(p), load256(static_cast<const char*>(p) + 32)}; }
inline void store_bytes(void* p, B x) { store256(p, x.a), store256(static_cast<char*>(p) + 32, x.b); }
inline B set_bytes(uint8_t x) { return {_mm256_set1_epi8(static_cast<char>(x)), _mm256_set1_epi8(static_cast<char>(x))}; }
inline B operator&(B x, B y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline B operator|(B x, B y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int n> B shift_right(B x) { return {_mm256_srli_epi16(x.a, n), _mm256_srli_epi16(x.b, n)}; }
inline B lookup(const uint8_t* table, B x) {
    const __m256i both = _mm256_broadcastsi128_si256(load128(table));
    return {_mm256_shuffle_epi8(both, x.a), _mm256_shuffle_epi8(both, x.b)};
}
inline F load_e4m3(const uint8_t* p) {
    const __m256i words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(load128(p)), 7);
    const __m256i all = _mm256_and_si256(words, _mm256_set1_epi16(static_cast<short>(0xbfff)));
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(all)), _mm256_cvtph_ps(_mm256_extracti128_si256(all, 1))};
}

// Minus the sums of the even and of the odd pairs of columns, as two words: of each half of a block, times 32, and of the whole,
// times 16. Both are as large as a word holds.
inline __m128i minus_pairs(const int8_t* q) {
    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), load128(q));
    const __m128i two = _mm_add_epi16(pairs, _mm_shuffle_epi32(pairs, 0x4e));
    return _mm_sub_epi16(_mm_setzero_si128(), _mm_add_epi16(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline void put_pairs(const int8_t* q, int32_t* to, int64_t stride) {
    const __m128i first = minus_pairs(q), second = minus_pairs(q + 16);
    to[0] = _mm_cvtsi128_si32(_mm_slli_epi16(first, 5)), to[stride] = _mm_cvtsi128_si32(_mm_slli_epi16(second, 5));
    to[2 * stride] = _mm_cvtsi128_si32(_mm_slli_epi16(_mm_add_epi16(first, second), 4));
}

inline __m256i four(const int8_t* a) {
    int32_t x;
    __builtin_memcpy(&x, a, 4);
    return _mm256_set1_epi32(x);
}

// Sixteen-bit products of four columns: as many of them as fit are added before they are widened.
template <int kBound> constexpr int kGroup = kBound <= 15 ? 8 : kBound <= 31 ? 4 : kBound <= 63 ? 2 : 1;
inline __m256i add_pairs(__m256i sums, __m256i words) { return _mm256_add_epi32(sums, _mm256_madd_epi16(words, _mm256_set1_epi16(1))); }

// What the words of a token start from: minus the offset times the activations' sums, of one half or of all. See `put_pairs`.
template <int kLogOffset, int kHalves> __m256i start_words(const int32_t* pairs, int64_t stride) {
    if constexpr (kLogOffset < 0) return _mm256_setzero_si256();
    const __m256i start = _mm256_set1_epi32(kHalves == 1 ? pairs[2 * stride] : *pairs);
    return _mm256_srai_epi16(start, kLogOffset < 0 ? 0 : (kHalves == 1 ? 4 : 5) - kLogOffset);
}

// The compiler would compute all products of a block before it adds any, and has no registers for them: it has to have
// `sum` here.
inline void settle(__m256i& sum) { asm volatile("" : "+x"(sum)); }
inline void settle(R& x) { asm volatile("" : "+x"(x.v)); }
inline void settle(F& x) { asm volatile("" : "+x"(x.a), "+x"(x.b)); }

// words[half of the rows][token] += products of `kSteps` times four columns; they wrap around.
template <int kSteps, int kTokens> void add_words(__m256i (*words)[kTokens], const uint8_t* w, const int8_t* a) {
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
        const __m256i low = load256(w + 64 * s), high = load256(w + 64 * s + 32);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
            const __m256i activations = four(a + 4 * (s * kTileTokens + t));
            words[0][t] = _mm256_add_epi16(words[0][t], _mm256_maddubs_epi16(low, activations));
            words[1][t] = _mm256_add_epi16(words[1][t], _mm256_maddubs_epi16(high, activations));
            settle(words[0][t]), settle(words[1][t]);
        }
    }
}

// An integer scale of 16 columns: twice in each row's two words.
inline I factor_words(I x) {
    return {_mm256_blend_epi16(x.a, _mm256_slli_epi32(x.a, 16), 0xaa), _mm256_blend_epi16(x.b, _mm256_slli_epi32(x.b, 16), 0xaa)};
}
inline void store_factor(int32_t* to, I x) { store_int(to, factor_words(x)); }

// The products of a block and one row of activations, its steps added in any order as they are unpacked. Words have room for
// what is added to them, as in `dot_block`; where weights have no offset but need one for that (`kAdded`), it is added back.
template <int kBound, int kLogOffset, int kHalves> class WordSums {
    static constexpr bool kWide = kBound > 127, kAdded = !kWide && kLogOffset < 0 && kBound > 15;
    static constexpr int kLog = kAdded ? 4 : kLogOffset;
    static_assert(!kAdded || (kBound <= 31 && kHalves == 1));
    __m256i sums_[kHalves][2];

  public:
    template <class Token> void start(const Token& token) {
        for (int half = 0; half < kHalves; ++half)
            sums_[half][0] = sums_[half][1] = kWide ? _mm256_setzero_si256() : start_words<kLog, kHalves>(token.pairs + half, 1);
    }
    void add(int step, B w, const int8_t* q) {
        __m256i* sums = sums_[step / (8 / kHalves)];
        const __m256i activations = four(q + 4 * step);
        if constexpr (kWide) {
            sums[0] = add_pairs(sums[0], _mm256_maddubs_epi16(_mm256_abs_epi8(w.a), _mm256_sign_epi8(activations, w.a)));
            sums[1] = add_pairs(sums[1], _mm256_maddubs_epi16(_mm256_abs_epi8(w.b), _mm256_sign_epi8(activations, w.b)));
        } else {
            sums[0] = _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(w.a, activations));
            sums[1] = _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(w.b, activations));
        }
        settle(sums[0]), settle(sums[1]);
    }
    // Of the block, each half times its factor if it has two.
    template <class Scales, class Token> I total(const Scales& s, const Token& token) const {
        if constexpr (kHalves == 2) {
            const I first = factor_words(s.sub[0]), second = factor_words(s.sub[1]);
            return {_mm256_add_epi32(_mm256_madd_epi16(sums_[0][0], first.a), _mm256_madd_epi16(sums_[1][0], second.a)),
                    _mm256_add_epi32(_mm256_madd_epi16(sums_[0][1], first.b), _mm256_madd_epi16(sums_[1][1], second.b))};
        } else if constexpr (kWide) {
            return {sums_[0][0], sums_[0][1]};
        } else {
            const __m256i from = kAdded ? _mm256_set1_epi32(-*token.minus * 16) : _mm256_setzero_si256();
            return {add_pairs(from, sums_[0][0]), add_pairs(from, sums_[0][1])};
        }
    }
};

// sums[half of the rows][token] += products of eight times four columns of weights of any size: one at a time.
template <int kTokens> void add_wide(__m256i (*sums)[kTokens], const uint8_t* w, const int8_t* a) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
        const __m256i low = load256(w + 64 * s), high = load256(w + 64 * s + 32);
        const __m256i low_size = _mm256_abs_epi8(low), high_size = _mm256_abs_epi8(high);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
            const __m256i activations = four(a + 4 * (s * kTileTokens + t));
            sums[0][t] = add_pairs(sums[0][t], _mm256_maddubs_epi16(low_size, _mm256_sign_epi8(activations, low)));
            sums[1][t] = add_pairs(sums[1][t], _mm256_maddubs_epi16(high_size, _mm256_sign_epi8(activations, high)));
            settle(sums[0][t]), settle(sums[1][t]);
        }
    }
}

// A word holds the sum of two columns of each step. With the offset taken out, |w| is at most half the bound, and a word has
// room for all steps of a half, whatever it wraps around to on the way; without one it is widened after each `kGroup`.
template <int kBound, int kLogOffset, int kHalves, int kPanels, int kTokens>
void dot_block(I (*sums)[kTokens], const uint8_t* w, const int32_t* sub, ptrdiff_t panel_bytes, const int8_t* a, const int32_t* pairs) {
    constexpr int steps = 8 / kHalves, group = kLogOffset < 0 && kGroup<kBound> < steps ? kGroup<kBound> : steps;
    static_assert(kPanels == 1);
    (void)panel_bytes;
    __m256i all[2][kTokens];
    for (int t = 0; t < kTokens; ++t) all[0][t] = all[1][t] = _mm256_setzero_si256();
    if constexpr (kBound > 127) {
        add_wide<kTokens>(all, w, a);
    } else {
#pragma GCC unroll 8
        for (int s = 0; s < 8; s += group) {
            __m256i words[2][kTokens];
            for (int t = 0; t < kTokens; ++t) words[0][t] = words[1][t] = start_words<kLogOffset, kHalves>(pairs + s / steps * kTileTokens + t, kTileTokens);
            add_words<group, kTokens>(words, w + 64 * s, a + 4 * kTileTokens * s);
            for (int i = 0; i < 2; ++i) {
                const __m256i factor = kHalves == 2 ? load256(sub + 16 * (s / steps) + 8 * i) : _mm256_set1_epi16(1);
                for (int t = 0; t < kTokens; ++t) all[i][t] = _mm256_add_epi32(all[i][t], _mm256_madd_epi16(words[i][t], factor));
            }
        }
    }
    for (int t = 0; t < kTokens; ++t) sums[0][t] = {all[0][t], all[1][t]};
}

// to[8 columns][8 rows, `stride` apart] from 8 rows of 8 numbers.
inline void transpose8(const float* const* rows, int64_t column, float* to, int64_t stride) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        const __m256 x = _mm256_loadu_ps(rows[i] + column), y = _mm256_loadu_ps(rows[i + 1] + column);
        a[i] = _mm256_unpacklo_ps(x, y), a[i + 1] = _mm256_unpackhi_ps(x, y);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; ++k) {
            b[i + 2 * k] = _mm256_shuffle_ps(a[i + k], a[i + k + 2], 0x44);
            b[i + 2 * k + 1] = _mm256_shuffle_ps(a[i + k], a[i + k + 2], 0xee);
        }
    for (int k = 0; k < 4; ++k) {
        _mm256_storeu_ps(to + k * stride, _mm256_permute2f128_ps(b[k], b[4 + k], 0x20));
        _mm256_storeu_ps(to + (4 + k) * stride, _mm256_permute2f128_ps(b[k], b[4 + k], 0x31));
    }
}

// to[16 columns][16 rows, `stride` apart] from 16 rows of 16 numbers.
inline void transpose(const float* const* rows, float* to, int64_t stride) {
    for (int row = 0; row < 16; row += 8)
        for (int column = 0; column < 16; column += 8) transpose8(rows + row, column, to + column * stride + row, stride);
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace parity::PARITY_ISA
