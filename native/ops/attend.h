// Softmax attention over pages. Entries are taken in tiles that start at fixed positions, each tile the same way, so that a
// row's result does not depend on the rows computed with it.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t kEntries = 64;   // of a tile
constexpr int64_t kQueries = 32;   // about as many (row, head) pairs share a tile's keys
constexpr int kQueryRows = kTilePanels > 1 ? 4 : 6;  // of a tile of products

// Vectors of a row in that tile: with few rows more of them, so that sums do not wait for each other.
template <int kRows> constexpr int kWide = kTilePanels > 1 || kRows == 1 ? 4 : kRows == 2 ? 2 : 1;

// Calls fn<rows>(first) over all queries, in tiles of as many as are left.
template <int kRows = kQueryRows, class Fn> void tiles_of(int64_t queries, Fn fn, int64_t first = 0) {
    for (; first + kRows <= queries; first += kRows) fn.template operator()<kRows>(first);
    if constexpr (kRows > 1) tiles_of<(kRows > 2 ? kRows - 2 : 1)>(queries, fn, first);
}

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

// scores [kRows, 64] = q [kRows, dim] . keys [dim, 64], or added to what is there, for the first `count` keys at least
template <int kRows> void score_rows(const float* const* q, const float* keys, int64_t count, int64_t dim, float* scores, bool more) {
    constexpr int wide = kWide<kRows>;
    for (int at = 0; 16 * at < count; at += wide) {
        F totals[kRows][wide];
        for (int r = 0; r < kRows; ++r)
            for (int i = 0; i < wide; ++i) totals[r][i] = more ? load(scores + r * kEntries + 16 * (at + i)) : set(0);
        for (int64_t d = 0; d < dim; ++d) {
            F columns[wide];
#pragma GCC unroll 4
            for (int i = 0; i < wide; ++i) columns[i] = load(keys + d * kEntries + 16 * (at + i));
#pragma GCC unroll 6
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
#pragma GCC unroll 6
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
    constexpr int wide = kWide<kRows>;
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

// A row's entries are summed in segments that start at fixed places, and the segments' sums joined in order: threads may
// share the segments of a row without a bit of its result depending on it.
constexpr int64_t kSegment = 512;

// A block's memory, for one segment and for what came before it.
struct AttendMemory {
    int64_t width;
    float *keys, *scores, *sums, *total_sums, *key_rows, *value_rows;
    Softmax *softmax, *total;
    const float **q, **q2;

    static int64_t queries(const Cut& cut) { return cut.rows * cut.heads + kQueryRows; }
    static size_t bytes(const AttendArgs& args, const Cut& cut) {
        const int64_t count = queries(cut), width = round_up(args.v_dim, 16);
        int64_t floats = (args.k_dim + args.k2_dim) * kEntries + count * (kEntries + 2 * width);
        if (args.page_type != kPageFloat) floats += kEntries * (args.k_dim + args.k2_dim + args.v_dim);
        return size_t(4 * floats + (count + 8) * int64_t(2 * sizeof(Softmax) + 2 * sizeof(float*)) + 256);
    }
    AttendMemory(const AttendArgs& args, const Cut& cut, std::byte* memory) : width(round_up(args.v_dim, 16)) {
        const int64_t count = queries(cut);
        keys = reinterpret_cast<float*>(memory), scores = keys + (args.k_dim + args.k2_dim) * kEntries;
        sums = scores + count * kEntries, total_sums = sums + count * width;
        key_rows = total_sums + count * width;
        value_rows = key_rows + (args.page_type == kPageFloat ? 0 : kEntries * (args.k_dim + args.k2_dim));
        softmax = reinterpret_cast<Softmax*>(value_rows + (args.page_type == kPageFloat ? 0 : kEntries * args.v_dim));
        total = softmax + round_up(count, 8);
        q = reinterpret_cast<const float**>(total + round_up(count, 8)), q2 = q + count;
    }
};

// Rows in pages: row `row` of entry e is the (e * rows_per_entry + row)-th; entry ~e is the e-th among the pooled.
struct PageRows {
    int32_t type;
    const void *pages, *pooled;
    int64_t rows_per_entry, row, dim;
};

// The rows of up to 64 entries as float32: where they lie, or read into `memory`.
inline void find_rows(const PageRows& from, const int64_t* entries, int64_t count, float* memory, const float** rows) {
    const auto *bytes = static_cast<const uint8_t*>(from.pages), *pooled = static_cast<const uint8_t*>(from.pooled);
    const int64_t size = row_bytes(from.type, from.dim), dim = from.dim;
    const int32_t type = from.type;
    for (int64_t e = 0; e < count; ++e) {
        const uint8_t* at = entries[e] < 0 ? pooled + ~entries[e] * size : bytes + (entries[e] * from.rows_per_entry + from.row) * size;
        if (type == kPageFloat) {
            for (int64_t line = 0; line < size; line += 64) prefetch(at + line);
            rows[e] = reinterpret_cast<const float*>(at);
            continue;
        }
        read_row(type, at, dim, memory + e * dim);
        rows[e] = memory + e * dim;
    }
}

// The softmax and the sums of a segment's entries, into `memory`.
inline void attend_segment(const AttendArgs& args, const Block& block, int64_t segment, const AttendMemory& memory) {
    const Places& places = args.places;
    const int64_t queries = block.rows * block.heads, width = memory.width;
    for (int64_t m = 0; m < queries; ++m) {
        memory.softmax[m] = Softmax{-__builtin_inff(), 0.0f};
        for (int64_t c = 0; c < width; c += 16) store(memory.sums + m * width + c, set(0));
    }
    const int64_t first = places.positions[block.row], last = places.positions[block.row + block.rows - 1];
    const bool all = args.seen == kAll;
    const int64_t oldest = all && args.window && first - args.window + 1 > 0 ? first - args.window + 1 : 0;
    int64_t start = segment * kSegment, end = all ? last : list_size(args, last) - 1;
    if (end >= start + kSegment) end = start + kSegment - 1;
    if (oldest > start) start = oldest / kEntries * kEntries;
    for (; start <= end; start += kEntries) {
        int64_t entries[kEntries];
        const float *keys[kEntries], *keys2[kEntries], *values[kEntries];
        const int64_t count = find_entries(args, block, start, oldest, last, end, entries);
        if (count == 0) continue;
        const auto rows = [&](const void* pages, int64_t dim) { return PageRows{args.page_type, pages, args.pooled, args.kv_heads, block.head, dim}; };
        find_rows(rows(args.k_pages, args.k_dim), entries, count, memory.key_rows, keys);
        if (args.k2_dim) find_rows({args.page_type, args.k2_pages, nullptr, 1, 0, args.k2_dim}, entries, count, memory.key_rows + kEntries * args.k_dim, keys2);
        const bool same = args.v_pages == args.k_pages;
        if (!same) find_rows(rows(args.v_pages, args.v_dim), entries, count, memory.value_rows, values);
        const float* const* found = same ? keys : values;
        const auto value = [&](int64_t e) { return found[e]; };
        transpose_keys([&](int64_t e) { return keys[e]; }, count, args.k_dim, memory.keys);
        if (args.k2_dim) transpose_keys([&](int64_t e) { return keys2[e]; }, count, args.k2_dim, memory.keys + args.k_dim * kEntries);
        const auto score = [&]<int kRows>(int64_t m) {
            score_rows<kRows>(memory.q + m, memory.keys, count, args.k_dim, memory.scores + m * kEntries, false);
            if (args.k2_dim) score_rows<kRows>(memory.q2 + m, memory.keys + args.k_dim * kEntries, count, args.k2_dim, memory.scores + m * kEntries, true);
        };
        tiles_of(queries, score);
        for (int64_t m = 0; m < queries; ++m) {
            int64_t from = 0, to = count;
            if (all) {
                const int64_t position = places.positions[block.row + m / block.heads];
                if (args.window && position - args.window + 1 > start) from = position - args.window + 1 - start;
                if (position + 1 - start < to) to = position + 1 - start;
            }
            const float factor = memory.softmax[m].take(memory.scores + m * kEntries, from, to, args.scale);
            float* sums = memory.sums + m * width;
            if (factor != 1.0f)
                for (int64_t c = 0; c < width; c += 16) store(sums + c, load(sums + c) * set(factor));
        }
        tiles_of(queries, [&]<int kRows>(int64_t m) {
            add_all_values<kRows>(memory.scores + m * kEntries, value, count, memory.sums + m * width, width, args.v_dim);
        });
    }
}

// What a query's softmax starts from: its head's sink, or nothing.
inline Softmax start_of(const AttendArgs& args, int64_t head) {
    return args.sinks ? Softmax{args.sinks[head], 1.0f} : Softmax{-__builtin_inff(), 0.0f};
}

// Adds a later segment's softmax and sums to those of the entries before it.
inline void join(const Softmax& later, const float* later_sums, int64_t width, Softmax& total, float* sums) {
    if (later.total == 0) return;
    const float most = later.most > total.most ? later.most : total.most;
    alignas(64) float factors[16];
    store(factors, exp(set(total.most - most)));
    const float before = total.total == 0 ? 0.0f : factors[0];
    store(factors, exp(set(later.most - most)));
    const float after = factors[0];
    total = Softmax{most, total.total * before + later.total * after};
    for (int64_t c = 0; c < width; c += 16) store(sums + c, fma(load(sums + c), set(before), load(later_sums + c) * set(after)));
}

inline void put_sums(const AttendArgs& args, int64_t row, int64_t head, const Softmax& total, const float* sums) {
    float* out = args.out + (row * args.heads + head) * args.v_dim;
    const F inverse = set(1.0f / total.total);
    over(args.v_dim, [&](auto get, auto put) { put(out, get(sums) * inverse); });
}

inline void find_queries(const AttendArgs& args, const Block& block, const AttendMemory& memory) {
    for (int64_t m = 0; m < block.rows * block.heads; ++m) {
        const int64_t row = block.row + m / block.heads, head = block.first + m % block.heads;
        memory.q[m] = args.q + row * args.q_stride + head * args.q_head_stride;
        if (args.k2_dim) memory.q2[m] = args.q2 + row * args.q2_stride + head * args.q2_head_stride;
    }
}

// The segments in which a block has entries.
struct Segments {
    int64_t first, end;

    Segments(const AttendArgs& args, const Block& block) {
        const int32_t* positions = args.places.positions;
        const int64_t oldest = positions[block.row] - args.window + 1, last = positions[block.row + block.rows - 1];
        const bool all = args.seen == kAll;
        first = all && args.window && oldest > 0 ? oldest / kSegment : 0;
        end = ((all ? last + 1 : list_size(args, last)) + kSegment - 1) / kSegment;
    }
};

inline void attend_block(const AttendArgs& args, const Block& block, const AttendMemory& memory) {
    const int64_t queries = block.rows * block.heads, width = memory.width;
    find_queries(args, block, memory);
    for (int64_t m = 0; m < queries; ++m) {
        memory.total[m] = start_of(args, block.first + m % block.heads);
        for (int64_t c = 0; c < width; c += 16) store(memory.total_sums + m * width + c, set(0));
    }
    const Segments segments(args, block);
    for (int64_t segment = segments.first; segment < segments.end; ++segment) {
        attend_segment(args, block, segment, memory);
        for (int64_t m = 0; m < queries; ++m)
            join(memory.softmax[m], memory.sums + m * width, width, memory.total[m], memory.total_sums + m * width);
    }
    for (int64_t m = 0; m < queries; ++m)
        put_sums(args, block.row + m / block.heads, block.first + m % block.heads, memory.total[m], memory.total_sums + m * width);
}

// The sums of segments that threads share: [rows, heads, segments], each with its softmax behind it.
struct Shared {
    int64_t width;
    std::byte* memory;

    Shared(const AttendArgs& args, std::byte* memory) : width(round_up(args.v_dim, 16)), memory(memory) {}
    static size_t bytes(const AttendArgs& args) {
        const int64_t count = args.places.num_tokens * args.heads * args.segments;
        return size_t(count) * (size_t(4 * round_up(args.v_dim, 16)) + 16);
    }
    float* sums(const AttendArgs& args, int64_t row, int64_t head, int64_t segment) const {
        return reinterpret_cast<float*>(memory + ((row * args.heads + head) * args.segments + segment) * (4 * width + 16));
    }
    Softmax* softmax(float* sums) const { return reinterpret_cast<Softmax*>(sums + width); }
};

// The segment of that number among those of all blocks, or false past the last.
inline bool find_segment(const AttendArgs& args, const Cut& cut, int64_t number, Block& block, int64_t& segment) {
    for (int64_t b = 0; find_block(args, cut, b, block); ++b) {
        const Segments segments(args, block);
        segment = segments.first + number;
        if (segment < segments.end) return true;
        number -= segments.end - segments.first;
    }
    return false;
}

// Whether a block has more than one.
inline bool any_to_share(const AttendArgs& args, const Cut& cut) {
    Block block;
    for (int64_t b = 0; args.segments && find_block(args, cut, b, block); ++b) {
        const Segments segments(args, block);
        if (segments.end - segments.first > 1) return true;
    }
    return false;
}

// Threads take segments of blocks, then join those of each query.
inline void attend_shared(const AttendArgs& args, const Cut& cut, const AttendMemory& memory, Team& team) {
    const Shared shared(args, team.shared());
    Block block;
    int64_t segment = 0;
    while (find_segment(args, cut, team.claim(), block, segment)) {
        find_queries(args, block, memory);
        attend_segment(args, block, segment, memory);
        for (int64_t m = 0; m < block.rows * block.heads; ++m) {
            float* sums = shared.sums(args, block.row + m / block.heads, block.first + m % block.heads, segment);
            *shared.softmax(sums) = memory.softmax[m];
            __builtin_memcpy(sums, memory.sums + m * memory.width, size_t(4 * memory.width));
        }
    }
    team.barrier();
    while (find_block(args, cut, team.claim(), block)) {
        const Segments segments(args, block);
        for (int64_t m = 0; m < block.rows * block.heads; ++m) {
            const int64_t row = block.row + m / block.heads, head = block.first + m % block.heads;
            Softmax total = start_of(args, head);
            for (int64_t c = 0; c < memory.width; c += 16) store(memory.total_sums + c, set(0));
            for (int64_t segment = segments.first; segment < segments.end; ++segment) {
                float* sums = shared.sums(args, row, head, segment);
                join(*shared.softmax(sums), sums, memory.width, total, memory.total_sums);
            }
            put_sums(args, row, head, total, memory.total_sums);
        }
    }
}

inline size_t attend_scratch(AttendArgs& args, int threads) {
    const Cut cut(args);
    const int64_t longest = args.seen == kAll ? args.places.max_pages * args.places.page_size : list_size(args, args.places.max_pages * args.places.page_size);
    const int64_t segments = (longest + kSegment - 1) / kSegment, blocks = args.places.num_tokens * args.kv_heads * cut.groups;
    // With work for all threads in whole blocks, sharing only costs.
    const bool few = threads > 1 && segments > 1 && blocks < 8 * threads;
    args.segments = few ? int32_t(segments) : 0;
    return few ? Shared::bytes(args) : 0;
}

inline void attend(const void* raw, Team& team) {
    const auto& args = *static_cast<const AttendArgs*>(raw);
    const Cut cut(args);
    const AttendMemory memory(args, cut, team.local(AttendMemory::bytes(args, cut)));
    if (any_to_share(args, cut)) return attend_shared(args, cut, memory, team);
    Block block;
    while (find_block(args, cut, team.claim(), block)) attend_block(args, block, memory);
}

}  // namespace parity::PARITY_ISA
