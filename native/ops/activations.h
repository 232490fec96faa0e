// Rows of activations as signed bytes, each 32 columns with their own scale: x is about scale * q, |q| <= 127.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

struct Activations {
    int8_t* q;        // [tokens, stride]
    float* scale;     // [tokens, blocks]
    float* sum;       // [tokens, blocks]: scale times the sum of q
    int32_t* minus;   // [tokens, blocks]: minus the sum of q
    int32_t* minus2;  // [tokens, blocks, 2]: the same over 16 columns each
    int64_t stride, blocks;

    // An odd number of cache lines, so that the same column of consecutive rows falls into different sets.
    static int64_t row_stride(int64_t columns) { return (round_up(columns, 64) / 64 | 1) * 64; }
    static size_t bytes(int64_t tokens, int64_t columns) {
        return size_t(tokens * (row_stride(columns) + columns / kBlock * 20) + 512);
    }
    Activations(std::byte* memory, int64_t tokens, int64_t columns) : stride(row_stride(columns)), blocks(columns / kBlock) {
        const int64_t numbers = round_up(4 * tokens * blocks, 64);
        auto* at = reinterpret_cast<char*>(memory);
        q = reinterpret_cast<int8_t*>(at), at += tokens * stride;
        scale = reinterpret_cast<float*>(at), at += numbers;
        sum = reinterpret_cast<float*>(at), at += numbers;
        minus = reinterpret_cast<int32_t*>(at), at += numbers;
        minus2 = reinterpret_cast<int32_t*>(at);
    }

    void quantise(const float* x, int64_t token) const {
        int8_t* to = q + token * stride;
        for (int64_t b = 0; b < blocks; ++b) {
            const F low = load(x + kBlock * b), high = load(x + kBlock * b + 16);
            const float most = largest(max(abs(low), abs(high)));
            const float step = most / 127.0f, inverse = step > 0 ? 1.0f / step : 0.0f;
            const F limit = set(127), floor = set(-127);
            const I first = nearest(max(min(low * set(inverse), limit), floor));
            const I second = nearest(max(min(high * set(inverse), limit), floor));
            store_i8(to + kBlock * b, first), store_i8(to + kBlock * b + 16, second);
            const int one = parity::PARITY_ISA::sum(first), two = parity::PARITY_ISA::sum(second);
            const int64_t at = token * blocks + b;
            scale[at] = step, sum[at] = step * float(one + two);
            minus[at] = -(one + two), minus2[2 * at] = -one, minus2[2 * at + 1] = -two;
        }
    }
};

}  // namespace parity::PARITY_ISA
