// activation(gate x, up x) for two matrices of as many rows: the products of some rows of both are joined before the next are
// computed, so that they are never written out whole.
#pragma once

namespace parity::PARITY_ISA {

// `rows` rows of one of the matrices from `panel` on, as a weight of its own.
inline LinearArgs part_from(const LinearArgs& both, int64_t index, int64_t panel, int64_t rows, float* out, int64_t out_stride) {
    const Part& part = both.parts[index];
    const int64_t first = panel * kPanelRows;
    LinearArgs one = both;
    one.num_parts = 1;
    one.parts[0] = Part{static_cast<const char*>(part.data) + matrix_bytes(part.format, first, both.columns), part.format, int32_t(rows), 0};
    one.bias = both.bias ? both.bias + part.first + first : nullptr;
    one.out = out, one.out_stride = out_stride;
    return one;
}

// `count` panels of each matrix, through the memory of `results`: [tokens, 2, rows].
inline void gate_panels(const GatedLinearArgs& args, const Activations& a, int64_t panel, int64_t count, std::byte* scratch, float* results) {
    const LinearArgs& both = args.both;
    const int64_t first = panel * kPanelRows, left = both.parts[0].rows - first, rows = left < count * kPanelRows ? left : count * kPanelRows;
    for (int64_t i = 0; i < 2; ++i) {
        const LinearArgs one = part_from(both, i, panel, rows, results + i * rows, 2 * rows);
        for (int64_t at = 0; at < count;) at += linear_panels(one, a, at, count - at, scratch);
    }
    for (int64_t t = 0; t < both.tokens; ++t) gate_row(args, results + t * 2 * rows, rows, both.out + t * both.out_stride + first);
}

// The same for a few rows of activations, with results in registers: a thread reads both matrices in turn.
template <class C, int kTokens> void gate_direct(const GatedLinearArgs& args, const Activations& a, int64_t panel, int64_t count) {
    static_assert(kStreams == 2);
    const LinearArgs& both = args.both;
    const int64_t first = panel * kPanelRows, left = both.parts[0].rows - first, bytes = a.blocks / (C::columns / kBlock) * C::bytes;
    const auto* gates = static_cast<const uint8_t*>(both.parts[0].data) + panel * bytes;
    const auto apart = int64_t(reinterpret_cast<uintptr_t>(both.parts[1].data) - reinterpret_cast<uintptr_t>(both.parts[0].data));
    Target sides[2];
    for (int i = 0; i < 2; ++i) sides[i] = Target{nullptr, both.bias ? both.bias + both.parts[i].first + first : nullptr, 0, left};
    const Target to{both.out + first, nullptr, both.out_stride, left};
    for (int64_t p = 0; p < count; ++p) {
        F totals[2][kTokens];
        streams_direct<C, kTokens, 2>(gates + p * bytes, apart, a, totals);
        for (int t = 0; t < kTokens; ++t) totals[0][t] = activated(args, sides[0].biased(p, totals[0][t]), sides[1].biased(p, totals[1][t]));
        to.put(p, 0, totals[0], kTokens);
    }
}

inline void gated_linear(const void* raw, Team& team) {
    const auto& args = *static_cast<const GatedLinearArgs*>(raw);
    const LinearArgs& both = args.both;
    if (both.tokens == 0) return;
    const Part &gate = both.parts[0], &up = both.parts[1];
    const int64_t panels = round_up(gate.rows, kPanelRows) / kPanelRows;
    const bool few = tile_width(both) == 1, direct = few && gate.format == up.format && takes_bytes(gate.format) && !both.as_floats;
    const int64_t chunk = claimed_panels(both, panels, team, few ? 1 : kTilePanels), step = few ? chunk : kTilePanels;
    const size_t scratch = size_t(round_up(int64_t(panel_scratch(both)), 64)), results = direct ? 0 : size_t(4 * both.tokens * 2 * kPanelRows * step);
    std::byte* local = team.local(scratch + results + own_bytes(both));
    if (!local) return;
    const Activations a = in_bytes(both, team, local + scratch + results);
    for (int64_t start = team.claim() * chunk; start < panels; start = team.claim() * chunk) {
        const int64_t end = start + chunk < panels ? start + chunk : panels;
        if (direct) {
            with_codec(gate.format, [&]<class C>(C) {
                with_count<kDirectTokens>(both.tokens, [&]<int kTokens>() { gate_direct<C, kTokens>(args, a, start, end - start); });
            });
            continue;
        }
        for (int64_t panel = start; panel < end; panel += step)
            gate_panels(args, a, panel, end - panel < step ? end - panel : step, local, reinterpret_cast<float*>(local + scratch));
    }
}

}  // namespace parity::PARITY_ISA
