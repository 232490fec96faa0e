// From the file's blocks, row after row, to panels.
#pragma once

namespace parity::PARITY_ISA {

// One row's block as numbers, whatever its format.
struct RowBlock {
    uint8_t q[256];
    uint16_t d, low;
    uint8_t sub[16], min[16];  // `sub` may hold a signed byte
};

inline uint16_t two_bytes(const uint8_t* p) {
    uint16_t x;
    __builtin_memcpy(&x, p, 2);
    return x;
}

// Eight bytes as one number, the first lowest: their bits are moved all at once, which compilers do not do by themselves.
inline uint64_t eight_bytes(const uint8_t* p) {
    uint64_t x;
    __builtin_memcpy(&x, p, 8);
    return x;
}
inline void put_eight(uint64_t x, uint8_t* p) { __builtin_memcpy(p, &x, 8); }

constexpr uint64_t kEach = 0x0101010101010101;

inline void split_nibbles(const uint8_t* q, int half, uint8_t* out) {
    for (int i = 0; i < half; i += 8) {
        const uint64_t both = eight_bytes(q + i);
        put_eight(both & 15 * kEach, out + i), put_eight(both >> 4 & 15 * kEach, out + half + i);
    }
}

// 32 bits, the lowest first, each as bit 4 of a byte.
inline void split_bits(const uint8_t* h, uint8_t* q) {
    for (int i = 0; i < 4; ++i) {
        const uint64_t alone = h[i] * kEach & 0x8040201008040201;  // byte k keeps bit k
        put_eight(eight_bytes(q + 8 * i) | ((alone + 0x7f * kEach) & 0x80 * kEach) >> 3, q + 8 * i);
    }
}

// The eight 6-bit scales and minima of Q4_K and Q5_K.
inline void split_scales(const uint8_t* s, RowBlock& out) {
    for (int j = 0; j < 4; ++j) {
        out.sub[j] = s[j] & 63, out.min[j] = s[j + 4] & 63;
        out.sub[j + 4] = uint8_t((s[j + 8] & 15) | (s[j] >> 6) << 4);
        out.min[j + 4] = uint8_t((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
    }
}

inline void split_twos(const uint8_t* q, uint8_t* out) {
    for (int n = 0; n < 2; ++n)
        for (int shift = 0; shift < 4; ++shift)
            for (int i = 0; i < 32; ++i) out[128 * n + 32 * shift + i] = q[32 * n + i] >> 2 * shift & 3;
}

inline void split(Q4_0, const uint8_t* p, RowBlock& out) { out.d = two_bytes(p), split_nibbles(p + 2, 16, out.q); }
inline void split(Q4_1, const uint8_t* p, RowBlock& out) {
    out.d = two_bytes(p), out.low = two_bytes(p + 2), split_nibbles(p + 4, 16, out.q);
}
inline void split(Q5_0, const uint8_t* p, RowBlock& out) {
    out.d = two_bytes(p), split_nibbles(p + 6, 16, out.q), split_bits(p + 2, out.q);
}
inline void split(Q5_1, const uint8_t* p, RowBlock& out) {
    out.d = two_bytes(p), out.low = two_bytes(p + 2), split_nibbles(p + 8, 16, out.q), split_bits(p + 4, out.q);
}
inline void split(Q8_0, const uint8_t* p, RowBlock& out) {
    out.d = two_bytes(p);
    for (int i = 0; i < 32; ++i) out.q[i] = uint8_t(p[2 + i] + kSignOffset);
}
inline void split(Q4_K, const uint8_t* p, RowBlock& out) {
    out.d = two_bytes(p), out.low = two_bytes(p + 2), split_scales(p + 4, out);
    for (int j = 0; j < 4; ++j) split_nibbles(p + 16 + 32 * j, 32, out.q + 64 * j);
}
inline void split(Q5_K, const uint8_t* p, RowBlock& out) {
    out.d = two_bytes(p), out.low = two_bytes(p + 2), split_scales(p + 4, out);
    for (int j = 0; j < 4; ++j) split_nibbles(p + 48 + 32 * j, 32, out.q + 64 * j);
    for (int j = 0; j < 8; ++j)
        for (int i = 0; i < 32; ++i) out.q[32 * j + i] |= uint8_t((p[16 + i] >> j & 1) << 4);
}
inline void split(Q6_K, const uint8_t* p, RowBlock& out) {
    for (int n = 0; n < 2; ++n) {
        const uint8_t *low = p + 64 * n, *high = p + 128 + 32 * n;
        uint8_t* q = out.q + 128 * n;
        for (int i = 0; i < 32; ++i) {
            q[i] = uint8_t((low[i] & 15) | (high[i] & 3) << 4);
            q[i + 32] = uint8_t((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4);
            q[i + 64] = uint8_t((low[i] >> 4) | (high[i] >> 4 & 3) << 4);
            q[i + 96] = uint8_t((low[i + 32] >> 4) | (high[i] >> 6) << 4);
        }
    }
    __builtin_memcpy(out.sub, p + 192, 16);
    out.d = two_bytes(p + 208);
}
inline void split(Q3_K, const uint8_t* p, RowBlock& out) {
    split_twos(p + 32, out.q);
    for (int j = 0; j < 8; ++j)
        for (int i = 0; i < 32; ++i) out.q[32 * j + i] |= uint8_t((p[i] >> j & 1) << 2);
    // Scales of six bits: the low four of the first and of the last eight, then the high two of four at a time.
    const uint64_t low = eight_bytes(p + 96), high = eight_bytes(p + 100) >> 32, two = 3 * (kEach >> 32);
    const auto signed_ = [](uint64_t x) { return (x + 0x60 * kEach) ^ 0x80 * kEach; };  // less 32 in each byte
    put_eight(signed_((low & 15 * kEach) | (high & two) << 4 | (high >> 2 & two) << 36), out.sub);
    put_eight(signed_((low >> 4 & 15 * kEach) | (high >> 4 & two) << 4 | (high >> 6 & two) << 36), out.sub + 8);
    out.d = two_bytes(p + 108);
}
inline void split(Q2_K, const uint8_t* p, RowBlock& out) {
    __builtin_memcpy(out.sub, p, 16);
    split_twos(p + 16, out.q);
    out.d = two_bytes(p + 80), out.low = two_bytes(p + 82);
}

// q of the 32 columns of one row to its places in eight vectors.
inline void place_nibbles(const uint8_t* q, int row, uint8_t* to) {
    for (int half = 0; half < 2; ++half) {
        const uint64_t both = (eight_bytes(q + 8 * half) & 15 * kEach) | (eight_bytes(q + 16 + 8 * half) & 15 * kEach) << 4;
        const uint32_t first = uint32_t(both), second = uint32_t(both >> 32);
        __builtin_memcpy(to + 128 * half + 4 * row, &first, 4);
        __builtin_memcpy(to + 128 * half + 64 + 4 * row, &second, 4);
    }
}
// Four columns of one step; the number `x` in each byte.
inline uint32_t step_bytes(const uint8_t* q, int step) {
    uint32_t x;
    __builtin_memcpy(&x, q + 4 * step, 4);
    return x;
}
constexpr uint32_t each_byte(uint32_t x) { return 0x01010101 * x; }
inline void place_step(uint32_t x, int vector, int row, uint8_t* to) { __builtin_memcpy(to + 64 * vector + 4 * row, &x, 4); }

// As `read_fives`, `read_sixes` and the others of codecs.h read them.
inline void place_fives(const uint8_t* q, int row, uint8_t* to) {
    const uint32_t five = step_bytes(q, 5), six = step_bytes(q, 6), seven = step_bytes(q, 7);
    const uint32_t low = each_byte(7), high = each_byte(0x18);
    place_step(step_bytes(q, 0) | (five & low) << 5, 0, row, to);
    place_step(step_bytes(q, 1) | (six & low) << 5, 1, row, to);
    place_step(step_bytes(q, 2) | (seven & low) << 5, 2, row, to);
    place_step(step_bytes(q, 3) | (five & high) << 2 | (seven & each_byte(0x08)) << 4, 3, row, to);
    place_step(step_bytes(q, 4) | (six & high) << 2 | (seven & each_byte(0x10)) << 3, 4, row, to);
}
inline void place_sixes(const uint8_t* q, int row, uint8_t* to) {
    for (int i = 0; i < 6; ++i) place_step(step_bytes(q, i) | (step_bytes(q, 6 + i / 3) >> 2 * (i % 3) & each_byte(3)) << 6, i, row, to);
}
inline void place_threes(const uint8_t* q, int row, uint8_t* to) {
    const uint32_t six = step_bytes(q, 6), seven = step_bytes(q, 7);
    const uint32_t high[3] = {(six & each_byte(3)) << 6, (seven & each_byte(3)) << 6, (six & each_byte(4)) << 4 | (seven & each_byte(4)) << 5};
    for (int i = 0; i < 3; ++i) place_step(step_bytes(q, 2 * i) | step_bytes(q, 2 * i + 1) << 3 | high[i], i, row, to);
}
inline void place_twos(const uint8_t* q, int row, uint8_t* to) {
    for (int i = 0; i < 2; ++i) {
        uint32_t all = 0;
        for (int s = 0; s < 4; ++s) all |= step_bytes(q, 4 * i + s) << 2 * s;
        place_step(all, i, row, to);
    }
}
inline void place_half(uint16_t x, int row, uint8_t* to) { __builtin_memcpy(to + 2 * row, &x, 2); }

inline void place(Q4_0, const RowBlock& b, int row, uint8_t* p) { place_half(b.d, row, p), place_nibbles(b.q, row, p + 32); }
inline void place(Q4_1, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p), place_half(b.low, row, p + 32), place_nibbles(b.q, row, p + 64);
}
inline void place(Q5_0, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p), place_fives(b.q, row, p + 32);
}
inline void place(Q5_1, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p), place_half(b.low, row, p + 32), place_fives(b.q, row, p + 64);
}
inline void place(Q8_0, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p);
    for (int s = 0; s < 8; ++s) __builtin_memcpy(p + 32 + 64 * s + 4 * row, b.q + 4 * s, 4);
}
inline void place(Q4_K, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p), place_half(b.low, row, p + 32);
    for (int j = 0; j < 8; ++j) {
        uint8_t* to = p + 64 + 288 * j;
        to[row] = b.sub[j], to[16 + row] = b.min[j], place_nibbles(b.q + 32 * j, row, to + 32);
    }
}
inline void place(Q5_K, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p), place_half(b.low, row, p + 32);
    for (int j = 0; j < 8; ++j) {
        uint8_t* to = p + 64 + 352 * j;
        to[row] = b.sub[j], to[16 + row] = b.min[j], place_fives(b.q + 32 * j, row, to + 32);
    }
}
inline void place(Q6_K, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p);
    for (int j = 0; j < 8; ++j) {
        uint8_t* to = p + 32 + 416 * j;
        to[row] = b.sub[2 * j], to[16 + row] = b.sub[2 * j + 1], place_sixes(b.q + 32 * j, row, to + 32);
    }
}
inline void place(Q3_K, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p);
    for (int j = 0; j < 8; ++j) {
        uint8_t* to = p + 32 + 224 * j;
        to[row] = b.sub[2 * j], to[16 + row] = b.sub[2 * j + 1], place_threes(b.q + 32 * j, row, to + 32);
    }
}
inline void place(Q2_K, const RowBlock& b, int row, uint8_t* p) {
    place_half(b.d, row, p), place_half(b.low, row, p + 32);
    for (int j = 0; j < 8; ++j) {
        uint8_t* to = p + 64 + 160 * j;
        to[row] = b.sub[2 * j], to[16 + row] = b.sub[2 * j + 1], place_twos(b.q + 32 * j, row, to + 32);
    }
}

template <class C> void pack_panel(const uint8_t* rows, int64_t num_rows, int64_t row_bytes, int64_t block_bytes, uint8_t* panel) {
    const int64_t blocks = row_bytes / block_bytes;
    for (int64_t b = 0; b < blocks; ++b) {
        // The rows past the last have scale 0.
        if (num_rows < kPanelRows) __builtin_memset(panel + b * C::bytes, 0, C::bytes);
        for (int64_t row = 0; row < num_rows; ++row) {
            RowBlock numbers;
            split(C{}, rows + row * row_bytes + b * block_bytes, numbers);
            place(C{}, numbers, int(row), panel + b * C::bytes);
        }
    }
}

inline void pack(const void* raw, Team& team) {
    const auto& args = *static_cast<const PackArgs*>(raw);
    const FormatInfo& info = format_info(args.format);
    const int64_t row_bytes = args.columns / info.columns * info.bytes, panel_bytes = args.columns / info.columns * info.panel_bytes;
    const int64_t panels = (args.num_rows + kPanelRows - 1) / kPanelRows, chunk = 1 + (1 << 17) / panel_bytes;
    with_block_codec(args.format, [&]<class C>(C) {
        for (int64_t start = team.claim() * chunk; start < panels; start = team.claim() * chunk)
            for (int64_t panel = start; panel < panels && panel < start + chunk; ++panel) {
                const int64_t row = panel * kPanelRows, left = args.num_rows - row;
                pack_panel<C>(args.rows + row * row_bytes, left < kPanelRows ? left : kPanelRows, row_bytes, info.bytes,
                              args.panels + panel * panel_bytes);
            }
    });
}

}  // namespace parity::PARITY_ISA
