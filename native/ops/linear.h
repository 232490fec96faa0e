// out = x W^T + bias for a weight of several parts, each in its own format; and single rows of such a weight.
#pragma once

namespace parity::PARITY_ISA {

// Whether products are of integers, so that activations are rounded to bytes.
inline bool takes_bytes(int64_t format) { return format_info(format).columns > 0 && !in_float_panels(format); }

inline bool any_takes_bytes(const LinearArgs& args) {
    for (int64_t i = 0; i < args.num_parts && !args.as_floats; ++i)
        if (takes_bytes(args.parts[i].format)) return true;
    return false;
}

inline bool any_in_float_panels(const LinearArgs& args) {
    for (int64_t i = 0; i < args.num_parts; ++i)
        if (in_float_panels(args.parts[i].format)) return true;
    return false;
}

inline bool any_plain(const LinearArgs& args) {
    for (int64_t i = 0; i < args.num_parts; ++i)
        if (!format_info(args.parts[i].format).columns) return true;
    return false;
}

// With so few rows each thread makes its own copy of the activations' bytes rather than wait for the others.
constexpr int64_t kOwnCopy = 2;

inline int64_t tile_width(const LinearArgs& args) { return args.tokens > kDirectTokens ? kTileTokens : 1; }

inline size_t linear_scratch(const LinearArgs& args) {
    return any_takes_bytes(args) ? Activations::bytes(args.tokens, args.columns, tile_width(args)) : 0;
}

// The part that holds the panel, and the panel's place in it.
inline const Part& find_part(const LinearArgs& args, int64_t& panel) {
    const Part* part = args.parts;
    while (panel * kPanelRows >= part->rows) panel -= round_up(part->rows, kPanelRows) / kPanelRows, ++part;
    return *part;
}

template <class W> void plain_panel(const Part& part, int64_t row, int64_t rows, const LinearArgs& args, std::byte* scratch) {
    const int64_t first = part.first + row;
    plain_linear(static_cast<const W*>(part.data) + row * args.columns, rows, args, scratch, args.out + first, args.bias ? args.bias + first : nullptr);
}

// Computes one panel, or as many as the kernels take at a time of the `most` that follow; returns how many.
inline int64_t linear_panels(const LinearArgs& args, const Activations& a, int64_t panel, int64_t most, std::byte* unpacked) {
    const Part& part = find_part(args, panel);
    const int64_t row = panel * kPanelRows, left = part.rows - row;
    const FormatInfo& info = format_info(part.format);
    if (!info.columns) {
        const int64_t rows = left < kPanelRows ? left : kPanelRows;
        if (part.format == kF32) plain_panel<float>(part, row, rows, args, unpacked);
        if (part.format == kF16) plain_panel<Half>(part, row, rows, args, unpacked);
        if (part.format == kBf16) plain_panel<Bfloat>(part, row, rows, args, unpacked);
        return 1;
    }
    const auto* data = static_cast<const uint8_t*>(part.data) + panel * (args.columns / info.columns * info.panel_bytes);
    const int64_t first = part.first + row;
    const Target to{args.out + first, args.bias ? args.bias + first : nullptr, args.out_stride, left};
    if (in_float_panels(part.format)) {
        float_panel(part.format, data, args, unpacked, to);
        return 1;
    }
    if (a.width == 1 && !args.as_floats) {
        const int64_t here = round_up(left, kPanelRows) / kPanelRows, count = most < here ? most : here;
        with_codec(part.format, [&]<class C>(C) { few_rows<C>(data, count, a, args.tokens, to); });
        return count;
    }
    const bool several = kTilePanels > 1 && most >= kTilePanels && left > (kTilePanels - 1) * kPanelRows;
    with_codec(part.format, [&]<class C>(C) {
        if (args.as_floats) expanded_panel<C>(data, args, unpacked, to);
        else if (several) panels_linear<C, kTilePanels>(data, a, args.tokens, unpacked, to);
        else panels_linear<C, 1>(data, a, args.tokens, unpacked, to);
    });
    return several && !args.as_floats ? kTilePanels : 1;
}

// Bytes that a thread unpacks panels into.
inline size_t panel_scratch(const LinearArgs& args) {
    size_t most = any_takes_bytes(args) && tile_width(args) > 1 ? size_t(args.columns / kBlock) * sizeof(Unpacked) * kTilePanels : 0;
    const auto take = [&](bool used, size_t bytes) { most = used && most < bytes ? bytes : most; };
    take(any_in_float_panels(args), float_panels_scratch(args.tokens));
    take(args.as_floats, expanded_scratch(args.tokens));
    take(any_plain(args), plain_scratch(args.tokens));
    return most;
}

// Of a thread's own copy of the activations' bytes, where it makes one.
inline size_t own_bytes(const LinearArgs& args) {
    return any_takes_bytes(args) && args.tokens <= kOwnCopy ? Activations::bytes(args.tokens, args.columns, tile_width(args)) : 0;
}

// The activations' bytes if the products want them: made by all threads together, or in memory of each thread's own.
inline Activations in_bytes(const LinearArgs& args, Team& team, std::byte* own) {
    const int64_t width = tile_width(args);
    if (!any_takes_bytes(args)) return Activations(nullptr, 0, 0, width);
    const bool alone = args.tokens <= kOwnCopy;
    const Activations a(alone ? own : team.shared(), args.tokens, args.columns, width);
    if (alone) {
        for (int64_t t = 0; t < args.tokens; ++t) a.quantise(args.x + t * args.x_stride, t);
        return a;
    }
    for (int64_t start = team.claim() * width; start < args.tokens; start = team.claim() * width)
        for (int64_t t = start; t < start + width && t < args.tokens; ++t) a.quantise(args.x + t * args.x_stride, t);
    team.barrier();
    return a;
}

inline int64_t matrix_bytes(int64_t format, int64_t rows, int64_t columns) {
    const FormatInfo& info = format_info(format);
    if (!info.columns) return rows * columns * info.bytes;
    return round_up(rows, kPanelRows) / kPanelRows * (columns / info.columns * info.panel_bytes);
}

// How many of `panels` a thread claims at a time: about 128 kB of weights, and at least four pieces for each thread, or eight
// where each is work for longer.
inline int64_t claimed_panels(const LinearArgs& args, int64_t panels, const Team& team, int64_t unit) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < args.num_parts; ++i) bytes += matrix_bytes(args.parts[i].format, args.parts[i].rows, args.columns);
    const int64_t few = (1 << 17) * panels / (bytes + 1) + 1, most = panels / ((tile_width(args) > 1 ? 8 : 4) * team.size) + 1;
    return round_up(few < most ? few : most, unit);
}

inline void linear(const void* raw, Team& team) {
    const auto& args = *static_cast<const LinearArgs*>(raw);
    if (args.tokens == 0) return;
    int64_t panels = 0;
    for (int64_t i = 0; i < args.num_parts; ++i) panels += round_up(args.parts[i].rows, kPanelRows) / kPanelRows;
    const size_t scratch = panel_scratch(args);
    std::byte* local = team.local(scratch + own_bytes(args));
    if (!local) return;
    const Activations a = in_bytes(args, team, local + scratch);
    const int64_t chunk = claimed_panels(args, panels, team, tile_width(args) > 1 ? kTilePanels : kStreams);
    for (int64_t start = team.claim() * chunk; start < panels; start = team.claim() * chunk) {
        const int64_t end = start + chunk < panels ? start + chunk : panels;
        for (int64_t panel = start; panel < end;) panel += linear_panels(args, a, panel, end - panel, local);
    }
}

template <class C> void embed_row(const uint8_t* panels, int64_t columns, int64_t row, float* out) {
    const uint8_t* panel = panels + row / kPanelRows * (columns / C::columns * C::bytes);
    const int64_t lane = row % kPanelRows;
    alignas(64) Unpacked block;
    for (int64_t b = 0; b < columns / kBlock; ++b, out += kBlock) {
        constexpr int per = C::columns / kBlock;
        unpack_block<C>(panel + b / per * C::bytes, int(b % per), block, store_int);
        for (int c = 0; c < kBlock; ++c) out[c] = expanded<C>(block, c, lane, block.w[64 * (c / 4) + 4 * lane + c % 4]);
    }
}

template <class W> void copy_numbers(const W* from, int64_t n, float* out) {
    int64_t c = 0;
    for (; c + 16 <= n; c += 16) store(out + c, load_number(from + c));
    if (c < n) store_some(out + c, load_last(from + c, n - c), n - c);
}

inline void copy_plain(int64_t format, const uint8_t* from, int64_t n, float* out) {
    if (format == kF32) copy_numbers(reinterpret_cast<const float*>(from), n, out);
    if (format == kF16) copy_numbers(reinterpret_cast<const Half*>(from), n, out);
    if (format == kBf16) copy_numbers(reinterpret_cast<const Bfloat*>(from), n, out);
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
            copy_plain(args.format, data + row * args.columns * info.bytes, args.columns, out);
            continue;
        }
        if (in_float_panels(args.format)) embed_float_row(args.format, data, args.columns, row, out);
        else with_codec(args.format, [&]<class C>(C) { embed_row<C>(data, args.columns, row, out); });
    }
}

}  // namespace parity::PARITY_ISA
