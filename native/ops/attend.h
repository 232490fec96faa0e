// Softmax attention over pages. Entries are taken in tiles that start at fixed positions, each tile the same way, so that a
// row's result does not depend on the rows computed with it.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t kEntries = 64;   // of a tile
constexpr int64_t kQueries = 32;   // about as many (row, head) pairs share a tile's keys
constexpr int kQueryRows = kTilePanels > 1 ? 4 : 2;

// keys [count, dim], each `row(e)`, to columns [dim, 64].
template <class Row> void transpose_keys(Row row, int64_t count, int64_t dim, float* to) {
    int64_t d = 0;
    for (; d + 16 <= dim; d += 16)
        for (int64_t e = 0; e < count; e += 16) {
            const float* rows[16];
            for (int i = 0; i < 16; ++i) rows[i] = row(e + i < count ? e + i : count - 1) + d;
            transpose(rows, to + d * kEntries + e, kEntries);
        }
    for (; d < dim; ++d)
        for (int64_t e = 0; e < count; ++e) to[d * kEntries + e] = row(e)[d];
}

// scores [kRows, 64] = q [kRows, dim] . keys [dim, 64], or added to what is there
template <int kRows> void score_rows(const float* const* q, const float* keys, int64_t dim, float* scores, bool more) {
    constexpr int wide = kTilePanels > 1 ? 4 : 2;
    for (int at = 0; at < 4; at += wide) {
        F totals[kRows][wide];
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < wide; ++i) totals[r][i] = more ? load(scores + r * kEntries + 16 * (at + i)) : set(0);
        for (int64_t d = 0; d < dim; ++d) {
            F columns[wide];
#pragma GCC unroll 4
            for (int i = 0; i < wide; ++i) columns[i] = load(keys + d * kEntries + 16 * (at + i));
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
                const F x = set(q[r][d]);
#pragma GCC unroll 4
                for (int i = 0; i < wide; ++i) totals[r][i] = fma(x, columns[i], totals[r][i]);
            }
        }
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < wide; ++i) store(scores + r * kEntries + 16 * (at + i), totals[r][i]);
    }
}

// sums [kRows, wide F at column c] += weights [kRows, 64] . values [count, ...]
template <int kRows, int kWide, class Row>
void add_values(const float* weights, Row row, int64_t count, float* sums, int64_t stride, int64_t c) {
    F totals[kRows][kWide];
    for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < kWide; ++i) totals[r][i] = load(sums + r * stride + c + 16 * i);
    for (int64_t e = 0; e < count; ++e) {
        const float* values = row(e) + c;
        F columns[kWide];
#pragma GCC unroll 4
        for (int i = 0; i < kWide; ++i) columns[i] = load(values + 16 * i);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            const F x = set(weights[r * kEntries + e]);
#pragma GCC unroll 4
            for (int i = 0; i < kWide; ++i) totals[r][i] = fma(x, columns[i], totals[r][i]);
        }
    }
    for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < kWide; ++i) store(sums + r * stride + c + 16 * i, totals[r][i]);
}

template <int kRows, class Row>
void add_all_values(const float* weights, Row row, int64_t count, float* sums, int64_t stride, int64_t width) {
    constexpr int wide = kTilePanels > 1 ? 4 : 2;
    int64_t c = 0;
    for (; c + 16 * wide <= width; c += 16 * wide) add_values<kRows, wide>(weights, row, count, sums, stride, c);
    for (; c + 16 <= width; c += 16) add_values<kRows, 1>(weights, row, count, sums, stride, c);
    for (; c < width; ++c)
        for (int r = 0; r < kRows; ++r)
            for (int64_t e = 0; e < count; ++e)
                sums[r * stride + c] = __builtin_fmaf(weights[r * kEntries + e], row(e)[c], sums[r * stride + c]);
}

// One query's softmax as far as it has come.
struct Softmax {
    float most, total;

    // Turns a tile's scores into weights, 0 outside [from, to); returns what earlier sums are multiplied by.
    float take(float* scores, int64_t from, int64_t to, float scale) {
        if (from >= to) {
            for (int64_t e = 0; e < kEntries; ++e) scores[e] = 0;
            return 1.0f;
        }
        for (int64_t e = 0; e < from; ++e) scores[e] = -__builtin_inff();
        for (int64_t e = to; e < kEntries; ++e) scores[e] = -__builtin_inff();
        F best = set(-__builtin_inff());
        for (int64_t e = 0; e < kEntries; e += 16) {
            const F x = load(scores + e) * set(scale);
            store(scores + e, x);
            best = max(best, x);
        }
        const float here = largest(best), before = most;
        if (!(here <= most)) most = here;
        F sums = set(0);
        for (int64_t e = 0; e < kEntries; e += 16) {
            store(scores + e, exp(load(scores + e) - set(most)));
        }
        for (int64_t e = 0; e < from; ++e) scores[e] = 0;
        for (int64_t e = to; e < kEntries; ++e) scores[e] = 0;
        for (int64_t e = 0; e < kEntries; e += 16) sums = sums + load(scores + e);
        float factor = 1.0f;
        if (before != most) {
            alignas(64) float one[16];
            store(one, exp(set(before - most)));
            factor = before == -__builtin_inff() ? 0.0f : one[0];
        }
        total = total * factor + sum(sums);
        return factor;
    }
};

// Some rows of a sequence with some of the query heads of one key head.
struct Block {
    int64_t sequence, row, rows, head, first, heads;  // `head` of the keys; `heads` query heads from `first`
};

// How the work is cut: rows and query heads of a block, blocks of query heads for each key head.
struct Cut {
    int64_t rows, heads, groups;
    explicit Cut(const AttendArgs& args) {
        const int64_t group = args.heads / args.kv_heads;
        heads = group < kQueries ? group : kQueries;
        groups = (group + heads - 1) / heads;
        rows = args.seen == kAll ? kQueries / heads : 1;
    }
};

// The block of that number, or false past the last.
inline bool find_block(const AttendArgs& args, const Cut& cut, int64_t number, Block& out) {
    const Places& places = args.places;
    const int64_t group = args.heads / args.kv_heads, within = number % cut.groups;
    out.head = number / cut.groups % args.kv_heads;
    out.first = out.head * group + within * cut.heads;
    out.heads = group - within * cut.heads < cut.heads ? group - within * cut.heads : cut.heads;
    int64_t index = number / cut.groups / args.kv_heads;
    for (int64_t s = 0; s < places.num_sequences; ++s) {
        const int64_t rows = places.starts[s + 1] - places.starts[s], blocks = (rows + cut.rows - 1) / cut.rows;
        if (index < blocks) {
            index = blocks - 1 - index;  // the last rows first: they have the most to do
            out.sequence = s, out.row = places.starts[s] + index * cut.rows;
            out.rows = rows - index * cut.rows < cut.rows ? rows - index * cut.rows : cut.rows;
            return true;
        }
        index -= blocks;
    }
    return false;
}

constexpr int64_t kNone = INT64_MIN;

// Where an entry stands in pages laid one after the other.
inline int64_t place_in(const int32_t* pages, int64_t page_size, int64_t entry) {
    return int64_t(pages[entry / page_size]) * page_size + entry % page_size;
}

// How many places the list has that a row at `position` attends to.
inline int64_t list_size(const AttendArgs& args, int64_t position) {
    if (args.seen == kChosen) return args.num_selected;
    if (args.seen == kGroups) return int64_t(args.num_selected) * args.every + args.every - 1;
    const int64_t complete = args.pooled ? (position + 1) / args.every : 0;
    return args.window + (args.selected ? args.num_selected : complete);
}

// The i-th of them: its place in the pages, ~ its place among the pooled entries, or none.
inline int64_t list_entry(const AttendArgs& args, const Block& block, int64_t position, int64_t i) {
    const int64_t size = args.places.page_size;
    const int32_t* pages = args.places.pages + block.sequence * args.places.max_pages;
    const auto chosen = [&](int64_t at) { return int64_t(args.selected[block.row * args.num_selected + at]); };
    int64_t token = 0;
    if (args.seen == kChosen) {
        token = chosen(i);
    } else if (args.seen == kGroups) {
        const int64_t whole = int64_t(args.num_selected) * args.every;
        const int64_t group = i < whole ? chosen(i / args.every) : 0;
        token = i >= whole ? (position + 1) / args.every * args.every + i - whole : group < 0 ? -1 : group * args.every + i % args.every;
    } else if (i < args.window) {
        token = position - args.window + 1 + i;
    } else {
        const int64_t entry = args.selected ? chosen(i - args.window) : i - args.window;
        if (entry < 0 || (entry + 1) * args.every > position + 1) return kNone;
        return ~place_in(pages, size / args.every, entry);
    }
    return token < 0 || token > position ? kNone : place_in(pages, size, token);
}

// The places of up to 64 entries, of a row's list or from position `start`; returns how many there are.
inline int64_t find_entries(const AttendArgs& args, const Block& block, int64_t start, int64_t oldest, int64_t last, int64_t end, int64_t* entries) {
    const Places& places = args.places;
    const int32_t* pages = places.pages + block.sequence * places.max_pages;
    int64_t count = 0;
    if (args.seen != kAll) {
        for (int64_t i = start; i <= end && i < start + kEntries; ++i) {
            entries[count] = list_entry(args, block, last, i);
            count += entries[count] != kNone;
        }
        return count;
    }
    for (; start + count <= last && count < kEntries; ++count) {
        const int64_t position = start + count;
        entries[count] = place_in(pages, places.page_size, position < oldest ? oldest : position);  // pages before the window may be gone
    }
    return count;
}

inline void attend_block(const AttendArgs& args, const Block& block, float* memory) {
    const Places& places = args.places;
    const int64_t queries = block.rows * block.heads, width = round_up(args.v_dim, 16);
    float *keys = memory, *scores = keys + (args.k_dim + args.k2_dim) * kEntries, *sums = scores + (queries + kQueryRows) * kEntries;
    auto* softmax = reinterpret_cast<Softmax*>(sums + (queries + kQueryRows) * width);
    auto** q = reinterpret_cast<const float**>(softmax + round_up(queries, 8));
    const float** q2 = q + queries;
    for (int64_t m = 0; m < queries; ++m) {
        const int64_t row = block.row + m / block.heads, head = block.first + m % block.heads;
        q[m] = args.q + row * args.q_stride + head * args.q_head_stride;
        if (args.k2_dim) q2[m] = args.q2 + row * args.q2_stride + head * args.q2_head_stride;
        softmax[m] = args.sinks ? Softmax{args.sinks[head], 1.0f} : Softmax{-__builtin_inff(), 0.0f};
        for (int64_t c = 0; c < width; ++c) sums[m * width + c] = 0;
    }
    const int64_t first = places.positions[block.row], last = places.positions[block.row + block.rows - 1];
    const bool all = args.seen == kAll;
    const int64_t oldest = all && args.window && first - args.window + 1 > 0 ? first - args.window + 1 : 0;
    const int64_t end = all ? last : list_size(args, last) - 1;
    for (int64_t start = oldest / kEntries * kEntries; start <= end; start += kEntries) {
        int64_t entries[kEntries];
        const int64_t count = find_entries(args, block, start, oldest, last, end, entries);
        if (count == 0) continue;
        const auto row = [&](const float* pages, int64_t e, int64_t width) {
            return entries[e] < 0 ? args.pooled + ~entries[e] * width : pages + (entries[e] * args.kv_heads + block.head) * width;
        };
        const auto key = [&](int64_t e) { return row(args.k_pages, e, args.k_dim); };
        const auto key2 = [&](int64_t e) { return args.k2_pages + entries[e] * args.k2_dim; };
        const auto value = [&](int64_t e) { return row(args.v_pages, e, args.v_dim); };
        transpose_keys(key, count, args.k_dim, keys);
        if (args.k2_dim) transpose_keys(key2, count, args.k2_dim, keys + args.k_dim * kEntries);
        const auto score = [&]<int kRows>(int64_t m) {
            score_rows<kRows>(q + m, keys, args.k_dim, scores + m * kEntries, false);
            if (args.k2_dim) score_rows<kRows>(q2 + m, keys + args.k_dim * kEntries, args.k2_dim, scores + m * kEntries, true);
        };
        int64_t m = 0;
        for (; m + kQueryRows <= queries; m += kQueryRows) score.template operator()<kQueryRows>(m);
        for (; m < queries; ++m) score.template operator()<1>(m);
        for (m = 0; m < queries; ++m) {
            int64_t from = 0, to = count;
            if (all) {
                const int64_t position = places.positions[block.row + m / block.heads];
                if (args.window && position - args.window + 1 > start) from = position - args.window + 1 - start;
                if (position + 1 - start < to) to = position + 1 - start;
            }
            const float factor = softmax[m].take(scores + m * kEntries, from, to, args.scale);
            if (factor != 1.0f)
                for (int64_t c = 0; c < width; c += 16) store(sums + m * width + c, load(sums + m * width + c) * set(factor));
        }
        for (m = 0; m + kQueryRows <= queries; m += kQueryRows)
            add_all_values<kQueryRows>(scores + m * kEntries, value, count, sums + m * width, width, args.v_dim);
        for (; m < queries; ++m) add_all_values<1>(scores + m * kEntries, value, count, sums + m * width, width, args.v_dim);
    }
    for (int64_t m = 0; m < queries; ++m) {
        float* out = args.out + ((block.row + m / block.heads) * args.heads + block.first + m % block.heads) * args.v_dim;
        const float inverse = 1.0f / softmax[m].total;
        for (int64_t c = 0; c < args.v_dim; ++c) out[c] = sums[m * width + c] * inverse;
    }
}

inline size_t attend_scratch(const AttendArgs& args) {
    const Cut cut(args);
    const int64_t queries = cut.rows * cut.heads + kQueryRows;
    const int64_t floats = (args.k_dim + args.k2_dim) * kEntries + queries * (kEntries + round_up(args.v_dim, 16));
    return size_t(4 * floats + (queries + 8) * int64_t(sizeof(Softmax) + 2 * sizeof(float*)) + 256);
}

inline void attend(const void* raw, Team& team) {
    const auto& args = *static_cast<const AttendArgs*>(raw);
    auto* memory = reinterpret_cast<float*>(team.local(attend_scratch(args)));
    const Cut cut(args);
    Block block;
    while (find_block(args, cut, team.claim(), block)) attend_block(args, block, memory);
}

}  // namespace parity::PARITY_ISA
