// How attention is cut: into pieces that threads claim, and those into tiles of 64 entries that start at fixed places.
#pragma once

namespace parity::PARITY_ISA {

constexpr int64_t kQueries = 84;  // at most so many (row, head) pairs share a tile

// A row's entries are summed in segments that start at fixed places, and the segments' sums joined in order: threads may
// share the segments of a row without a bit of its result depending on it.
constexpr int64_t kSegment = 512;

// How many entries a row at `position` has, or places in its list.
inline int64_t entries_of(const AttendArgs& args, int64_t position) { return args.seen == kAll ? position + 1 : list_size(args, position); }

// How many rows, and query heads of how many key heads, a block has.
struct Cut {
    int64_t rows, heads, groups;  // groups of query heads for each key head
    int64_t lanes;                // of one group each; several are of neighbouring key heads, whose rows lie side by side

    Cut(const AttendArgs& args, int threads) {
        const int64_t group = args.heads / args.kv_heads;
        groups = (group + kQueries - 1) / kQueries;
        heads = (group + groups - 1) / groups;
        // Blocks enough for all threads: their sizes differ.
        const int64_t share = args.places.num_tokens * args.kv_heads * groups / (4 * threads), most = kQueries / heads;
        rows = args.seen != kAll || share < 1 ? 1 : share < most ? share : most;
        lanes = rows == 1 && groups == 1 ? lanes_of(args, threads) : 1;
    }

private:
    // As many as leave pieces enough for all threads.
    static int64_t lanes_of(const AttendArgs& args, int threads) {
        const Places& places = args.places;
        int64_t pieces = 0;  // of one lane
        for (int64_t row = 0; row < places.num_tokens; ++row) pieces += args.segments ? (entries_of(args, places.positions[row]) + kSegment - 1) / kSegment : 1;
        int64_t lanes = args.kv_heads;
        while (lanes > 1 && (args.kv_heads % lanes || pieces * (args.kv_heads / lanes) < 4 * threads)) --lanes;
        return lanes;
    }
};

// Some rows of a sequence with some of the query heads of one key head, and the segments of their entries.
struct Block {
    int64_t sequence, row, rows, head, lanes;  // `lanes` key heads from `head`
    int64_t first, heads;                      // of each of them, `heads` query heads, those of the first one from `first`
    int64_t segment, end_segment;

    int64_t queries() const { return rows * heads; }  // of a lane; a block's are numbered lane by lane
    int64_t all_queries() const { return lanes * queries(); }
    int64_t row_of(int64_t query) const { return row + query % queries() / heads; }
    int64_t head_of(int64_t query) const { return first + query / queries() * heads + query % heads; }
};

// The pieces of all work in the order of their numbers: whole blocks, or each of their segments.
class Pieces {
public:
    Pieces(const AttendArgs& args, const Cut& cut, bool shared) : args_(args), cut_(cut), lanes_(args.kv_heads / cut.lanes * cut.groups), shared_(shared) { find_rows(); }

    // The piece of a number above those asked for before; false past the last.
    bool find(int64_t number, Block& out) {
        for (; rows_ > 0; ++index_, find_rows()) {
            const int64_t count = (shared_ ? end_segment_ - segment_ : 1) * lanes_;
            if (number - before_ < count) break;
            before_ += count;
        }
        if (rows_ <= 0) return false;
        const int64_t lane = (number - before_) % lanes_, within = lane % cut_.groups, group = args_.heads / args_.kv_heads;
        out.sequence = sequence_, out.row = row_, out.rows = rows_;
        out.head = lane / cut_.groups * cut_.lanes, out.lanes = cut_.lanes, out.first = out.head * group + within * cut_.heads;
        out.heads = group - within * cut_.heads < cut_.heads ? group - within * cut_.heads : cut_.heads;
        out.segment = segment_, out.end_segment = end_segment_;
        if (shared_) out.segment += (number - before_) / lanes_, out.end_segment = out.segment + 1;
        return true;
    }

    // Whether a block has several segments.
    bool any_to_share() {
        for (; rows_ > 0; ++index_, find_rows())
            if (end_segment_ - segment_ > 1) return true;
        return false;
    }

private:
    // The rows of the block at `index_` of `sequence_` or of a later one; none past the last.
    void find_rows() {
        const Places& places = args_.places;
        for (rows_ = 0; sequence_ < places.num_sequences; ++sequence_, index_ = 0) {
            const int64_t start = places.starts[sequence_], rows = places.starts[sequence_ + 1] - start, blocks = (rows + cut_.rows - 1) / cut_.rows;
            if (index_ >= blocks) continue;
            const int64_t first = (blocks - 1 - index_) * cut_.rows;  // the last rows first: they have the most to do
            row_ = start + first, rows_ = rows - first < cut_.rows ? rows - first : cut_.rows;
            return find_segments();
        }
    }

    // A block without entries has an empty one.
    void find_segments() {
        const int64_t oldest = args_.places.positions[row_] - args_.window + 1, last = args_.places.positions[row_ + rows_ - 1];
        const bool all = args_.seen == kAll;
        segment_ = all && args_.window && oldest > 0 ? oldest / kSegment : 0;
        end_segment_ = (entries_of(args_, last) + kSegment - 1) / kSegment;
        if (end_segment_ <= segment_) end_segment_ = segment_ + 1;
    }

    const AttendArgs& args_;
    const Cut& cut_;
    int64_t lanes_;  // blocks of the same rows
    bool shared_;
    int64_t sequence_ = 0, index_ = 0, before_ = 0;
    int64_t row_ = 0, rows_ = 0, segment_ = 0, end_segment_ = 0;
};

// Up to 64 entries of a block's lane and where their rows lie.
struct Tile {
    Block block;
    int64_t lane, segment, start, count;
    bool first, last;  // of its segment and all lanes
    const uint8_t *keys[kEntries], *keys2[kEntries], *values[kEntries];

    bool begins() const { return first && segment == block.segment; }
    bool ends() const { return last && segment + 1 == block.end_segment; }
};

// The arrays that attention reads.
struct AttendRows {
    PageRows keys, keys2, values;
    bool same;  // whether values are keys

    AttendRows(const AttendArgs& args, int64_t head)
        : keys{args.page_type, args.k_pages, args.pooled, args.kv_heads, head, args.k_dim},
          keys2{args.page_type, args.k2_pages, nullptr, 1, 0, args.k2_dim},
          values{args.page_type, args.v_pages, args.pooled, args.kv_heads, head, args.v_dim},
          same(args.v_pages == args.k_pages) {}
};

// The tiles of all pieces that a thread claims, one after the other.
class Tiles {
public:
    Tiles(const AttendArgs& args, const Cut& cut, Team& team, bool shared) : args_(args), pieces_(args, cut, shared), team_(team) {}

    bool next(Tile& tile) {
        if (lane_ == block_.lanes) start_ += kEntries, lane_ = 0;
        if (start_ >= end_ && !find_segment()) return false;
        const bool ends = start_ + kEntries >= end_;
        tile.block = block_, tile.lane = lane_, tile.segment = segment_, tile.start = start_;
        tile.first = start_ == begin_ && lane_ == 0, tile.last = ends && lane_ + 1 == block_.lanes;
        const int64_t end = ends ? end_ : start_ + kEntries;
        int64_t entries[kEntries];
        tile.count = end <= start_             ? 0
                     : args_.seen == kAll ? find_tokens(args_.places, block_.sequence, start_, oldest_, end, entries)
                                               : find_listed(args_, block_.sequence, block_.row, start_, end, entries);
        const AttendRows rows(args_, block_.head + lane_++);
        rows.keys.find(entries, tile.count, tile.keys);
        if (args_.k2_dim) rows.keys2.find(entries, tile.count, tile.keys2);
        if (!rows.same) rows.values.find(entries, tile.count, tile.values);
        return true;
    }

private:
    bool find_segment() {
        if (!more_) return false;
        if (++segment_ >= block_.end_segment) {
            more_ = pieces_.find(team_.claim(), block_);
            if (!more_) return false;
            segment_ = block_.segment;
        }
        const int32_t* positions = args_.places.positions;
        const int64_t first = positions[block_.row], last = positions[block_.row + block_.rows - 1];
        const bool all = args_.seen == kAll;
        oldest_ = all && args_.window && first - args_.window + 1 > 0 ? first - args_.window + 1 : 0;
        const int64_t count = entries_of(args_, last), limit = (segment_ + 1) * kSegment;
        begin_ = segment_ * kSegment;
        if (oldest_ > begin_) begin_ = oldest_ / kEntries * kEntries;
        lane_ = 0, start_ = begin_, end_ = count < limit ? count : limit;
        return true;
    }

    const AttendArgs& args_;
    Pieces pieces_;
    Team& team_;
    Block block_{};
    bool more_ = true;
    int64_t lane_ = 0, segment_ = 0, oldest_ = 0, begin_ = 0, start_ = 0, end_ = 0;
};

}  // namespace parity::PARITY_ISA
