// How each packed format's panels are read: a panel holds 16 rows, a block of it 32 columns as eight vectors B.
//
// kinds   kPlain    w = scale (q - offset)
//         kMin      w = scale q + low
//         kSub      w = scale (s_i q - s_i offset) with an integer scale for each 16 columns
//         kSubMin   w = scale s_i q + low m_i
//
// Panel layouts, in bytes, R = 16 rows; `two-byte` numbers are halves; q4 is 256 bytes of low nibbles (steps 0-3) and high
// ones (steps 4-7), h1 is 64 bytes whose bit s belongs to step s, h2 two times 64 bytes of four 2-bit numbers.
//
//   Q4_0  d[R] q4                    Q5_0  d[R] h1 q4                Q8_0  d[R] 512 bytes, each + 128
//   Q4_1  d[R] m[R] q4               Q5_1  d[R] m[R] h1 q4
//   Q4_K  d[R] dmin[R] 8 x (s[R] m[R] q4)                            Q5_K  d[R] dmin[R] 8 x (s[R] m[R] h1 q4)
//   Q6_K  d[R] 8 x (s[2][R] h2 q4)   Q3_K  d[R] 8 x (s[2][R] h1 h2)  Q2_K  d[R] dmin[R] 8 x ((s | m << 4)[2][R] h2)
#pragma once

namespace parity::PARITY_ISA {

enum Kind { kPlain, kMin, kSub, kSubMin };

// The scales of 16 rows over one block of 32 columns.
struct Scales {
    F scale, low;
    I sub[2], min[2];
};

inline const uint16_t* halves(const uint8_t* p) { return reinterpret_cast<const uint16_t*>(p); }

inline void read_nibbles(const uint8_t* q, B* w) {
    const B mask = set_bytes(0x0f);
    for (int i = 0; i < 4; ++i) {
        const B both = load_bytes(q + 64 * i);
        w[i] = both & mask;
        w[i + 4] = shift_right<4>(both) & mask;
    }
}

// Bit s of h to bit kTo of step s.
template <int kTo, int kStep = 0> void read_bits(B h, B mask, B* w) {
    if constexpr (kStep < 8) {
        B bit = h;
        if constexpr (kStep < kTo) bit = shift_left<kTo - kStep>(h);
        if constexpr (kStep > kTo) bit = shift_right<kStep - kTo>(h);
        w[kStep] = w[kStep] | (bit & mask);
        read_bits<kTo, kStep + 1>(h, mask, w);
    }
}

struct Q4_0 {
    static constexpr Kind kind = kPlain;
    static constexpr int columns = 32, bytes = 288, bound = 15, log_offset = 3;
    static void weights(const uint8_t* p, int, B* w) { read_nibbles(p + 32, w); }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = load_half(halves(p)); }
};

struct Q4_1 {
    static constexpr Kind kind = kMin;
    static constexpr int columns = 32, bytes = 320, bound = 15, log_offset = -1;
    static void weights(const uint8_t* p, int, B* w) { read_nibbles(p + 64, w); }
    static void scales(const uint8_t* p, int, Scales& s) {
        s.scale = load_half(halves(p));
        s.low = load_half(halves(p + 32));
    }
};

struct Q5_0 {
    static constexpr Kind kind = kPlain;
    static constexpr int columns = 32, bytes = 352, bound = 31, log_offset = 4;
    static void weights(const uint8_t* p, int, B* w) {
        read_nibbles(p + 96, w);
        read_bits<4>(load_bytes(p + 32), set_bytes(0x10), w);
    }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = load_half(halves(p)); }
};

struct Q5_1 {
    static constexpr Kind kind = kMin;
    static constexpr int columns = 32, bytes = 384, bound = 31, log_offset = -1;
    static void weights(const uint8_t* p, int, B* w) {
        read_nibbles(p + 128, w);
        read_bits<4>(load_bytes(p + 64), set_bytes(0x10), w);
    }
    static void scales(const uint8_t* p, int, Scales& s) {
        s.scale = load_half(halves(p));
        s.low = load_half(halves(p + 32));
    }
};

struct Q8_0 {
    static constexpr Kind kind = kPlain;
    static constexpr int columns = 32, bytes = 544, bound = 255, log_offset = kSignOffset ? 7 : -1;
    static void weights(const uint8_t* p, int, B* w) {
        for (int i = 0; i < 8; ++i) w[i] = load_bytes(p + 32 + 64 * i);
    }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = load_half(halves(p)); }
};

// d s and -dmin m of block j.
inline void read_scale_and_min(const uint8_t* p, const uint8_t* block, Scales& s) {
    s.scale = load_half(halves(p)) * widen(load_u8(block));
    s.low = (set(0) - load_half(halves(p + 32))) * widen(load_u8(block + 16));
}

struct Q4_K {
    static constexpr Kind kind = kMin;
    static constexpr int columns = 256, bytes = 2368, bound = 15, log_offset = -1;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 64 + 288 * j; }
    static void weights(const uint8_t* p, int j, B* w) { read_nibbles(block(p, j) + 32, w); }
    static void scales(const uint8_t* p, int j, Scales& s) { read_scale_and_min(p, block(p, j), s); }
};

struct Q5_K {
    static constexpr Kind kind = kMin;
    static constexpr int columns = 256, bytes = 2880, bound = 31, log_offset = -1;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 64 + 352 * j; }
    static void weights(const uint8_t* p, int j, B* w) {
        read_nibbles(block(p, j) + 96, w);
        read_bits<4>(load_bytes(block(p, j) + 32), set_bytes(0x10), w);
    }
    static void scales(const uint8_t* p, int j, Scales& s) { read_scale_and_min(p, block(p, j), s); }
};

struct Q6_K {
    static constexpr Kind kind = kSub;
    static constexpr int columns = 256, bytes = 3360, bound = 63, log_offset = 5;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 32 + 416 * j; }
    static void weights(const uint8_t* p, int j, B* w) {
        read_nibbles(block(p, j) + 160, w);
        const B mask = set_bytes(0x30);
        for (int half = 0; half < 2; ++half) {
            const B h = load_bytes(block(p, j) + 32 + 64 * half);
            B* to = w + 4 * half;
            to[0] = to[0] | (shift_left<4>(h) & mask), to[1] = to[1] | (shift_left<2>(h) & mask);
            to[2] = to[2] | (h & mask), to[3] = to[3] | (shift_right<2>(h) & mask);
        }
    }
    static void scales(const uint8_t* p, int j, Scales& s) {
        s.scale = load_half(halves(p));
        const auto* sub = reinterpret_cast<const int8_t*>(block(p, j));
        s.sub[0] = load_i8(sub), s.sub[1] = load_i8(sub + 16);
    }
};

inline void read_twos(const uint8_t* q, B* w) {
    const B mask = set_bytes(3);
    for (int half = 0; half < 2; ++half) {
        const B h = load_bytes(q + 64 * half);
        w[4 * half] = h & mask, w[4 * half + 1] = shift_right<2>(h) & mask;
        w[4 * half + 2] = shift_right<4>(h) & mask, w[4 * half + 3] = shift_right<6>(h) & mask;
    }
}

struct Q3_K {
    static constexpr Kind kind = kSub;
    static constexpr int columns = 256, bytes = 1824, bound = 7, log_offset = 2;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 32 + 224 * j; }
    static void weights(const uint8_t* p, int j, B* w) {
        read_twos(block(p, j) + 96, w);
        read_bits<2>(load_bytes(block(p, j) + 32), set_bytes(4), w);
    }
    static void scales(const uint8_t* p, int j, Scales& s) {
        s.scale = load_half(halves(p));
        const auto* sub = reinterpret_cast<const int8_t*>(block(p, j));
        s.sub[0] = load_i8(sub), s.sub[1] = load_i8(sub + 16);
    }
};

struct Q2_K {
    static constexpr Kind kind = kSubMin;
    static constexpr int columns = 256, bytes = 1344, bound = 3, log_offset = -1;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 64 + 160 * j; }
    static void weights(const uint8_t* p, int j, B* w) { read_twos(block(p, j) + 32, w); }
    static void scales(const uint8_t* p, int j, Scales& s) {
        s.scale = load_half(halves(p));
        s.low = set(0) - load_half(halves(p + 32));
        uint8_t low[16], high[16];
        for (int i = 0; i < 2; ++i) {
            for (int row = 0; row < 16; ++row) {
                const uint8_t both = block(p, j)[16 * i + row];
                low[row] = both & 15, high[row] = both >> 4;
            }
            s.sub[i] = load_u8(low), s.min[i] = load_u8(high);
        }
    }
};

// Calls fn with the codec of a format that files hold as blocks.
template <class Fn> void with_block_codec(int64_t format, Fn fn) {
    switch (format) {
        case kQ4_0: return fn(Q4_0{});
        case kQ4_1: return fn(Q4_1{});
        case kQ5_0: return fn(Q5_0{});
        case kQ5_1: return fn(Q5_1{});
        case kQ8_0: return fn(Q8_0{});
        case kQ2_K: return fn(Q2_K{});
        case kQ3_K: return fn(Q3_K{});
        case kQ4_K: return fn(Q4_K{});
        case kQ5_K: return fn(Q5_K{});
        default: return fn(Q6_K{});
    }
}

}  // namespace parity::PARITY_ISA
