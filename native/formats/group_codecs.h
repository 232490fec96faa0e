// Codes of four or eight bits with a scale for each group of columns, as codecs (see codecs.h). A panel's block is a header with
// what belongs to each of the 16 rows, then its columns, 32 at a time.
//
//   Int4   scale[R] q4        w = scale (q - 8)              Int8    scale[R] 512 bytes, each + kSignOffset
//   Zero4  scale[R] z[R] q4   w = scale (q - z)              Mxfp4   exponent[R] q4, q the code of an e2m1 number
//
// Where groups are long, 128 columns share a header and scales are float32; else 32 do and they are as in the file.
#pragma once

namespace parity::PARITY_ISA {

struct FloatScale {
    static constexpr int bytes = 4;
    static F read(const uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
};
struct HalfScale {
    static constexpr int bytes = 2;
    static F read(const uint8_t* p) { return load_half(halves(p)); }
};
struct BfloatScale {
    static constexpr int bytes = 2;
    static F read(const uint8_t* p) { return load_bfloat(halves(p)); }
};
// Exponents with 127 added (e8m0): 255, which is no number, becomes infinite, and 2^-127 becomes 0.
struct PowerScale {
    static constexpr int bytes = 1;
    static F read(const uint8_t* p) { return power_of_two(load_u8(p) + set_int(-127)); }
};

template <int kColumns, class Scale> struct Int4 {
    using scale_type = Scale;
    static constexpr Kind kind = kPlain;
    static constexpr int columns = kColumns, header = 16 * Scale::bytes, bytes = header + 8 * kColumns, bound = 15, log_offset = 3;
    template <class Put> static void weights(const uint8_t* p, int j, Put put) { read_nibbles(p + header + 256 * j, put); }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = Scale::read(p); }
};

template <int kColumns, class Scale> struct Zero4 {
    using scale_type = Scale;
    static constexpr Kind kind = kMin;
    static constexpr int columns = kColumns, header = 16 * Scale::bytes + 16, bytes = header + 8 * kColumns, bound = 15, log_offset = -1;
    template <class Put> static void weights(const uint8_t* p, int j, Put put) { read_nibbles(p + header + 256 * j, put); }
    static void scales(const uint8_t* p, int, Scales& s) {
        s.scale = Scale::read(p);
        s.low = (set(0) - s.scale) * widen(load_u8(p + 16 * Scale::bytes));
    }
};

template <int kColumns, class Scale> struct Int8 {
    using scale_type = Scale;
    static constexpr Kind kind = kPlain;
    static constexpr int columns = kColumns, header = 16 * Scale::bytes, bytes = header + 16 * kColumns, bound = 255, log_offset = kSignOffset ? 7 : -1;
    template <class Put> static void weights(const uint8_t* p, int j, Put put) {
        for (int i = 0; i < 8; ++i) put(i, load_bytes(p + header + 512 * j + 64 * i));
    }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = Scale::read(p); }
};

// Twice an e2m1 number is a whole one, -12 .. 12; here with 16 added.
alignas(16) constexpr uint8_t kTwiceE2m1[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};

struct Mxfp4 {
    using scale_type = PowerScale;
    static constexpr Kind kind = kPlain;
    static constexpr int columns = 32, header = 16, bytes = 272, bound = 31, log_offset = 4;
    template <class Put> static void weights(const uint8_t* p, int, Put put) {
        read_nibbles(p + header, [&](int step, B code) { put(step, lookup(kTwiceE2m1, code)); });
    }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = PowerScale::read(p) * set(0.5f); }
};

// FP8 numbers (e4m3), a column of 16 rows after the other: too wide for integer products, see float_panels.h. Scales of
// float32 have the 256 in them that `load_e4m3` leaves out.
template <int kColumns, class Scale> struct Fp8 {
    using scale_type = Scale;
    static constexpr int columns = kColumns, header = 16 * Scale::bytes, bytes = header + 16 * kColumns;
    static F scale(const uint8_t* p) { return Scale::bytes == 1 ? Scale::read(p) * set(256) : Scale::read(p); }
};

// Calls fn with the codec of a format whose products are of floats.
template <class Fn> void with_float_codec(int64_t format, Fn fn) {
    switch (format) {
        case kFp8_128: return fn(Fp8<128, FloatScale>{});
        case kFp8_32: return fn(Fp8<32, FloatScale>{});
        default: return fn(Fp8<32, PowerScale>{});
    }
}

// Calls fn with the codec of a format whose products are of integers.
template <class Fn> void with_codec(int64_t format, Fn fn) {
    if (format < kFirstGroups) return with_block_codec(format, fn);
    switch (format) {
        case kInt4_128: return fn(Int4<128, FloatScale>{});
        case kInt4_32: return fn(Int4<32, BfloatScale>{});
        case kZero4_128: return fn(Zero4<128, FloatScale>{});
        case kZero4_32: return fn(Zero4<32, HalfScale>{});
        case kInt8_128: return fn(Int8<128, FloatScale>{});
        case kInt8_32: return fn(Int8<32, BfloatScale>{});
        default: return fn(Mxfp4{});
    }
}

}  // namespace parity::PARITY_ISA
