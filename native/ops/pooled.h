// Entries pooled from groups of tokens; and hashed memories: windows of tokens, their rows in a table, and those rows.
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
        const auto token = [&](int64_t row) {
            if (row < 0) return history[-1 - row];
            return (args.ids ? args.ids[args.tokens[start + row]] : args.tokens[start + row]) + 1;
        };
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t i = 0; i < args.width; ++i) args.out[(start + row) * args.width + i] = int64_t(token(row - i)) - 1;
        // Oldest first: each is read before its place is written.
        for (int64_t i = past; rows && i-- > 0;) history[i] = token(rows - 1 - i);
    }
}

inline void hash(const void* raw, Team& team) {
    const auto& args = *static_cast<const HashArgs*>(raw);
    share_rows(team, args.tokens, 8 * args.width * args.heads, [&](int64_t t) {
        const int64_t* window = args.windows + t * args.width;
        int64_t* out = args.out + t * (args.width - 1) * args.heads;
        int64_t mixed = 0;
        bool hidden = false;
        for (int64_t i = 0; i < args.width; ++i) {
            hidden = hidden || window[i] < 0 || (i > 0 && args.stop >= 0 && window[i] == args.stop);
            mixed ^= int64_t(uint64_t(hidden ? args.fill : window[i]) * uint64_t(args.multipliers[i]));  // modulo 2^64
            for (int64_t h = (i - 1) * args.heads; i > 0 && h < i * args.heads; ++h) {
                const int64_t left = mixed % args.primes[h];
                out[h] = (left < 0 ? left + args.primes[h] : left) + args.offsets[h];
            }
        }
    });
}

// Row `row` of a table of packed numbers: it alone becomes a panel, and that is read.
inline void gather_packed(const PackGroupsArgs& table, int64_t row, uint8_t* panel, float* out) {
    if (!table.scale) {
        const FormatInfo& info = format_info(table.format);
        const int64_t row_bytes = table.columns / info.columns * info.bytes;
        return with_block_codec(table.format, [&]<class C>(C) {
            pack_panel<C>(table.data + row * row_bytes, 1, row_bytes, info.bytes, panel);
            embed_row<C>(panel, table.columns, 0, out);
        });
    }
    with_float_codec(table.format, [&]<class C>(C) {
        for (int64_t b = 0; b < table.columns / C::columns; ++b) place_float_group<C>(table, row, b * C::columns, panel + b * C::bytes);
    });
    embed_float_row(table.format, panel, table.columns, row % kPanelRows, out);
}

inline void gather(const void* raw, Team& team) {
    const auto& args = *static_cast<const GatherArgs*>(raw);
    const PackGroupsArgs& table = args.table;
    const FormatInfo& info = format_info(table.format);
    auto* panel = info.columns ? reinterpret_cast<uint8_t*>(team.local(size_t(table.columns / info.columns * info.panel_bytes))) : nullptr;
    if (info.columns && !panel) return;
    share_rows(team, args.count, table.columns, [&](int64_t i) {
        const int64_t row = args.rows[i] - args.first;
        if (row < 0 || row >= table.rows) return;
        float* out = args.out + i * table.columns;
        if (info.columns) return gather_packed(table, row, panel, out);
        copy_plain(table.format, table.data + row * table.columns * info.bytes, table.columns, out);
    });
}

}  // namespace parity::PARITY_ISA
