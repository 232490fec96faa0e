// The vectors of NEON with dot products and half floats: four registers each. See portable.h for what every function means.
#pragma once
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace parity::PARITY_ISA {

// The product of signed bytes wants signed weights.
constexpr int kSignOffset = 0;
constexpr int kTilePanels = 1, kTileTokens = 4, kDirectTokens = 2, kAhead = 1024;
constexpr bool kPairSums = false, kLargeInPlace = false;
// Rows and tokens of a tile of plain numbers: as many as registers have room for.
constexpr int kPlainRows = 4, kPlainTokens = 2;
// Numbers of a register, and tokens of a tile of four rows of them.
constexpr int kLanes = 4, kLaneTokens = 6;

struct F { float32x4_t v[4]; };
struct R { float32x4_t v; };
struct I { int32x4_t v[4]; };
struct B { uint8x16_t v[4]; };

template <class V, class Fn> inline V each(Fn fn) {
    V out;
    for (int i = 0; i < 4; ++i) out.v[i] = fn(i);
    return out;
}

inline F set(float x) { return each<F>([=](int) { return vdupq_n_f32(x); }); }
inline F load(const float* p) { return each<F>([=](int i) { return vld1q_f32(p + 4 * i); }); }
inline void store(float* p, F a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline R load_register(const float* p) { return {vld1q_f32(p)}; }
inline void store_register(float* p, R a) { vst1q_f32(p, a.v); }
inline F load_some(const float* p, int64_t n) {
    float all[16] = {};
    for (int64_t i = 0; i < n && i < 16; ++i) all[i] = p[i];
    return load(all);
}
inline void store_some(float* p, F a, int64_t n) {
    float all[16];
    store(all, a);
    for (int64_t i = 0; i < n && i < 16; ++i) p[i] = all[i];
}
inline F load_half(const uint16_t* p) { return each<F>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); }); }
inline F load_bfloat(const uint16_t* p) { return each<F>([=](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); }); }
inline void store_half(uint16_t* p, F a) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
inline void store_bfloat(uint16_t* p, F a) {
    for (int i = 0; i < 4; ++i) {
        const uint32x4_t bits = vreinterpretq_u32_f32(a.v[i]), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        const uint32x4_t number = vceqq_f32(a.v[i], a.v[i]);
        vst1_u16(p + 4 * i, vshrn_n_u32(vbslq_u32(number, rounded, vorrq_u32(bits, vdupq_n_u32(0x400000))), 16));
    }
}
inline F operator+(F a, F b) { return each<F>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); }); }
inline F operator-(F a, F b) { return each<F>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); }); }
inline F operator*(F a, F b) { return each<F>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); }); }
inline F operator/(F a, F b) { return each<F>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); }); }
inline F fma(F a, F b, F c) { return each<F>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); }); }
inline R fma(R a, R b, R c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline F max(F a, F b) { return each<F>([&](int i) { return vmaxq_f32(a.v[i], b.v[i]); }); }
inline F min(F a, F b) { return each<F>([&](int i) { return vminq_f32(a.v[i], b.v[i]); }); }
inline F abs(F a) { return each<F>([&](int i) { return vabsq_f32(a.v[i]); }); }
inline float sum(F a) { return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[1]), vaddq_f32(a.v[2], a.v[3]))); }
inline void sum_four(const float* p, float* out) {
    for (int i = 0; i < 4; ++i) out[i] = sum(load(p + 16 * i));
}
inline float largest(F a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3]))); }
inline float largest_size(F a, F b) { return largest(max(abs(a), abs(b))); }  // a NaN stays one in these

inline I set_int(int x) { return each<I>([=](int) { return vdupq_n_s32(x); }); }
inline I load_int(const int32_t* p) { return each<I>([=](int i) { return vld1q_s32(p + 4 * i); }); }
inline void store_int(int32_t* p, I a) {
    for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.v[i]);
}
inline I load_i8(const int8_t* p) {
    const int8x16_t all = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(all)), high = vmovl_s8(vget_high_s8(all));
    return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}};
}
inline I load_u8(const uint8_t* p) {
    const uint8x16_t all = vld1q_u8(p);
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(all))), high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(all)));
    return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}};
}
inline I operator+(I a, I b) { return each<I>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); }); }
inline I operator*(I a, I b) { return each<I>([&](int i) { return vmulq_s32(a.v[i], b.v[i]); }); }
template <int n> I shift_int(I a) { return each<I>([&](int i) { return vshlq_n_s32(a.v[i], n); }); }
inline F widen(I a) { return each<F>([&](int i) { return vcvtq_f32_s32(a.v[i]); }); }
inline I nearest(F a) { return each<I>([&](int i) { return vcvtnq_s32_f32(a.v[i]); }); }
inline F power_of_two(I a) {
    return each<F>([&](int i) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(a.v[i], vdupq_n_s32(127)), 23)); });
}
inline void store_i8(int8_t* p, I a) {
    const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1])), high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
// The sum of sixteen signed bytes.
inline int sum_bytes(const int8_t* p) { return vaddlvq_s8(vld1q_s8(p)); }

inline B load_bytes(const void* p) { return each<B>([=](int i) { return vld1q_u8(static_cast<const uint8_t*>(p) + 16 * i); }); }
inline void store_bytes(void* p, B a) {
    for (int i = 0; i < 4; ++i) vst1q_u8(static_cast<uint8_t*>(p) + 16 * i, a.v[i]);
}
inline B set_bytes(uint8_t x) { return each<B>([=](int) { return vdupq_n_u8(x); }); }
inline B operator&(B a, B b) { return each<B>([&](int i) { return vandq_u8(a.v[i], b.v[i]); }); }
inline B operator|(B a, B b) { return each<B>([&](int i) { return vorrq_u8(a.v[i], b.v[i]); }); }
template <int n> B shift_right(B a) { return each<B>([&](int i) { return vshrq_n_u8(a.v[i], n); }); }
inline B lookup(const uint8_t* table, B a) {
    const uint8x16_t all = vld1q_u8(table);
    return each<B>([&](int i) { return vqtbl1q_u8(all, a.v[i]); });
}
inline float32x4_t e4m3(int8x8_t both, bool second) {
    const int16x8_t words = vandq_s16(vshlq_n_s16(vmovl_s8(both), 7), vdupq_n_s16(static_cast<int16_t>(0xbfff)));
    return vcvt_f32_f16(vreinterpret_f16_s16(second ? vget_high_s16(words) : vget_low_s16(words)));
}
inline F load_e4m3(const uint8_t* p) {
    const int8x16_t all = vreinterpretq_s8_u8(vld1q_u8(p));
    return each<F>([&](int i) { return e4m3(i < 2 ? vget_low_s8(all) : vget_high_s8(all), i % 2 == 1); });
}

inline int8x16_t four(const int8_t* a) {
    int32_t x;
    __builtin_memcpy(&x, a, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(x));
}

inline I add_step(I sum, B w, const int8_t* a) {
    const int8x16_t activations = four(a);
    for (int i = 0; i < 4; ++i) sum.v[i] = vdotq_s32(sum.v[i], vreinterpretq_s8_u8(w.v[i]), activations);
    return sum;
}

// An integer scale of 16 columns.
inline void store_factor(int32_t* to, I x) { store_int(to, x); }

template <int kBound, int kSteps, int kPanels, int kTokens>
void dot_tile(I (*sums)[kTokens], const uint8_t* w, ptrdiff_t panel_bytes, const int8_t* a) {
    for (int p = 0; p < kPanels; ++p, w += panel_bytes)
        for (int s = 0; s < kSteps; ++s) {
            int8x16_t weights[4];
            for (int i = 0; i < 4; ++i) weights[i] = vreinterpretq_s8_u8(vld1q_u8(w + 64 * s + 16 * i));
            for (int t = 0; t < kTokens; ++t) {
                const int8x16_t activations = four(a + 4 * (s * kTileTokens + t));
                for (int i = 0; i < 4; ++i) sums[p][t].v[i] = vdotq_s32(sums[p][t].v[i], weights[i], activations);
            }
        }
}

// to[16 columns][16 rows, `stride` apart] from 16 rows of 16 numbers.
inline void transpose(const float* const* rows, float* to, int64_t stride) {
    for (int row = 0; row < 16; row += 4)
        for (int column = 0; column < 16; column += 4) {
            const float32x4x2_t a = vtrnq_f32(vld1q_f32(rows[row] + column), vld1q_f32(rows[row + 1] + column));
            const float32x4x2_t b = vtrnq_f32(vld1q_f32(rows[row + 2] + column), vld1q_f32(rows[row + 3] + column));
            float* out = to + column * stride + row;
            vst1q_f32(out, vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0])));
            vst1q_f32(out + stride, vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1])));
            vst1q_f32(out + 2 * stride, vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0])));
            vst1q_f32(out + 3 * stride, vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1])));
        }
}

// Has `x` in registers at this point, where a compiler has to be told.
inline void settle(F&) {}
inline void settle(R&) {}
inline void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace parity::PARITY_ISA
