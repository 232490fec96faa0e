// Entries pooled from groups of tokens, and the windows of tokens that hashed memories look at.
#pragma once

namespace parity::PARITY_ISA {

// One sequence's inputs: those of the batch's rows, and those before them in the tail.
struct PoolInputs {
    const PoolArgs& args;
    int64_t start, first, width;  // the first row and its position; positions held in the tail
    float* tail;

    PoolInputs(const PoolArgs& args, int64_t s)
        : args(args), start(args.starts[s]), first(args.lengths[s] - (args.starts[s + 1] - start)), width(args.every * (1 + args.overlap)),
          tail(args.tail + args.slots[s] * width * kept()) {}

    int64_t kept() const { return args.channels * (args.gates ? 2 : 1); }
    float* in_tail(int64_t position) const { return tail + position % width * kept(); }
    const float* value(int64_t position) const {
        return position >= first ? args.values + (start + position - first) * args.value_stride : in_tail(position);
    }
    const float* gate(int64_t position) const {
        return position >= first ? args.gates + (start + position - first) * args.gate_stride : in_tail(position) + args.channels;
    }

    // The channels from..to of the entry whose group ends at `last`.
    void pool(int64_t last, int64_t from, int64_t to, float* out) const {
        const int64_t half = args.overlap ? args.channels / 2 : 0;
        // Calls fn(position, the channel at which that position's part begins).
        const auto group = [&](auto fn) {
            for (int64_t p = last - width + 1; p <= last - args.every; ++p)
                if (p >= 0) fn(p, from);
            for (int64_t p = last - args.every + 1; p <= last; ++p) fn(p, half + from);
        };
        over(to - from, [&](auto get, auto put) {
            const auto score = [&](int64_t p, int64_t channel) {
                const F gate_ = args.gates ? get(gate(p) + channel) : set(0);
                return args.bias ? gate_ + get(args.bias + p % args.every * args.channels + channel) : gate_;
            };
            F most = set(-__builtin_inff()), total = set(0), sums = set(0);
            group([&](int64_t p, int64_t channel) { most = max(most, score(p, channel)); });
            group([&](int64_t p, int64_t channel) {
                const F weight = exp(score(p, channel) - most);
                total = total + weight, sums = fma(get(value(p) + channel), weight, sums);
            });
            put(out + from, sums / total);
        });
    }

    // Leaves the latest inputs, channels from..to, in the tail.
    void keep(int64_t end, int64_t from, int64_t to) const {
        for (int64_t p = first > end - width ? first : end - width; p < end; ++p) {
            __builtin_memcpy(in_tail(p) + from, value(p) + from, size_t(4 * (to - from)));
            if (args.gates) __builtin_memcpy(in_tail(p) + args.channels + from, gate(p) + from, size_t(4 * (to - from)));
        }
    }
};

inline void pool(const void* raw, Team& team) {
    const auto& args = *static_cast<const PoolArgs*>(raw);
    constexpr int64_t piece = 64;
    const int64_t channels = args.overlap ? args.channels / 2 : args.channels, pieces = (channels + piece - 1) / piece;
    for (int64_t claimed = team.claim(); claimed < pieces * args.sequences; claimed = team.claim()) {
        const int64_t s = claimed / pieces, from = claimed % pieces * piece, to = from + piece < channels ? from + piece : channels;
        const PoolInputs inputs(args, s);
        const int64_t end = args.lengths[s];
        for (int64_t last = inputs.first / args.every * args.every + args.every - 1; last < end; last += args.every)
            inputs.pool(last, from, to, args.out + (inputs.start + last - inputs.first) * channels);
        inputs.keep(end, from, to);
        if (args.overlap) inputs.keep(end, channels + from, channels + to);
    }
}

inline void windows(const void* raw, Team& team) {
    const auto& args = *static_cast<const WindowsArgs*>(raw);
    const int64_t past = args.width - 1;
    for (int64_t s = team.claim(); s < args.sequences; s = team.claim()) {
        int32_t* history = args.history + args.slots[s] * past;  // tokens + 1, newest first
        const int64_t start = args.starts[s], rows = args.starts[s + 1] - start;
        const auto token = [&](int64_t row) { return row < 0 ? history[-1 - row] : args.tokens[start + row] + 1; };
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t i = 0; i < args.width; ++i) args.out[(start + row) * args.width + i] = int64_t(token(row - i)) - 1;
        // Oldest first: each is read before its place is written.
        for (int64_t i = past; rows && i-- > 0;) history[i] = token(rows - 1 - i);
    }
}

}  // namespace parity::PARITY_ISA
