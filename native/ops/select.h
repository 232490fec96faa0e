// Choosing the entries that a row attends to: a scan that scores them, then the best by their scores' bits, without a sort.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t kSelectRows = 16;  // rows whose scores are held at a time
constexpr int64_t kScanEntries = 4 * kEntries;  // scored by one thread at a time

// Numbers in the order of the floats that they stand for; both zeros must have been made one.
inline uint32_t order_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The indices of the `most` largest numbers above -inf, ascending, of equal ones the first; returns how many.
inline int64_t pick(const float* x, int64_t n, int64_t most, int32_t* out) {
    uint32_t least = 0, known = 0;  // the last one taken, as far as its bits are known
    int64_t equal = n;              // how many like it are taken
    if (most < n) {
        equal = most;
        for (int shift = 24; shift >= 0; shift -= 8) {
            int64_t count[256] = {};
            for (int64_t i = 0; i < n; ++i)
                if ((order_of(x[i]) & known) == least) ++count[order_of(x[i]) >> shift & 255];
            uint32_t digit = 255;
            for (; digit > 0 && count[digit] < equal; --digit) equal -= count[digit];
            least |= digit << shift, known |= 255u << shift;
        }
    }
    int64_t found = 0;
    for (int64_t i = 0; i < n && found < most; ++i) {
        const uint32_t order = order_of(x[i]);
        if (order < least || (order == least && equal-- <= 0) || x[i] == -__builtin_inff()) continue;
        out[found++] = int32_t(i);
    }
    return found;
}

// What one row chooses from.
struct Choice {
    int64_t sequence, visible, count;  // `count` of them, of which those below `visible` may be seen
    const int32_t* blocks;             // ascending, or null for the entries in order

    int64_t entry(int64_t i, int64_t length) const { return blocks ? blocks[i / length] * length + i % length : i; }
};

struct Selecting {
    const SelectArgs& args;
    int64_t most;     // candidates of a row, at most
    float* scores;    // [kSelectRows, most]
    int32_t* blocks;  // [kSelectRows, num_within], ascending

    Selecting(const SelectArgs& args, std::byte* memory)
        : args(args), most(room(args)), scores(reinterpret_cast<float*>(memory)), blocks(reinterpret_cast<int32_t*>(scores + kSelectRows * most)) {}

    static int64_t room(const SelectArgs& args) {
        return args.within ? int64_t(args.num_within) * args.length : args.places.max_pages * args.places.page_size;
    }

    // The row's blocks in order and without repeats; their number stands before them.
    void order_blocks(int64_t row, int64_t slot) const {
        int32_t* mine = blocks + slot * (args.num_within + 1);
        int32_t count = 0;
        for (int64_t i = 0; i < args.num_within; ++i) {
            const int32_t block = args.within[row * args.num_within + i];
            if (block < 0) continue;
            int32_t at = count;  // they usually come in order
            while (at > 0 && mine[at] > block) --at;
            if (at > 0 && mine[at] == block) continue;
            for (int32_t j = count; j > at; --j) mine[j + 1] = mine[j];
            mine[at + 1] = block, ++count;
        }
        mine[0] = count;
    }

    Choice of(int64_t row, int64_t slot) const {
        const int64_t visible = (args.places.positions[row] + 1) / args.every;
        const int64_t sequence = sequence_of(args.places, row);
        if (!args.within) return {sequence, visible, visible, nullptr};
        const int32_t* mine = blocks + slot * (args.num_within + 1);
        return {sequence, visible, int64_t(mine[0]) * args.length, mine + 1};
    }

    // Whether there are no more than are wanted, so that nothing has to be scored.
    bool takes_all(const Choice& from) const {
        return !args.within && (args.blocks ? (from.count + args.length - 1) / args.length : from.count) <= args.top_k;
    }

    // Scores the candidates first .. first + kScanEntries of a row.
    void scan(int64_t row, const Choice& from, int64_t first, float* out, float* memory) const {
        float *keys = memory, *products = keys + args.dim * kEntries, *totals = products + kQueryRows * kEntries, *rows = totals + kEntries;
        const int32_t* pages = args.places.pages + from.sequence * args.places.max_pages;
        for (int64_t start = first; start < from.count && start < first + kScanEntries; start += kEntries) {
            const int64_t count = from.count - start < kEntries ? from.count - start : kEntries;
            int64_t entries[kEntries];
            const float* found[kEntries];
            for (int64_t e = 0; e < count; ++e) {
                const int64_t entry = from.entry(start + e, args.length);
                entries[e] = place_in(pages, args.places.page_size, entry < from.visible ? entry : 0);  // masked below
            }
            const uint8_t* at[kEntries];
            const PageRows pages_of{args.page_type, args.k_pages, nullptr, 1, 0, args.dim};
            pages_of.find(entries, count, at), pages_of.read(at, count, rows, found);
            for (int64_t e = 0; e < count; e += 16) transpose_panel(found + e, count - e < 16 ? count - e : 16, args.dim, keys + e * args.dim);
            for (int64_t e = 0; e < kEntries; ++e) totals[e] = 0;
            const auto add = [&]<int kRows>(int64_t head) {
                score_rows<kRows>(args.q + row * args.q_stride + head * args.q_head_stride, args.q_head_stride, keys, count, args.dim, products, [](int64_t) {});
                for (int r = 0; r < kRows; ++r) {
                    const F weight = set(args.weights ? args.weights[row * args.weight_stride + head + r] : 1.0f);
                    for (int64_t e = 0; e < kEntries; e += 16)
                        store(totals + e, load(totals + e) + max(load(products + r * kEntries + e), set(0)) * weight);
                }
            };
            tiles_of(args.heads, add);
            for (int64_t e = 0; e < count; ++e) {
                const bool seen = from.entry(start + e, args.length) < from.visible;
                out[start + e] = seen ? totals[e] + 0.0f : -__builtin_inff();  // + 0 makes one zero of both
            }
        }
    }

    void choose(int64_t row, const Choice& from, float* score) const {
        int32_t* out = args.out + row * args.top_k;
        int64_t found = 0, count = from.count;
        if (takes_all(from)) {
            for (const int64_t all = args.blocks ? (count + args.length - 1) / args.length : count; found < all; ++found) out[found] = int32_t(found);
        } else {
            if (args.blocks) count = best_of_blocks(score, count);
            found = pick(score, count, args.top_k, out);
            if (from.blocks)
                for (int64_t i = 0; i < found; ++i) out[i] = int32_t(from.entry(out[i], args.length));
        }
        for (; found < args.top_k; ++found) out[found] = -1;
    }

    // The largest score of each block in its place; the newest block is above all.
    int64_t best_of_blocks(float* score, int64_t count) const {
        const int64_t blocks_ = (count + args.length - 1) / args.length;
        for (int64_t b = 0; b < blocks_; ++b) {
            float best = score[b * args.length];
            for (int64_t i = b * args.length + 1; i < (b + 1) * args.length && i < count; ++i)
                if (score[i] > best) best = score[i];
            score[b] = best;
        }
        score[blocks_ - 1] = __builtin_inff();
        return blocks_;
    }
};

inline size_t select_scratch(const SelectArgs& args) {
    return size_t(4 * kSelectRows * (Selecting::room(args) + (args.within ? args.num_within + 1 : 0)) + 64);
}

inline void select(const void* raw, Team& team) {
    const auto& args = *static_cast<const SelectArgs*>(raw);
    const Selecting work(args, team.shared());
    auto* memory = reinterpret_cast<float*>(team.local(size_t(4 * kEntries * (2 * args.dim + kQueryRows + 1))));
    if (!memory) return;
    for (int64_t first = 0; first < args.places.num_tokens; first += kSelectRows) {
        const int64_t rows = args.places.num_tokens - first < kSelectRows ? args.places.num_tokens - first : kSelectRows;
        if (args.within) {
            for (int64_t i = team.claim(); i < rows; i = team.claim()) work.order_blocks(first + i, i);
            team.barrier();
        }
        int64_t slot = 0, before = 0;  // the row of the claimed piece, and the pieces of rows before it
        for (int64_t claimed = team.claim();; claimed = team.claim()) {
            Choice from{};
            int64_t pieces = 0;
            for (; slot < rows; ++slot, before += pieces) {
                from = work.of(first + slot, slot);
                pieces = work.takes_all(from) ? 0 : (from.count + kScanEntries - 1) / kScanEntries;
                if (claimed - before < pieces) break;
            }
            if (slot == rows) break;
            work.scan(first + slot, from, (claimed - before) * kScanEntries, work.scores + slot * work.most, memory);
        }
        team.barrier();
        for (int64_t i = team.claim(); i < rows; i = team.claim()) work.choose(first + i, work.of(first + i, i), work.scores + i * work.most);
        team.barrier();
    }
}

}  // namespace parity::PARITY_ISA
