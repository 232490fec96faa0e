// Rows of activations as signed bytes, each 32 columns with their own scale: x is about scale * q, |q| <= 127.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Tokens lie in tiles of `width`: four columns of each token beside each other, then the next four columns.
struct Activations {
    int64_t width, blocks;
    int8_t* q;        // [tiles, blocks, 8, width, 4]
    float* scale;     // [tiles, blocks, width]
    float* sum;       // scale times the sum of q
    int32_t* minus;   // minus the sum of q
    int32_t* minus2;  // [tiles, blocks, 2, width]: the same over 16 columns each
    int32_t* pairs;   // [tiles, blocks, 3, width], where the kernels want them: see `put_pairs`

    static size_t bytes(int64_t tokens, int64_t columns, int64_t width) {
        const int64_t blocks = round_up(tokens, width) * (columns / kBlock);
        return size_t(blocks * (kBlock + 20 + (kPairSums ? 12 : 0)) + 7 * 64);
    }

    Activations(std::byte* memory, int64_t tokens, int64_t columns, int64_t width) : width(width), blocks(columns / kBlock) {
        const int64_t count = round_up(tokens, width) * blocks;
        auto* at = reinterpret_cast<char*>(memory);
        const auto take = [&](int64_t size) {
            char* start = at;
            at += round_up(size, 64);
            return start;
        };
        q = reinterpret_cast<int8_t*>(take(count * kBlock));
        scale = reinterpret_cast<float*>(take(4 * count));
        sum = reinterpret_cast<float*>(take(4 * count));
        minus = reinterpret_cast<int32_t*>(take(4 * count));
        minus2 = reinterpret_cast<int32_t*>(take(8 * count));
        pairs = reinterpret_cast<int32_t*>(take(kPairSums ? 12 * count : 0));
    }

    template <class Q> void keep_pairs(const Q* bytes, int64_t at) const {
        if constexpr (kPairSums) put_pairs(bytes, pairs + at, width);
    }

    void quantise(const float* x, int64_t token) const {
        const int64_t tile = token / width, place = token % width;
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t block = tile * blocks + b, at = block * width + place;
            const F low = load(x + kBlock * b), high = load(x + kBlock * b + 16);
            const float most = largest_size(low, high);
            // Bytes cannot hold what is no finite number; the scale can.
            const float step = most < __builtin_inff() ? most / 127.0f : __builtin_nanf(""), inverse = step > 0 ? 1.0f / step : 0.0f;
            const F limit = set(127), floor = set(-127);
            const I first = nearest(max(min(low * set(inverse), limit), floor));
            const I second = nearest(max(min(high * set(inverse), limit), floor));
            alignas(32) int8_t bytes[kBlock];
            store_i8(bytes, first), store_i8(bytes + 16, second);
            for (int s = 0; s < 8; ++s) __builtin_memcpy(q + 4 * ((8 * block + s) * width + place), bytes + 4 * s, 4);
            const int one = sum_bytes(bytes), two = sum_bytes(bytes + 16);
            scale[at] = step, sum[at] = step * float(one + two), minus[at] = -(one + two);
            minus2[2 * block * width + place] = -one, minus2[(2 * block + 1) * width + place] = -two;
            keep_pairs(bytes, 3 * block * width + place);
        }
    }
};

}  // namespace parity::PARITY_ISA
