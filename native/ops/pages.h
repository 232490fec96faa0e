// Rows of numbers as pages keep them: float32, half precision, or signed bytes with a bfloat16 scale behind each row.
#pragma once

namespace parity::PARITY_ISA {

// Bytes of a row of n numbers.
inline int64_t row_bytes(int32_t type, int64_t n) {
    return type == kPageFloat ? 4 * n : type == kPageByte ? n + 2 : 2 * n;
}

inline void store_number(float* p, F x) { store(p, x); }
inline void store_number(Half* p, F x) { store_half(reinterpret_cast<uint16_t*>(p), x); }
inline void store_number(Bfloat* p, F x) { store_bfloat(reinterpret_cast<uint16_t*>(p), x); }

template <class W> void store_row_as(const float* x, int64_t n, void* out) {
    auto* to = static_cast<W*>(out);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) store_number(to + i, load(x + i));
    if (i == n) return;
    W last[16];
    store_number(last, load_some(x + i, n - i));
    __builtin_memcpy(to + i, last, sizeof(W) * size_t(n - i));
}

// The largest number becomes 127 steps; a step is rounded to bfloat16 first, so that the bytes are for the step as it is kept.
inline void store_row_as_bytes(const float* x, int64_t n, void* out) {
    auto* to = static_cast<int8_t*>(out);
    F most = set(0), none = set(0);
    over(n, [&](auto get, auto) {
        const F y = get(x);
        most = max(most, abs(y));
        none = none + (y - y);  // 0, or NaN
    });
    alignas(32) uint16_t step[16];
    store_bfloat(step, set(largest(most) / 127.0f + sum(none)));
    const F kept = load_bfloat(step);
    const F divisor = largest(kept) > 0 ? kept : set(1);
    int64_t i = 0;
    const auto bytes = [&](F y, int8_t* p) { store_i8(p, nearest(max(min(y / divisor, set(127)), set(-127)))); };
    for (; i + 16 <= n; i += 16) bytes(load(x + i), to + i);
    if (i < n) {
        int8_t last[16];
        bytes(load_some(x + i, n - i), last);
        __builtin_memcpy(to + i, last, size_t(n - i));
    }
    __builtin_memcpy(to + n, step, 2);
}

inline void store_row(int32_t type, const float* x, int64_t n, void* out) {
    switch (type) {
        case kPageFloat: __builtin_memcpy(out, x, size_t(4 * n)); return;
        case kPageHalf: return store_row_as<Half>(x, n, out);
        case kPageBfloat: return store_row_as<Bfloat>(x, n, out);
        default: return store_row_as_bytes(x, n, out);
    }
}

inline void store_rows(int32_t type, const float* x, int64_t rows, int64_t n, void* out) {
    for (int64_t r = 0; r < rows; ++r) store_row(type, x + r * n, n, static_cast<char*>(out) + r * row_bytes(type, n));
}

inline void read_bytes(const uint8_t* p, int64_t n, float* out) {
    const auto* q = reinterpret_cast<const int8_t*>(p);
    alignas(32) uint16_t step[16];
    for (uint16_t& one : step) __builtin_memcpy(&one, p + n, 2);
    const F scale = load_bfloat(step);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) store(out + i, widen(load_i8(q + i)) * scale);
    if (i == n) return;
    int8_t last[16] = {};
    __builtin_memcpy(last, q + i, size_t(n - i));
    store_some(out + i, widen(load_i8(last)) * scale, n - i);
}

inline void read_row(int32_t type, const uint8_t* p, int64_t n, float* out) {
    switch (type) {
        case kPageFloat: return copy_numbers(reinterpret_cast<const float*>(p), n, out);
        case kPageHalf: return copy_numbers(reinterpret_cast<const Half*>(p), n, out);
        case kPageBfloat: return copy_numbers(reinterpret_cast<const Bfloat*>(p), n, out);
        default: return read_bytes(p, n, out);
    }
}

}  // namespace parity::PARITY_ISA
