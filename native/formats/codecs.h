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
//   Q4_0  d[R] q4                    Q5_0  d[R] h1 q4                Q8_0  d[R] 512 bytes, each + kSignOffset
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

// By `kPlaces` to the left, or to the right where it is negative.
template <int kPlaces> B shift(B x) {
    if constexpr (kPlaces > 0) return shift_left<kPlaces>(x);
    if constexpr (kPlaces < 0) return shift_right<-kPlaces>(x);
    return x;
}

// Weights are given to `put` step by step, each as soon as it is whole: there are not registers for all eight.
template <class Put> void read_nibbles(const uint8_t* q, Put put) {
    const B mask = set_bytes(0x0f);
    for (int i = 0; i < 4; ++i) {
        const B both = load_bytes(q + 64 * i);
        put(i, both & mask);
        put(i + 4, shift_right<4>(both) & mask);
    }
}

// Nibbles with bit s of h above those of step s.
template <int kStep = 0, class Put> void read_fives(const uint8_t* q, B h, Put put) {
    if constexpr (kStep < 4) {
        const B both = load_bytes(q + 64 * kStep), mask = set_bytes(0x0f), bit = set_bytes(0x10);
        put(kStep, (both & mask) | (shift<4 - kStep>(h) & bit));
        put(kStep + 4, (shift_right<4>(both) & mask) | (shift<-kStep>(h) & bit));
        read_fives<kStep + 1>(q, h, put);
    }
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
    template <class Put> static void weights(const uint8_t* p, int, Put put) {
        read_fives(p + 96, load_bytes(p + 32), put);
    }
    static void scales(const uint8_t* p, int, Scales& s) { s.scale = load_half(halves(p)); }
};

struct Q5_1 {
    static constexpr Kind kind = kMin;
    static constexpr int columns = 32, bytes = 384, bound = 31, log_offset = -1;
    template <class Put> static void weights(const uint8_t* p, int, Put put) {
        read_fives(p + 128, load_bytes(p + 64), put);
    }
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
    template <class Put> static void weights(const uint8_t* p, int j, Put put) {
        read_fives(block(p, j) + 96, load_bytes(block(p, j) + 32), put);
    }
    static void scales(const uint8_t* p, int j, Scales& s) { read_scale_and_min(p, block(p, j), s); }
};

// Nibbles with two bits above each: those of steps 0-3 from `low`, those of steps 4-7 from `high`.
template <int kStep = 0, class Put> void read_sixes(const uint8_t* q, B low, B high, Put put) {
    if constexpr (kStep < 4) {
        const B both = load_bytes(q + 64 * kStep), mask = set_bytes(0x0f), bits = set_bytes(0x30);
        put(kStep, (both & mask) | (shift<4 - 2 * kStep>(low) & bits));
        put(kStep + 4, (shift_right<4>(both) & mask) | (shift<4 - 2 * kStep>(high) & bits));
        read_sixes<kStep + 1>(q, low, high, put);
    }
}

struct Q6_K {
    static constexpr Kind kind = kSub;
    static constexpr int columns = 256, bytes = 3360, bound = 63, log_offset = 5;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 32 + 416 * j; }
    template <class Put> static void weights(const uint8_t* p, int j, Put put) {
        read_sixes(block(p, j) + 160, load_bytes(block(p, j) + 32), load_bytes(block(p, j) + 96), put);
    }
    static void scales(const uint8_t* p, int j, Scales& s) {
        s.scale = load_half(halves(p));
        const auto* sub = reinterpret_cast<const int8_t*>(block(p, j));
        s.sub[0] = load_i8(sub), s.sub[1] = load_i8(sub + 16);
    }
};

template <int kStep = 0, class Put> void read_twos(const uint8_t* q, Put put) {
    if constexpr (kStep < 8) {
        put(kStep, shift<-2 * (kStep % 4)>(load_bytes(q + 64 * (kStep / 4))) & set_bytes(3));
        read_twos<kStep + 1>(q, put);
    }
}

// The same with bit s of h above those of step s.
template <int kStep = 0, class Put> void read_threes(const uint8_t* q, B h, Put put) {
    if constexpr (kStep < 8) {
        const B two = shift<-2 * (kStep % 4)>(load_bytes(q + 64 * (kStep / 4))) & set_bytes(3);
        put(kStep, two | (shift<2 - kStep>(h) & set_bytes(4)));
        read_threes<kStep + 1>(q, h, put);
    }
}

struct Q3_K {
    static constexpr Kind kind = kSub;
    static constexpr int columns = 256, bytes = 1824, bound = 7, log_offset = 2;
    static const uint8_t* block(const uint8_t* p, int j) { return p + 32 + 224 * j; }
    template <class Put> static void weights(const uint8_t* p, int j, Put put) {
        read_threes(block(p, j) + 96, load_bytes(block(p, j) + 32), put);
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
