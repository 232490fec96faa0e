// Rotations, and rows written to their places in pages.
#pragma once

namespace parity::PARITY_ISA {

inline void angles(const void* raw, Team& team) {
    const auto& args = *static_cast<const AnglesArgs*>(raw);
    share_rows(team, args.tokens, 16 * args.half, [&](int64_t t) {
        float* cosines = args.out + t * 2 * args.half;
        for (int64_t i = 0; i < args.half; ++i) {
            const float angle = float(args.positions[t] + args.shift) * args.inv_freq[i];
            cosines[i] = __builtin_cosf(angle) * args.scale;
            cosines[args.half + i] = __builtin_sinf(angle) * args.scale;
        }
    });
}

struct Turn {
    int64_t dim, half, offset;
    bool interleaved, inverse;
};

// One head: `angles` are its token's cosines, then sines. `out` may be x.
inline void turn(const float* x, const float* angles, float* out, const Turn& how) {
    const float *cosines = angles, *sines = angles + how.half;
    const F sign = set(how.inverse ? -1.0f : 1.0f);
    if (how.interleaved) {
        for (int64_t i = 0; i < how.half; ++i) {
            const float c = cosines[i], s = how.inverse ? -sines[i] : sines[i];
            const float a = x[how.offset + 2 * i], b = x[how.offset + 2 * i + 1];
            out[how.offset + 2 * i] = a * c - b * s, out[how.offset + 2 * i + 1] = b * c + a * s;
        }
    } else {
        const float *first = x + how.offset, *second = first + how.half;
        float* to = out + how.offset;
        over(how.half, [&](auto get, auto put) {
            const F c = get(cosines), s = get(sines) * sign, a = get(first), b = get(second);
            put(to, a * c - b * s), put(to + how.half, fma(b, c, a * s));
        });
    }
    if (out == x) return;
    for (int64_t i = 0; i < how.offset; ++i) out[i] = x[i];
    for (int64_t i = how.offset + 2 * how.half; i < how.dim; ++i) out[i] = x[i];
}

inline void rope(const void* raw, Team& team) {
    const auto& args = *static_cast<const RopeArgs*>(raw);
    const Turn how{args.dim, args.half, args.offset, args.interleaved != 0, args.inverse != 0};
    share_rows(team, args.tokens, args.heads * args.dim, [&](int64_t t) {
        for (int64_t h = 0; h < args.heads; ++h)
            turn(args.x + t * args.x_stride + h * args.x_head_stride, args.angles + t * 2 * args.half,
                 args.out + (t * args.heads + h) * args.dim, how);
    });
}

// The sequence that a row belongs to; rows come in order, so `sequence` only moves on.
inline int64_t sequence_of(const Places& places, int64_t row) {
    if (places.num_sequences == places.num_tokens) return row;
    int64_t low = 0, high = places.num_sequences;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        (places.starts[middle] <= row ? low : high) = middle;
    }
    return low;
}

// The index of a row's entry in pages laid one after the other; entries may be of several tokens.
inline int64_t entry_of(const Places& places, int64_t row, int64_t every = 1) {
    const int64_t position = places.positions[row] / every;
    const int32_t* pages = places.pages + sequence_of(places, row) * places.max_pages;
    return int64_t(pages[position / places.page_size]) * places.page_size + position % places.page_size;
}

inline void write(const void* raw, Team& team) {
    const auto& args = *static_cast<const WriteArgs*>(raw);
    share_rows(team, args.places.num_tokens, args.row_bytes / 4, [&](int64_t t) {
        if ((args.places.positions[t] + 1) % args.every) return;
        char* to = static_cast<char*>(args.pages) + entry_of(args.places, t, args.every) * args.row_bytes;
        const char* from = static_cast<const char*>(args.values) + t * args.value_stride_bytes;
        if (!args.columns) __builtin_memcpy(to, from, size_t(args.row_bytes));
        else store_rows(args.type, reinterpret_cast<const float*>(from), args.rows, args.columns, to);
    });
}

inline void rope_write(const void* raw, Team& team) {
    const auto& args = *static_cast<const RopeWriteArgs*>(raw);
    const Turn how{args.k_dim, args.half, args.offset, args.interleaved != 0, false};
    const int64_t k_bytes = row_bytes(args.page_type, args.k_dim), v_bytes = row_bytes(args.page_type, args.v_dim);
    auto* turned = reinterpret_cast<float*>(team.local(size_t(4 * args.k_dim)));
    if (!turned) return;
    share_rows(team, args.places.num_tokens, (args.heads + args.kv_heads) * args.k_dim, [&](int64_t t) {
        const float* angles = args.angles + t * 2 * args.half;
        for (int64_t h = 0; h < args.heads; ++h)
            turn(args.q + t * args.q_stride + h * args.k_dim, angles, args.out + (t * args.heads + h) * args.k_dim, how);
        const int64_t entry = entry_of(args.places, t);
        for (int64_t h = 0; h < args.kv_heads; ++h) {
            turn(args.k + t * args.k_stride + h * args.k_dim, angles, turned, how);
            store_row(args.page_type, turned, args.k_dim, static_cast<char*>(args.k_pages) + (entry * args.kv_heads + h) * k_bytes);
        }
        store_rows(args.page_type, args.v + t * args.v_stride, args.kv_heads, args.v_dim, static_cast<char*>(args.v_pages) + entry * args.kv_heads * v_bytes);
    });
}

}  // namespace parity::PARITY_ISA
