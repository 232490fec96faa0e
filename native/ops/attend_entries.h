// Which entries a row attends to, and where they lie in the pages.
#pragma once

namespace parity::PARITY_ISA {

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
inline int64_t list_entry(const AttendArgs& args, int64_t sequence, int64_t row, int64_t i) {
    const int64_t size = args.places.page_size, position = args.places.positions[row];
    const int32_t* pages = args.places.pages + sequence * args.places.max_pages;
    const auto chosen = [&](int64_t at) { return int64_t(args.selected[row * args.num_selected + at]); };
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

// The places of a row's list from `start` up to `end`; returns how many there are.
inline int64_t find_listed(const AttendArgs& args, int64_t sequence, int64_t row, int64_t start, int64_t end, int64_t* entries) {
    int64_t count = 0;
    for (int64_t i = start; i < end; ++i) {
        entries[count] = list_entry(args, sequence, row, i);
        count += entries[count] != kNone;
    }
    return count;
}

// The places of the tokens from `start` up to `end`; those before `oldest`, whose pages may be gone, have the place of that one.
inline int64_t find_tokens(const Places& places, int64_t sequence, int64_t start, int64_t oldest, int64_t end, int64_t* entries) {
    const int32_t* pages = places.pages + sequence * places.max_pages;
    const int64_t first = place_in(pages, places.page_size, oldest);
    int64_t page = start / places.page_size, within = start % places.page_size;
    for (int64_t position = start; position < end; ++position) {
        entries[position - start] = position < oldest ? first : int64_t(pages[page]) * places.page_size + within;
        if (++within == places.page_size) ++page, within = 0;
    }
    return end - start;
}

// Rows in pages: row `row` of entry e is the (e * rows_per_entry + row)-th; entry ~e is the e-th among the pooled.
struct PageRows {
    int32_t type;
    const void *pages, *pooled;
    int64_t rows_per_entry, row, dim;

    int64_t bytes() const { return row_bytes(type, dim); }

    // Where the rows of entries lie.
    void find(const int64_t* entries, int64_t count, const uint8_t** at) const {
        const auto *all = static_cast<const uint8_t*>(pages), *old = static_cast<const uint8_t*>(pooled);
        const int64_t size = bytes(), stride = rows_per_entry * size;
        for (int64_t e = 0; e < count; ++e) at[e] = entries[e] < 0 ? old + ~entries[e] * size : all + entries[e] * stride + row * size;
    }

    // Rows as float32: where they lie, or `memory` [count, dim], into which they are to be read.
    void name(const uint8_t* const* at, int64_t count, const float* memory, const float** rows) const {
        for (int64_t e = 0; e < count; ++e) rows[e] = type == kPageFloat ? reinterpret_cast<const float*>(at[e]) : memory + e * dim;
    }
    void read(const uint8_t* const* at, int64_t count, float* memory, const float** rows) const {
        name(at, count, memory, rows);
        for (int64_t e = 0; type != kPageFloat && e < count; ++e) read_row(type, at[e], dim, memory + e * dim);
    }
};

}  // namespace parity::PARITY_ISA
