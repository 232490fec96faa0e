// A mixture's experts in one call: rows are gathered by expert, so that an expert's weights are read once for all of them.
#pragma once

namespace parity::PARITY_ISA {

// (row, place) pairs in the order of experts; pair = row * top_k + place.
struct Grouped {
    int32_t *first, *pairs;  // first [experts + 1]

    Grouped(const ExpertsArgs& args, int32_t* memory) : first(memory), pairs(memory + args.experts + 1) {}

    void fill(const ExpertsArgs& args) const {
        const int64_t count = args.tokens * args.top_k;
        for (int64_t e = 0; e <= args.experts; ++e) first[e] = 0;
        for (int64_t i = 0; i < count; ++i) ++first[known(args, i) + 1];
        for (int64_t e = 0; e < args.experts; ++e) first[e + 1] += first[e];
        for (int64_t i = 0; i < count; ++i) pairs[first[known(args, i)]++] = int32_t(i);
        for (int64_t e = args.experts; e > 0; --e) first[e] = first[e - 1];
        first[0] = 0;
    }
    static int64_t known(const ExpertsArgs& args, int64_t pair) {
        const int64_t expert = args.chosen[pair];
        return expert >= 0 && expert < args.experts ? expert : 0;
    }
};

constexpr int64_t kExpertPanels = 4;  // claimed at a time

// out [pairs, rows] = the rows given by `from` times their experts' matrices; false where there is no memory for it.
template <class From>
bool grouped_linear(const ExpertsArgs& args, Team& team, const Grouped& groups, const void* data, int32_t format, int64_t rows, int64_t columns, From from, float* out) {
    const int64_t chunks = (round_up(rows, kPanelRows) / kPanelRows + kExpertPanels - 1) / kExpertPanels;
    const bool packed = takes_bytes(format) && !args.as_floats;
    int64_t most = 0, current = -1, before = 0, expert = 0;
    for (int64_t e = 0; e < args.experts; ++e)
        if (groups.first[e + 1] - groups.first[e] > most) most = groups.first[e + 1] - groups.first[e];
    size_t unpacked_bytes = packed ? size_t(columns / kBlock) * sizeof(Unpacked) * kTilePanels : 0;
    if (in_float_panels(format)) unpacked_bytes = float_panels_scratch(most);
    else if (!format_info(format).columns) unpacked_bytes = plain_scratch(most);
    else if (args.as_floats) unpacked_bytes = expanded_scratch(most);
    const size_t gathered_bytes = size_t(round_up(4 * most * columns, 64));
    const size_t quantised_bytes = packed ? Activations::bytes(most, columns, kTileTokens) : 0;
    std::byte* local = team.local(unpacked_bytes + gathered_bytes + quantised_bytes);
    if (!local) return false;
    auto* gathered = reinterpret_cast<float*>(local + unpacked_bytes);
    Activations quantised(local + unpacked_bytes + gathered_bytes, 1, packed ? columns : 0, 1);
    for (int64_t claimed = team.claim();; claimed = team.claim()) {
        while (expert < args.experts && claimed - before >= (groups.first[expert + 1] > groups.first[expert] ? chunks : 0))
            before += groups.first[expert + 1] > groups.first[expert] ? chunks : 0, ++expert;
        if (expert == args.experts) return true;
        const int64_t first = groups.first[expert], count = groups.first[expert + 1] - first;
        LinearArgs linear{gathered, columns, count, columns, nullptr, out + first * rows, rows, 1, {}, args.as_floats};
        linear.parts[0] = Part{static_cast<const char*>(data) + expert * matrix_bytes(format, rows, columns), format, int32_t(rows), 0};
        if (expert != current) {
            current = expert;
            for (int64_t i = 0; i < count; ++i) __builtin_memcpy(gathered + i * columns, from(first + i), size_t(4 * columns));
            quantised = Activations(local + unpacked_bytes + gathered_bytes, count, packed ? columns : 0, tile_width(linear));
            for (int64_t i = 0; packed && i < count; ++i) quantised.quantise(gathered + i * columns, i);
        }
        const int64_t start = (claimed - before) * kExpertPanels, panels = round_up(rows, kPanelRows) / kPanelRows;
        const int64_t end = start + kExpertPanels < panels ? start + kExpertPanels : panels;
        for (int64_t panel = start; panel < end;) panel += linear_panels(linear, quantised, panel, end - panel, local);
    }
}

inline size_t experts_scratch(const ExpertsArgs& args) {
    const int64_t pairs = args.tokens * args.top_k;
    return size_t(round_up(4 * (args.experts + 1 + pairs), 64) + 4 * pairs * (3 * args.inner + args.columns) + 256);
}

inline void experts(const void* raw, Team& team) {
    const auto& args = *static_cast<const ExpertsArgs*>(raw);
    const int64_t pairs = args.tokens * args.top_k;
    auto* memory = reinterpret_cast<int32_t*>(team.shared());
    auto* gate_up = reinterpret_cast<float*>(team.shared() + round_up(4 * (args.experts + 1 + pairs), 64));
    float *hidden = gate_up + pairs * 2 * args.inner, *results = hidden + pairs * args.inner;
    const Grouped groups(args, memory);
    if (team.index == 0) groups.fill(args);
    team.barrier();
    const auto input = [&](int64_t i) { return args.x + groups.pairs[i] / args.top_k * args.columns; };
    if (!grouped_linear(args, team, groups, args.gate_up, args.gate_up_format, 2 * args.inner, args.columns, input, gate_up)) return;
    team.barrier();
    share_rows(team, pairs, args.inner, [&](int64_t i) { gate_row(args, gate_up + i * 2 * args.inner, args.inner, hidden + i * args.inner); });
    team.barrier();
    const auto activated = [&](int64_t i) { return hidden + i * args.inner; };
    if (!grouped_linear(args, team, groups, args.down, args.down_format, args.columns, args.inner, activated, results)) return;
    team.barrier();
    // Where the result of each pair is: its place among the pairs sorted by expert.
    auto* places = reinterpret_cast<int32_t*>(gate_up);
    if (team.index == 0)
        for (int64_t i = 0; i < pairs; ++i) places[groups.pairs[i]] = int32_t(i);
    team.barrier();
    share_rows(team, args.tokens, args.columns * args.top_k, [&](int64_t t) {
        float* out = args.out + t * args.columns;
        over(args.columns, [&](auto get, auto put) {
            F total = set(0);
            for (int64_t k = 0; k < args.top_k; ++k)
                total = fma(get(results + places[t * args.top_k + k] * args.columns), set(args.weights[t * args.top_k + k]), total);
            put(out, total);
        });
    });
}

}  // namespace parity::PARITY_ISA
