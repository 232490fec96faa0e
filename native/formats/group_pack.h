// From matrices stored row by row, with arrays of scales and zero points beside them, to panels.
#pragma once

namespace parity::PARITY_ISA {

// One number of an array of scales as float32; exponents (e8m0) have only their byte copied.
inline float scale_number(const PackGroupsArgs& args, int64_t index) {
    const auto* two = static_cast<const uint16_t*>(args.scale);
    if (args.scale_format == kF32) return static_cast<const float*>(args.scale)[index];
    alignas(64) float all[16];
    alignas(32) const uint16_t one[16] = {two[index]};
    store(all, args.scale_format == kF16 ? load_half(one) : load_bfloat(one));
    return all[0];
}

template <class Scale> void place_scale(const PackGroupsArgs& args, int64_t index, int row, float factor, uint8_t* header) {
    if constexpr (Scale::bytes == 4) {
        const float number = scale_number(args, index) * factor;
        __builtin_memcpy(header + 4 * row, &number, 4);
    } else {
        __builtin_memcpy(header + Scale::bytes * row, static_cast<const uint8_t*>(args.scale) + Scale::bytes * index, Scale::bytes);
    }
}

// Where a row's columns `first`, ... stand among the scales.
inline int64_t scale_index(const PackGroupsArgs& args, int64_t row, int64_t first) {
    return row / args.group_rows * ((args.columns + args.group_columns - 1) / args.group_columns) + first / args.group_columns;
}

inline void place_codes(const uint8_t* q, bool nibbles, int row, uint8_t* to) {
    if (nibbles) return place_nibbles(q, row, to);
    for (int s = 0; s < 8; ++s) __builtin_memcpy(to + 64 * s + 4 * row, q + 4 * s, 4);
}

// One row's block of integer codes.
template <class C> void place_group(const PackGroupsArgs& args, int64_t row, int64_t first, uint8_t* p) {
    constexpr bool nibbles = C::bound < 255;
    const int lane = int(row % kPanelRows);
    place_scale<typename C::scale_type>(args, scale_index(args, row, first), lane, 1.0f, p);
    if constexpr (C::kind == kMin) p[16 * C::scale_type::bytes + lane] = args.zeros[scale_index(args, row, first)];
    const uint8_t* from = args.data + (row * args.columns + first) / (nibbles ? 2 : 1);
    for (int j = 0; j < C::columns / 32; ++j) {
        uint8_t q[32];
        for (int i = 0; i < 32; ++i) q[i] = nibbles ? from[16 * j + i / 2] >> 4 * (i % 2) & 15 : uint8_t(from[32 * j + i] + kSignOffset);
        place_codes(q, nibbles, lane, p + C::header + (nibbles ? 256 : 512) * j);
    }
}

// One row's block of FP8 numbers. A NaN among them, which the kernels would read as 480, makes their scale one.
template <class C> void place_float_group(const PackGroupsArgs& args, int64_t row, int64_t first, uint8_t* p) {
    const int lane = int(row % kPanelRows);
    const uint8_t* from = args.data + row * args.columns + first;
    bool all_numbers = true;
    for (int c = 0; c < C::columns; ++c) {
        p[C::header + 16 * c + lane] = from[c];
        all_numbers &= (from[c] & 0x7f) != 0x7f;
    }
    place_scale<typename C::scale_type>(args, scale_index(args, row, first), lane, 256.0f, p);
    if (all_numbers) return;
    const float none = __builtin_nanf("");
    if constexpr (C::scale_type::bytes == 4) __builtin_memcpy(p + 4 * lane, &none, 4);
    else p[lane] = 255;
}

template <class C, class Place> void pack_group_panels(const PackGroupsArgs& args, Team& team, Place place) {
    const int64_t blocks = args.columns / C::columns, panel_bytes = blocks * C::bytes;
    const int64_t panels = (args.rows + kPanelRows - 1) / kPanelRows, chunk = 1 + (1 << 17) / panel_bytes;
    for (int64_t start = team.claim() * chunk; start < panels; start = team.claim() * chunk)
        for (int64_t panel = start; panel < panels && panel < start + chunk; ++panel) {
            uint8_t* to = args.panels + panel * panel_bytes;
            const int64_t first = panel * kPanelRows, end = first + kPanelRows < args.rows ? first + kPanelRows : args.rows;
            // The rows past the last have scale 0.
            if (end < first + kPanelRows) __builtin_memset(to, 0, size_t(panel_bytes));
            for (int64_t row = first; row < end; ++row)
                for (int64_t b = 0; b < blocks; ++b) place(args, row, b * C::columns, to + b * C::bytes);
        }
}

inline void pack_groups(const void* raw, Team& team) {
    const auto& args = *static_cast<const PackGroupsArgs*>(raw);
    if (args.format >= kFirstFloatPanels)
        return with_float_codec(args.format, [&]<class C>(C) { pack_group_panels<C>(args, team, place_float_group<C>); });
    const auto pack_as = [&]<class C>(C) { pack_group_panels<C>(args, team, place_group<C>); };
    // With scales of halves for 32 columns, the panels of Q4_0 and Q8_0 are the same.
    if (args.format == kQ4_0) return pack_as(Int4<32, HalfScale>{});
    if (args.format == kQ8_0) return pack_as(Int8<32, HalfScale>{});
    with_codec(args.format, [&]<class C>(C) {
        if constexpr (requires { typename C::scale_type; }) pack_as(C{});
    });
}

}  // namespace parity::PARITY_ISA
