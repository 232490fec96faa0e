// exp, exp2, sigmoid, tanh and softplus of sixteen numbers, to about 2 units in the last place.
#pragma once

namespace parity::PARITY_ISA {

// e^x = 2^n e^r with |r| <= ln(2) / 2 and a Taylor polynomial of degree 7; below -87.3 it
// stays at e^-87.3 (1e-38), above 88.38 it is infinite.
inline F exp(F x) {
    const F lowest = set(-87.3f), highest = set(89.0f);
    const F clamped = min(highest, max(lowest, x));  // in this order a NaN stays one
    const I n = nearest(clamped * set(1.44269504088896341f));
    const F whole = widen(n);
    const F r = fma(whole, set(2.12194440e-4f), fma(whole, set(-0.693359375f), clamped));
    F p = set(1.9875691500e-4f);
    p = fma(p, r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    p = fma(p, r * r, r) + set(1.0f);
    return p * power_of_two(n);
}

// 2^x for x of at most 0, and exactly 1 for 0: 2^n 2^r with |r| <= 1/2 and a polynomial fitted there, to 2e-9 before it is
// rounded; below -126 it stays at 2^-126.
inline F exp2(F x) {
    const F clamped = max(set(-126.0f), x);  // in this order a NaN stays one
    const I n = nearest(clamped);
    const F r = clamped - widen(n);
    F p = set(1.5353362e-4f);
    p = fma(p, r, set(1.3398875e-3f));
    p = fma(p, r, set(9.618437e-3f));
    p = fma(p, r, set(5.5503324e-2f));
    p = fma(p, r, set(2.4022648e-1f));
    p = fma(p, r, set(6.931472e-1f));
    return fma(p, r, set(1.0f)) * power_of_two(n);
}

inline F sigmoid(F x) { return set(1.0f) / (set(1.0f) + exp(set(0.0f) - x)); }
inline F tanh(F x) {
    // 1 - 2 / (e^2x + 1)
    return set(1.0f) - set(2.0f) / (exp(x + x) + set(1.0f));
}

// log(1 + e^x): what e^-|x| = t adds to max(x, 0) is 2 atanh(t / (2 + t)), whose series in z <= 1/9 is cut at 1e-9.
inline F softplus(F x) {
    const F t = exp(set(0.0f) - abs(x)), s = t / (set(2.0f) + t), z = s * s;
    F p = set(1.0f / 15);
    for (int odd = 13; odd > 0; odd -= 2) p = fma(p, z, set(1.0f / float(odd)));
    return max(set(0.0f), x) + (s + s) * p;
}

// Calls fn<count>().
template <int kMost, class Fn> void with_count(int64_t count, const Fn& fn) {
    if constexpr (kMost > 1) {
        if (count < kMost) return with_count<kMost - 1>(count, fn);
    }
    fn.template operator()<kMost>();
}

inline const float* row_of(const Spaced& rows, int64_t r) {
    return rows.data + r / rows.inner * rows.stride + r % rows.inner * rows.inner_stride;
}

// Calls fn(load, store) for each 16 of n numbers: the last ones are loaded and stored in part.
template <class Fn> void over(int64_t n, Fn fn) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        fn([=](const float* p) { return load(p + i); }, [=](float* p, F x) { store(p + i, x); });
    if (i < n) fn([=](const float* p) { return load_some(p + i, n - i); }, [=](float* p, F x) { store_some(p + i, x, n - i); });
}

}  // namespace parity::PARITY_ISA
