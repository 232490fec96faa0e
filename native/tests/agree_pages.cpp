// What writes pages, reads them and chooses among their entries.
#include <limits>

#include "agree.h"

namespace parity::tests {
namespace {

// Rounding to fewer bits has one right answer: the bytes are the same, those of odd numbers too. (Signed bytes have a scale,
// which such numbers leave without a meaning.)
void writes(Both& both) {
    const Pages all({{0, 9}, {6, 1}}, 8);
    const int64_t tokens = all.places.num_tokens, dim = 37;
    const Floats usual = normals(tokens * 2 * dim);
    Floats values = usual;
    const float odd[] = {std::nanf(""), std::numeric_limits<float>::infinity(), -0.0f, 1e-6f, 6.1e-5f, 5.9e-8f, 65504, 65520, -1e30f, 1e-40f, 0.333251953f};
    std::memcpy(&values[2 * 2 * dim], odd, sizeof odd);
    for (int32_t type : {kPageFloat, kPageHalf, kPageBfloat, kPageByte})
        both.hold("write", type, kExact, [&](const Kernels& kernels, auto run, Answers& answers) {
            const int64_t row = type == kPageFloat ? 4 * dim : type == kPageByte ? dim + 2 : 2 * dim;
            std::vector<uint8_t> pages(static_cast<size_t>(all.count * 8 * 2 * row));
            run(kernels.write, WriteArgs{type == kPageByte ? usual.data() : values.data(), pages.data(), 8 * dim, 2 * row, 1, 2, dim, type, all.places});
            answers.add(pages);
        });
}

void ropes(Both& both) {
    const Pages all({{0, 9}, {70, 1}}, 8);
    const int64_t tokens = all.places.num_tokens, dim = 45, half = 18;
    const int32_t heads = 4, kv_heads = 2;
    const Floats q = normals(tokens * heads * dim), k = normals(tokens * kv_heads * dim), v = normals(tokens * kv_heads * dim), inv_freq = normals(half);
    for (const bool interleaved : {false, true})
        both.hold("rope", interleaved, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
            Floats angles = room(tokens * 2 * half), out = room(tokens * heads * dim), k_pages = room(all.count * 8 * kv_heads * dim), v_pages = k_pages;
            run(kernels.angles, AnglesArgs{all.positions.data(), inv_freq.data(), angles.data(), tokens, half, 0, 1.1f}), answers.add(angles);
            for (const bool inverse : {false, true}) {
                run(kernels.rope, RopeArgs{q.data(), heads * dim, dim, angles.data(), out.data(), tokens, heads, dim, half, 5, interleaved, inverse});
                answers.add(out);
            }
            run(kernels.rope_write, RopeWriteArgs{q.data(), k.data(), v.data(), heads * dim, kv_heads * dim, kv_heads * dim, angles.data(), out.data(), k_pages.data(), v_pages.data(), kPageFloat, heads, kv_heads, dim, dim, half, 5, interleaved, all.places});
            answers.add(out), answers.add(k_pages), answers.add(v_pages);
        });
}

// Keys and values of several heads in pages of every type, with a second key for all heads, a window and sinks; few rows
// whose entries threads share, and many.
void attention(Both& both, int32_t type) {
    const Pages all({{0, 1300}}, 8), some({{0, 21}, {70, 1}, {1290, 3}}, 8), one({{1299, 1}}, 8);
    const int32_t heads = 6, kv_heads = 2, dim = 24, dim2 = 9;
    const int64_t entries = std::max(all.count, some.count) * 8;
    const Floats keys = normals(entries * kv_heads * dim), keys2 = normals(entries * dim2), values = normals(entries * kv_heads * dim), q = normals(1300 * heads * dim), q2 = normals(1300 * heads * dim2), sinks = normals(heads);
    const Pages flat({{0, static_cast<int>(entries)}}, 8);  // every entry, written in order
    both.hold("attend", type, type == kPageFloat ? kClose : kRounded, [&](const Kernels& kernels, auto run, Answers& answers) {
        const auto written = [&](const Floats& rows, int64_t number, int64_t columns) {
            const int64_t bytes = type == kPageFloat ? 4 * columns : type == kPageByte ? columns + 2 : 2 * columns;
            std::vector<uint8_t> out(static_cast<size_t>(entries * number * bytes));
            run(kernels.write, WriteArgs{rows.data(), out.data(), 4 * number * columns, number * bytes, 1, number, columns, type, flat.places});
            return out;
        };
        const auto k = written(keys, kv_heads, dim), k2 = written(keys2, 1, dim2), v = written(values, kv_heads, dim);
        for (const Pages* pages : {&some, &one})
            for (int32_t window : {0, 600})
                for (const bool second : {false, true}) {
                    Floats out = room(pages->places.num_tokens * heads * dim);
                    AttendArgs args{q.data(), second ? q2.data() : nullptr, heads * dim, dim, heads * dim2, dim2, k.data(), second ? k2.data() : nullptr, v.data(), nullptr, window ? sinks.data() : nullptr, nullptr, out.data(), type, heads, kv_heads, dim, second ? dim2 : 0, dim, 0, window, kAll, 1, 0, 0.2f, pages->places};
                    const size_t scratch = kernels.attend_scratch(args, 3);
                    run(kernels.attend, args, scratch), answers.add(out);
                }
    });
}

// Entries and groups chosen by their scores, those attended to, and entries pooled from groups.
void choices(Both& both) {
    const Pages pages({{0, 21}, {70, 1}, {5, 3}}, 8);
    const int64_t tokens = pages.places.num_tokens, every = 4, heads = 3, dim = 21, entries = pages.count * 8;
    Places pooled_places = pages.places;
    pooled_places.page_size = 8 / every;
    const Floats q = normals(tokens * heads * dim), keys = normals(entries * dim), pooled = normals(entries / every * dim), x = normals(tokens * 200), bias = normals(every * 66);
    const Integers slots{4, 0, 2};
    both.hold("select, and attention to what is chosen", 0, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        Integers best(tokens * 5), blocks(tokens * 4);
        for (Integers* out : {&blocks, &best}) {  // the blocks first: the choice is among them
            const bool whole = out == &blocks;
            const SelectArgs args{q.data(), nullptr, pooled.data(), whole ? nullptr : blocks.data(), out->data(), heads * dim, dim, 0, kPageFloat, heads, dim, whole ? 4 : 5, every, whole ? 0 : 4, 3, whole, pooled_places};
            run(kernels.select, args, kernels.select_scratch(args)), answers.add(*out);
        }
        Floats out = room(tokens * heads * dim);
        for (int32_t seen : {kChosen, kGroups, kPooled}) {
            AttendArgs args{q.data(), nullptr, heads * dim, dim, 0, 0, keys.data(), nullptr, keys.data(), pooled.data(), nullptr, best.data(), out.data(), kPageFloat, heads, 1, dim, 0, dim, 5, seen == kPooled ? 6 : 0, seen, every, 0, 0.2f, pages.places};
            run(kernels.attend, args), answers.add(out);
        }
    });
    for (int overlap : {0, 1})
        both.hold("pool", overlap, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
            Floats tail(static_cast<size_t>(5 * 2 * every * 2 * 66), 0.5f), out = room(tokens * 66);
            run(kernels.pool, PoolArgs{x.data(), x.data() + 66, overlap ? bias.data() : nullptr, tail.data(), out.data(), pages.starts.data(), pages.lengths.data(), slots.data(), 200, 200, 3, 66, every, overlap});
            answers.add(out), answers.add(tail);
        });
}

}  // namespace

void agree_on_pages(Both& both) {
    writes(both);
    ropes(both);
    for (int32_t type : {kPageFloat, kPageHalf, kPageBfloat, kPageByte}) attention(both, type);
    choices(both);
}

}  // namespace parity::tests
