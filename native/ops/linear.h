// out = x W^T + bias for a weight of several parts, each in its own format; and single rows of such a weight.
#pragma once

namespace parity::PARITY_ISA {

inline bool is_packed(int64_t format) { return format_info(format).columns > 0; }

inline bool any_packed(const LinearArgs& args) {
    for (int64_t i = 0; i < args.num_parts; ++i)
        if (is_packed(args.parts[i].format)) return true;
    return false;
}

// With so few rows each thread makes its own copy of the activations' bytes rather than wait for the others.
constexpr int64_t kOwnCopy = 2;

inline size_t linear_scratch(const LinearArgs& args) { return any_packed(args) ? Activations::bytes(args.tokens, args.columns) : 0; }

// The part that holds the panel, and the panel's place in it.
inline const Part& find_part(const LinearArgs& args, int64_t& panel) {
    const Part* part = args.parts;
    while (panel * kPanelRows >= part->rows) panel -= round_up(part->rows, kPanelRows) / kPanelRows, ++part;
    return *part;
}

inline void linear_panel(const LinearArgs& args, const Activations& a, int64_t panel, std::byte* unpacked) {
    const Part& part = find_part(args, panel);
    const int64_t row = panel * kPanelRows, left = part.rows - row, first = part.first + row;
    const int64_t rows = left < kPanelRows ? left : kPanelRows;
    const float* bias = args.bias ? args.bias + first : nullptr;
    float* out = args.out + first;
    const FormatInfo& info = format_info(part.format);
    if (!info.columns) {
        const auto* data = static_cast<const uint8_t*>(part.data) + row * args.columns * info.bytes;
        if (part.format == kF32) plain_linear(reinterpret_cast<const float*>(data), rows, args, out, bias);
        if (part.format == kF16) plain_linear(reinterpret_cast<const Half*>(data), rows, args, out, bias);
        if (part.format == kBf16) plain_linear(reinterpret_cast<const Bfloat*>(data), rows, args, out, bias);
        return;
    }
    const auto* data = static_cast<const uint8_t*>(part.data) + panel * (args.columns / info.columns * info.panel_bytes);
    with_codec(part.format, [&]<class C>(C) { panel_linear<C>(data, a, args.tokens, unpacked, Target{out, bias, args.out_stride, rows}); });
}

inline void linear(const void* raw, Team& team) {
    const auto& args = *static_cast<const LinearArgs*>(raw);
    int64_t panels = 0, bytes = 0;
    for (int64_t i = 0; i < args.num_parts; ++i) {
        const int64_t here = round_up(args.parts[i].rows, kPanelRows) / kPanelRows;
        const FormatInfo& info = format_info(args.parts[i].format);
        panels += here;
        bytes += here * (info.columns ? args.columns / info.columns * info.panel_bytes : args.columns * info.bytes * kPanelRows);
    }
    const size_t unpacked_bytes = size_t(args.columns / kBlock) * sizeof(Unpacked);
    const bool packed = any_packed(args), own = args.tokens <= kOwnCopy;
    const size_t copy = packed && own ? Activations::bytes(args.tokens, args.columns) : 0;
    std::byte* local = team.local(round_up(int64_t(unpacked_bytes), 64) + copy);
    const Activations a(own ? local + round_up(int64_t(unpacked_bytes), 64) : team.shared(), args.tokens, args.columns);
    if (packed && own) {
        for (int64_t t = 0; t < args.tokens; ++t) a.quantise(args.x + t * args.x_stride, t);
    } else if (packed) {
        for (int64_t t = team.claim(); t < args.tokens; t = team.claim()) a.quantise(args.x + t * args.x_stride, t);
        team.barrier();
    }
    // Pieces of about 64 kB of weights, and at least four for each thread.
    int64_t chunk = (1 << 16) * panels / (bytes + 1) + 1;
    const int64_t most = panels / (4 * team.size) + 1;
    if (chunk > most) chunk = most;
    for (int64_t start = team.claim() * chunk; start < panels; start = team.claim() * chunk)
        for (int64_t panel = start; panel < start + chunk && panel < panels; ++panel) linear_panel(args, a, panel, local);
}

template <class C> void embed_row(const uint8_t* panels, int64_t columns, int64_t row, float* out) {
    const uint8_t* panel = panels + row / kPanelRows * (columns / C::columns * C::bytes);
    const int64_t lane = row % kPanelRows;
    alignas(64) Unpacked block;
    for (int64_t b = 0; b < columns / kBlock; ++b, out += kBlock) {
        B w[8];
        Scales s;
        const uint8_t* at = panel + b / (C::columns / kBlock) * C::bytes;
        const int j = int(b % (C::columns / kBlock));
        C::weights(at, j, w), C::scales(at, j, s);
        for (int i = 0; i < 8; ++i) store_bytes(block.w + 64 * i, w[i]);
        store(block.scale, s.scale);
        if constexpr (C::kind == kMin || C::kind == kSubMin) store(block.low, s.low);
        if constexpr (C::kind == kSub || C::kind == kSubMin)
            for (int i = 0; i < 2; ++i) store_int(block.sub[i], s.sub[i]);
        if constexpr (C::kind == kSubMin)
            for (int i = 0; i < 2; ++i) store_int(block.min[i], s.min[i]);
        for (int c = 0; c < kBlock; ++c) {
            int q = block.w[64 * (c / 4) + 4 * lane + c % 4];
            if constexpr (C::bound == 255) q -= 128;
            else if constexpr (C::log_offset >= 0) q -= 1 << C::log_offset;
            if constexpr (C::kind == kSub || C::kind == kSubMin) q *= block.sub[c / 16][lane];
            float value = block.scale[lane] * float(q);
            if constexpr (C::kind == kMin) value += block.low[lane];
            if constexpr (C::kind == kSubMin) value += block.low[lane] * float(block.min[c / 16][lane]);
            out[c] = value;
        }
    }
}

template <class W> void copy_numbers(const W* from, int64_t n, float* out) {
    int64_t c = 0;
    for (; c + 16 <= n; c += 16) store(out + c, load_number(from + c));
    if (c < n) store_some(out + c, load_last(from + c, n - c), n - c);
}

inline void embed(const void* raw, Team& team) {
    const auto& args = *static_cast<const EmbedArgs*>(raw);
    for (int64_t t = team.claim(); t < args.num_tokens; t = team.claim()) {
        int64_t row = args.tokens[t];
        if (row < 0 || row >= args.rows) row = 0;  // the caller checks ids; this only keeps us inside the memory
        float* out = args.out + t * args.columns;
        const auto* data = static_cast<const uint8_t*>(args.data);
        const FormatInfo& info = format_info(args.format);
        if (!info.columns) {
            data += row * args.columns * info.bytes;
            if (args.format == kF32) copy_numbers(reinterpret_cast<const float*>(data), args.columns, out);
            if (args.format == kF16) copy_numbers(reinterpret_cast<const Half*>(data), args.columns, out);
            if (args.format == kBf16) copy_numbers(reinterpret_cast<const Bfloat*>(data), args.columns, out);
            continue;
        }
        with_codec(args.format, [&]<class C>(C) { embed_row<C>(data, args.columns, row, out); });
    }
}

}  // namespace parity::PARITY_ISA
