// Softmax attention over pages. Entries are taken in tiles that start at fixed positions, each tile the same way, so that a
// row's result does not depend on the rows computed with it.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t kCopied = 16;  // queries from which on a tile's values are worth a copy that lies as it is read

// A thread's memory: for one segment of a block and for what came before it.
struct AttendMemory {
    int64_t dim, width;
    float *q, *keys, *scores, *sums, *total_sums, *rows, *rows2, *value_panels;
    Softmax *softmax, *total;

    // Lays the arrays out from `memory` on; `bytes` is where they end.
    AttendMemory(const AttendArgs& args, const Cut& cut, std::byte* memory) : dim(args.k_dim + args.k2_dim), width(round_up(args.v_dim, 16)) {
        const int64_t lane = cut.rows * cut.heads, queries = lane * cut.lanes;
        const bool read = args.page_type != kPageFloat;
        auto at = reinterpret_cast<uintptr_t>(memory);
        const auto take = [&](float*& array, int64_t count) { array = reinterpret_cast<float*>(at), at += uintptr_t(4 * round_up(count, 16)); };
        take(keys, dim * 16 * kStrip), take(scores, lane * kEntries);
        take(q, queries * dim), take(sums, queries * width), take(total_sums, queries * width);
        take(rows, !read ? 0 : kEntries * (args.k_dim > args.v_dim ? args.k_dim : args.v_dim)), take(rows2, read ? kEntries * args.k2_dim : 0);
        take(value_panels, lane < kCopied ? 0 : kEntries * width);
        float *first, *second;
        take(first, 2 * queries), take(second, 2 * queries);
        softmax = reinterpret_cast<Softmax*>(first), total = reinterpret_cast<Softmax*>(second);
        bytes = at - reinterpret_cast<uintptr_t>(memory);
    }
    size_t bytes;
};
static_assert(sizeof(Softmax) == 8);

constexpr int64_t kFetchedLines = 256;  // cache lines from what is computed to what is fetched meanwhile

// Fetches rows while those before them are computed, as much at a time as that work takes.
class Fetching {
public:
    // All but the first rows of a tile, which were fetched during the one before it, and the first of the next, if there is one.
    // `cost` is the whole work of the tile, in any unit.
    Fetching(const AttendArgs& args, const Tile& tile, const Tile* next, int64_t cost) {
        add(args, tile, false);
        if (next) add(args, *next, true);
        int64_t lines = 0;
        for (const Run* run = runs_; run < end_; ++run) lines += run->rows * run->lines;
        rate_ = float(lines) / float(cost);
    }

    // Some of the work has been done.
    void spent(int64_t cost) {
        for (due_ += float(cost) * rate_; due_ > 0 && run_ < end_;) {
            if (run_->rows == 0) {
                ++run_;
                continue;
            }
            const uint8_t* row = *run_->at++;
            for (int64_t line = 0; line < run_->lines; ++line) prefetch(row + 64 * line);
            --run_->rows, due_ -= float(run_->lines);
        }
    }

private:
    void add(const AttendArgs& args, const Tile& tile, bool first) {
        const AttendRows rows(args, 0);
        int64_t ahead = kFetchedLines;
        const auto part = [&](const uint8_t* const* at, const PageRows& of) {
            const int64_t lines = (of.bytes() + 63) / 64, most = (ahead + lines - 1) / lines, some = most < tile.count ? most : tile.count;
            ahead -= some * lines;
            if (ahead < 0) ahead = 0;
            *end_++ = first ? Run{at, some, lines} : Run{at + some, tile.count - some, lines};
        };
        part(tile.keys, rows.keys);
        if (args.k2_dim) part(tile.keys2, rows.keys2);
        if (!rows.same) part(tile.values, rows.values);
    }

    struct Run {
        const uint8_t* const* at;
        int64_t rows, lines;  // lines of a row
    } runs_[6], *run_ = runs_, *end_ = runs_;
    float rate_ = 0, due_ = 0;
};

// Scales of the work of a tile, in vectors multiplied: of 16 numbers transposed, and of a query's softmax.
constexpr int64_t kTransposeCost = 5, kSoftmaxCost = 80;

inline int64_t cost_of(const AttendArgs& args, const Tile& tile) {
    const int64_t dim = args.k_dim + args.k2_dim;
    return round_up(tile.count, 16) * dim / 16 * kTransposeCost + tile.block.queries() * ((dim + args.v_dim) * tile.count / 16 + kSoftmaxCost) + 1;
}

// What a query's softmax starts from: its head's sink, or nothing.
inline Softmax start_of(const AttendArgs& args, int64_t head) { return args.sinks ? Softmax{args.sinks[head] / args.scale, 1} : Softmax{}; }

inline float base2_of(const AttendArgs& args) { return args.scale * 1.44269504088896341f; }

inline void clear(float* sums, int64_t width) {
    for (int64_t c = 0; c < width; c += 16) store(sums + c, set(0));
}

inline void begin_block(const AttendArgs& args, const Block& block, const AttendMemory& memory) {
    for (int64_t m = 0; m < block.all_queries(); ++m) {
        const int64_t row = block.row_of(m), head = block.head_of(m);
        float* q = memory.q + m * memory.dim;
        __builtin_memcpy(q, args.q + row * args.q_stride + head * args.q_head_stride, size_t(4 * args.k_dim));
        if (args.k2_dim) __builtin_memcpy(q + args.k_dim, args.q2 + row * args.q2_stride + head * args.q2_head_stride, size_t(4 * args.k2_dim));
        memory.total[m] = start_of(args, head);
        clear(memory.total_sums + m * memory.width, memory.width);
    }
}

inline void begin_segment(const Block& block, const AttendMemory& memory) {
    for (int64_t m = 0; m < block.all_queries(); ++m) memory.softmax[m] = Softmax{};
    clear(memory.sums, block.all_queries() * memory.width);
}

// The scores of a tile's entries for each query. So few keys are arranged at a time that they stay in the nearest cache.
template <class Fn> void score_tile(const AttendArgs& args, const Tile& tile, const AttendMemory& memory, Fn spent) {
    const AttendRows from(args, tile.block.head + tile.lane);
    const float* q = memory.q + tile.lane * tile.block.queries() * memory.dim;
    for (int64_t first = 0; first < tile.count; first += 16 * kStrip) {
        const int64_t count = tile.count - first < 16 * kStrip ? tile.count - first : 16 * kStrip;
        const auto arrange = [&](const PageRows& part, const uint8_t* const* at, float* memory_of, int64_t column) {
            const float* rows[16 * kStrip];
            part.read(at + first, count, memory_of + first * part.dim, rows);
            for (int64_t e = 0; e < count; e += 16) {
                transpose_panel(rows + e, count - e < 16 ? count - e : 16, part.dim, memory.keys + e * memory.dim + 16 * column);
                spent(part.dim * kTransposeCost);
            }
        };
        arrange(from.keys, tile.keys, memory.rows, 0);
        if (args.k2_dim) arrange(from.keys2, tile.keys2, memory.rows2, args.k_dim);
        tiles_of(tile.block.queries(), [&]<int kRows>(int64_t m) {
            score_rows<kRows>(q + m * memory.dim, memory.dim, memory.keys, count, memory.dim, memory.scores + m * kEntries + first, spent);
        });
    }
}

// The weights of a tile's entries for each query; sums so far are scaled to them.
inline void weigh(const AttendArgs& args, const Tile& tile, const AttendMemory& memory, Fetching& fetching) {
    const Block& block = tile.block;
    const int64_t first = tile.lane * block.queries();
    for (int64_t m = 0; m < block.queries(); ++m) {
        int64_t from = 0, to = tile.count;
        if (args.seen == kAll) {
            const int64_t position = args.places.positions[block.row_of(m)];
            if (args.window && position - args.window + 1 > tile.start) from = position - args.window + 1 - tile.start;
            if (position + 1 - tile.start < to) to = position + 1 - tile.start;
        }
        const float factor = memory.softmax[first + m].take(memory.scores + m * kEntries, from, to, base2_of(args));
        float* sums = memory.sums + (first + m) * memory.width;
        if (factor != 1.0f)
            for (int64_t c = 0; c < memory.width; c += 16) store(sums + c, load(sums + c) * set(factor));
        fetching.spent(kSoftmaxCost);
    }
}

// A tile's softmax and sums, added to those of its segment; the rows of `next`, if there is one, are fetched meanwhile.
inline void attend_tile(const AttendArgs& args, const Tile& tile, const Tile* next, const AttendMemory& memory) {
    if (tile.count == 0) return;
    const int64_t count = tile.count, queries = tile.block.queries(), width = memory.width;
    const AttendRows from(args, tile.block.head + tile.lane);
    Fetching fetching(args, tile, next, cost_of(args, tile));
    const auto spent = [&](int64_t cost) { fetching.spent(cost); };

    score_tile(args, tile, memory, spent);
    weigh(args, tile, memory, fetching);
    const float* values[kEntries];
    if (from.same)
        from.keys.name(tile.keys, count, memory.rows, values);
    else
        from.values.read(tile.values, count, memory.rows, values);
    float* sums = memory.sums + tile.lane * queries * width;
    if (queries >= kCopied) {
        copy_values(values, count, args.v_dim, memory.value_panels);
        tiles_of(queries, [&]<int kRows>(int64_t m) {
            add_values<kRows>(memory.scores + m * kEntries, ValuePanels{memory.value_panels}, count, sums + m * width, width, 0, width, spent);
        });
    } else {
        for (int64_t c = 0; c < args.v_dim; c += 16 * kStrip)
            tiles_of(queries, [&]<int kRows>(int64_t m) {
                const int64_t end = c + 16 * kStrip < args.v_dim ? c + 16 * kStrip : args.v_dim;
                add_values<kRows>(memory.scores + m * kEntries, ValueRows{values}, count, sums + m * width, width, c, end, spent);
            });
    }
}

inline void put_sums(const AttendArgs& args, int64_t row, int64_t head, const Softmax& total, const float* sums) {
    float* out = args.out + (row * args.heads + head) * args.v_dim;
    const F inverse = set(1.0f / total.total);
    over(args.v_dim, [&](auto get, auto put) { put(out, get(sums) * inverse); });
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

// Calls fn(tile, next) with every tile of a thread and the one after it, or null.
template <class Fn> void each_tile(const AttendArgs& args, const Cut& cut, Team& team, bool shared, Fn fn) {
    Tiles tiles(args, cut, team, shared);
    Tile both[2];
    bool more = tiles.next(both[0]);
    for (int now = 0; more; now = 1 - now) {
        more = tiles.next(both[1 - now]);
        fn(both[now], more ? &both[1 - now] : nullptr);
    }
}

inline void attend_blocks(const AttendArgs& args, const Cut& cut, const AttendMemory& memory, Team& team) {
    each_tile(args, cut, team, false, [&](const Tile& tile, const Tile* next) {
        const Block& block = tile.block;
        const int64_t width = memory.width;
        if (tile.begins()) begin_block(args, block, memory);
        if (tile.first) begin_segment(block, memory);
        attend_tile(args, tile, next, memory);
        for (int64_t m = 0; tile.last && m < block.all_queries(); ++m)
            join(memory.softmax[m], memory.sums + m * width, width, base2_of(args), memory.total[m], memory.total_sums + m * width);
        for (int64_t m = 0; tile.ends() && m < block.all_queries(); ++m)
            put_sums(args, block.row_of(m), block.head_of(m), memory.total[m], memory.total_sums + m * width);
    });
}

// Threads take segments of blocks, then join those of each query.
inline void attend_shared(const AttendArgs& args, const Cut& cut, const AttendMemory& memory, Team& team) {
    const Shared shared(args, team.shared());
    const int64_t width = memory.width;
    each_tile(args, cut, team, true, [&](const Tile& tile, const Tile* next) {
        const Block& block = tile.block;
        if (tile.begins()) begin_block(args, block, memory), begin_segment(block, memory);
        attend_tile(args, tile, next, memory);
        for (int64_t m = 0; tile.last && m < block.all_queries(); ++m) {
            float* sums = shared.sums(args, block.row_of(m), block.head_of(m), tile.segment);
            *shared.softmax(sums) = memory.softmax[m];
            __builtin_memcpy(sums, memory.sums + m * width, size_t(4 * width));
        }
    });
    team.barrier();
    Cut apart = cut;
    apart.lanes = 1;
    Pieces blocks(args, apart, false);
    Block block;
    while (blocks.find(team.claim(), block))
        for (int64_t m = 0; m < block.all_queries(); ++m) {
            const int64_t row = block.row_of(m), head = block.head_of(m);
            Softmax total = start_of(args, head);
            clear(memory.total_sums, width);
            for (int64_t segment = block.segment; segment < block.end_segment; ++segment) {
                float* sums = shared.sums(args, row, head, segment);
                join(*shared.softmax(sums), sums, width, base2_of(args), total, memory.total_sums);
            }
            put_sums(args, row, head, total, memory.total_sums);
        }
}

inline size_t attend_scratch(AttendArgs& args, int threads) {
    const Cut cut(args, threads);
    const int64_t longest = args.seen == kAll ? args.places.max_pages * args.places.page_size : list_size(args, args.places.max_pages * args.places.page_size);
    const int64_t segments = (longest + kSegment - 1) / kSegment, blocks = args.places.num_tokens * args.kv_heads * cut.groups;
    // With work for all threads in whole blocks, sharing only costs.
    const bool few = threads > 1 && segments > 1 && blocks < 8 * threads;
    args.segments = few ? int32_t(segments) : 0;
    return few ? Shared::bytes(args) : 0;
}

inline void attend(const void* raw, Team& team) {
    const auto& args = *static_cast<const AttendArgs*>(raw);
    const Cut cut(args, team.size);
    const size_t bytes = AttendMemory(args, cut, nullptr).bytes;
    std::byte* local = team.local(bytes);
    if (!local) return;
    const AttendMemory memory(args, cut, local);
    const bool shared = args.segments && Pieces(args, cut, true).any_to_share();
    return shared ? attend_shared(args, cut, memory, team) : attend_blocks(args, cut, memory, team);
}

}  // namespace parity::PARITY_ISA
