// How each packed format's panels are read: a panel holds 16 rows, a block of it 32 columns as eight vectors B.
//
// kinds   kPlain    w = scale (q - offset)
//         kMin      w = scale q + low
//         kSub      w = scale (s_i q - s_i offset) with an integer scale for each 16 columns
//         kSubMin   w = scale s_i q + low m_i
//
// Panel layouts, in bytes, R = 16 rows; `two-byte` numbers are halves. The columns of a block lie in vectors of 64 bytes, four
// of each row: q4 is four vectors of low nibbles (steps 0-3) and high ones (steps 4-7); q5 and q6 are five and six whose low
// bits are the first steps and whose high bits, pieced together, the others (see `read_fives`, `read_sixes`); q3 three
// of two steps each, made so as well; q2 two of four steps each.
//
//   Q4_0  d[R] q4                    Q5_0  d[R] q5                   Q8_0  d[R] 512 bytes, each + kSignOffset
//   Q4_1  d[R] m[R] q4               Q5_1  d[R] m[R] q5
//   Q4_K  d[R] dmin[R] 8 x (s[R] m[R] q4)                            Q5_K  d[R] dmin[R] 8 x (s[R] m[R] q5)
//   Q6_K  d[R] 8 x (s[2][R] q6)      Q3_K  d[R] 8 x (s[2][R] q3)     Q2_K  d[R] dmin[R] 8 x ((s | m << 4)[2][R] q2)
#pragma once

namespace parity::PARITY_ISA {

enum Kind { kPlain, kMin, kSub, kSubMin };

// The scales of 16 rows over one block of 32 columns.
struct Scales {
    F scale, low;
    I sub[2], min[2];
};

inline const uint16_t* halves(const uint8_t* p) { return reinterpret_cast<const uint16_t*>(p); }

// Weights are given to `put` step by step, each as soon as it is whole: there are not registers for all eight.
template <class Put> void read_nibbles(const uint8_t* q, Put put) {
    const B mask = set_bytes(0x0f);
    for (int i = 0; i < 4; ++i) {
        const B both = load_bytes(q + 64 * i);
        put(i, both & mask);
        put(i + 4, shift_right<4>(both) & mask);
    }
}

// Five vectors hold eight steps of five bits. The high bits: steps 5, 6 and 7 have their low three in vectors 0, 1 and 2, and
// their high two in vectors 3, 4, and the highest bit of both.
template <class Put> void read_fives(const uint8_t* q, Put put) {
    const B mask = set_bytes(0x1f), low = set_bytes(0x07), high = set_bytes(0x18);
    const B v3 = load_bytes(q + 64 * 3), v4 = load_bytes(q + 64 * 4);
    put(3, v3 & mask), put(4, v4 & mask);
    const B v0 = load_bytes(q);
    put(0, v0 & mask), put(5, (shift_right<5>(v0) & low) | (shift_right<2>(v3) & high));
    const B v1 = load_bytes(q + 64);
    put(1, v1 & mask), put(6, (shift_right<5>(v1) & low) | (shift_right<2>(v4) & high));
    const B v2 = load_bytes(q + 64 * 2);
    put(2, v2 & mask), put(7, (shift_right<5>(v2) & low) | (shift_right<4>(v3) & set_bytes(0x08)) | (shift_right<3>(v4) & set_bytes(0x10)));
}

struct Q4_0 {
    static constexpr Kind kind = kPlain;
    static constexpr int columns = 32, bytes = 288, bound = 15, log_offset = 3;
    template <class Put> static void weights(const uint8_t* p, int, Put put) { read_nibbles(p + 32, put); }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = load_half(halves(p)); }
};

struct Q4_1 {
    static constexpr Kind kind = kMin;
    static constexpr int columns = 32, bytes = 320, bound = 15, log_offset = -1;
    template <class Put> static void weights(const uint8_t* p, int, Put put) { read_nibbles(p + 64, put); }
    static void scales(const uint8_t* p, int, Scales& s) {
        s.scale = load_half(halves(p));
        s.low = load_half(halves(p + 32));
    }
};

struct Q5_0 {
    static constexpr Kind kind = kPlain;
    static constexpr int columns = 32, bytes = 352, bound = 31, log_offset = 4;
    template <class Put> static void weights(const uint8_t* p, int, Put put) { read_fives(p + 32, put); }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = load_half(halves(p)); }
};

struct Q5_1 {
    static constexpr Kind kind = kMin;
    static constexpr int columns = 32, bytes = 384, bound = 31, log_offset = -1;
    template <class Put> static void weights(const uint8_t* p, int, Put put) { read_fives(p + 64, put); }
    static void scales(const uint8_t* p, int, Scales& s) {
        s.scale = load_half(halves(p));
        s.low = load_half(halves(p + 32));
    }
};

struct Q8_0 {
    static constexpr Kind kind = kPlain;
    static constexpr int columns = 32, header = 32, bytes = 544, bound = 255, log_offset = kSignOffset ? 7 : -1;
    template <class Put> static void weights(const uint8_t* p, int, Put put) {
        for (int i = 0; i < 8; ++i) put(i, load_bytes(p + header + 64 * i));
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
    template <class Put> static void weights(const uint8_t* p, int j, Put put) { read_nibbles(block(p, j) + 32, put); }
    static void scales(const uint8_t* p, int j, Scales& s) { read_scale_and_min(p, block(p, j), s); }
};

struct Q5_K {
    static constexpr Kind kind = kMin;
    static constexpr int columns = 256, bytes = 2880, bound = 31, log_offset = -1;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 64 + 352 * j; }
    template <class Put> static void weights(const uint8_t* p, int j, Put put) { read_fives(block(p, j) + 32, put); }
    static void scales(const uint8_t* p, int j, Scales& s) { read_scale_and_min(p, block(p, j), s); }
};

// Six vectors hold eight steps of six bits: step 6 in the high bits of the first three, the lowest first, step 7 in those of
// the others.
template <class Put> void read_sixes(const uint8_t* q, Put put) {
    const B mask = set_bytes(0x3f), low = set_bytes(0x03), middle = set_bytes(0x0c), high = set_bytes(0x30);
    for (int i = 0; i < 2; ++i, q += 3 * 64) {
        const B first = load_bytes(q), second = load_bytes(q + 64), third = load_bytes(q + 128);
        put(3 * i, first & mask), put(3 * i + 1, second & mask), put(3 * i + 2, third & mask);
        put(6 + i, (shift_right<6>(first) & low) | (shift_right<4>(second) & middle) | (shift_right<2>(third) & high));
    }
}

struct Q6_K {
    static constexpr Kind kind = kSub;
    static constexpr int columns = 256, bytes = 3360, bound = 63, log_offset = 5;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 32 + 416 * j; }
    template <class Put> static void weights(const uint8_t* p, int j, Put put) { read_sixes(block(p, j) + 32, put); }
    static void scales(const uint8_t* p, int j, Scales& s) {
        s.scale = load_half(halves(p));
        const auto* sub = reinterpret_cast<const int8_t*>(block(p, j));
        s.sub[0] = load_i8(sub), s.sub[1] = load_i8(sub + 16);
    }
};

template <class Put> void read_twos(const uint8_t* q, Put put) {
    const B mask = set_bytes(3);
    for (int i = 0; i < 2; ++i) {
        const B all = load_bytes(q + 64 * i);
        put(4 * i, all & mask), put(4 * i + 1, shift_right<2>(all) & mask);
        put(4 * i + 2, shift_right<4>(all) & mask), put(4 * i + 3, shift_right<6>(all) & mask);
    }
}

// Three vectors hold eight steps of three bits, two of them in the low six bits of each. The high bits: steps 6 and 7 have
// their low two in vectors 0 and 1, and the third in vector 2.
template <class Put> void read_threes(const uint8_t* q, Put put) {
    const B mask = set_bytes(0x07), low = set_bytes(0x03), high = set_bytes(0x04);
    const B vectors[3] = {load_bytes(q), load_bytes(q + 64), load_bytes(q + 128)};
    for (int i = 0; i < 3; ++i) put(2 * i, vectors[i] & mask), put(2 * i + 1, shift_right<3>(vectors[i]) & mask);
    put(6, (shift_right<6>(vectors[0]) & low) | (shift_right<4>(vectors[2]) & high));
    put(7, (shift_right<6>(vectors[1]) & low) | (shift_right<5>(vectors[2]) & high));
}

struct Q3_K {
    static constexpr Kind kind = kSub;
    static constexpr int columns = 256, bytes = 1824, bound = 7, log_offset = 2;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 32 + 224 * j; }
    template <class Put> static void weights(const uint8_t* p, int j, Put put) { read_threes(block(p, j) + 32, put); }
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
    template <class Put> static void weights(const uint8_t* p, int j, Put put) { read_twos(block(p, j) + 32, put); }
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
