// Products with weights of every format, and a mixture's experts.
#include "agree.h"

namespace parity::tests {
namespace {

// Plain numbers between 1/8 and 2 of either sign.
std::vector<uint8_t> plain_numbers(int64_t format, int64_t count) {
    std::vector<uint8_t> out(static_cast<size_t>(count * format_info(format).bytes));
    for (int64_t i = 0; i < count; ++i) {
        const float x = (random_bits() % 2 ? 0.125f : -0.125f) * static_cast<float>(1 + random_bits() % 16);
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        const auto two = static_cast<uint16_t>(format == kF16 ? (bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10)) : bits >> 16);
        if (format == kF32) std::memcpy(&out[static_cast<size_t>(4 * i)], &bits, 4);
        else std::memcpy(&out[static_cast<size_t>(2 * i)], &two, 2);
    }
    return out;
}

// A weight as its file has it, packed anew for each set of kernels: they lay panels out in ways of their own.
class Weight {
public:
    Weight(int64_t format, int64_t rows, int64_t columns) : format_(format), rows_(rows), columns_(columns), codes_(random_bits) {
        if (!format_info(format).columns) data_ = plain_numbers(format, rows * columns);
        else if (format < kFirstGroups) data_ = blocks(format, rows, columns, kRandom);
        else random_bits.discard(1);  // the next weight has other codes
    }

    template <class Run> std::vector<uint8_t> packed(const Kernels& kernels, Run run) const {
        const FormatInfo& info = format_info(format_);
        if (!info.columns) return data_;
        std::vector<uint8_t> panels(static_cast<size_t>((rows_ + 15) / 16 * (columns_ / info.columns) * info.panel_bytes));
        if (format_ < kFirstGroups) {
            run(kernels.pack, PackArgs{data_.data(), format_, rows_, columns_, panels.data()});
            return panels;
        }
        in_groups(panels.data(), [&](const PackGroupsArgs& args) { run(kernels.pack_groups, args); });
        return panels;
    }

    // Tables are read in the blocks of files, and in FP8.
    bool may_be_table() const { return format_ < kFirstGroups || format_ >= kFirstFloatPanels; }

    // Calls fn with the arrays as a file has them.
    template <class Fn> void table(Fn fn) const {
        if (format_ < kFirstGroups) fn(PackGroupsArgs{data_.data(), nullptr, nullptr, format_, rows_, columns_, 1, 1, kF32, nullptr});
        else in_groups(nullptr, fn);
    }

    Part part(const std::vector<uint8_t>& packed, int64_t first) const {
        return Part{packed.data(), static_cast<int32_t>(format_), static_cast<int32_t>(rows_), static_cast<int32_t>(first)};
    }

private:
    template <class Fn> void in_groups(uint8_t* panels, Fn fn) const {
        const std::mt19937 others = random_bits;
        random_bits = codes_;
        pack_groups_of(format_, rows_, columns_, panels, fn);
        random_bits = others;
    }

    int64_t format_, rows_, columns_;
    std::mt19937 codes_;
    std::vector<uint8_t> data_;
};

// Two parts of different formats and ragged sizes, for every way that a number of rows is multiplied.
void linear_in(Both& both, int64_t format) {
    constexpr int64_t columns = 512, stride = columns + 3, most = 13, rows = 37, others = 19;
    const Weight first(format, rows, columns), second(format == kF16 ? kQ6_K : kF16, others, columns);
    const Floats x = normals(most * stride), bias = normals(rows + others);
    for (const bool as_floats : {false, true})
        both.hold(as_floats ? "linear of floats" : "linear", format, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
            const auto a = first.packed(kernels, run), b = second.packed(kernels, run);
            for (int64_t tokens : {1, 2, 3, 4, 5, 13}) {
                Floats out = room(tokens * (rows + others));
                LinearArgs args{x.data(), stride, tokens, columns, tokens % 2 ? bias.data() : nullptr, out.data(), rows + others, 2, {}, as_floats};
                args.parts[0] = first.part(a, 0), args.parts[1] = second.part(b, rows);
                run(kernels.linear, args, kernels.linear_scratch(args));
                answers.add(out);
            }
        });
    const Integers ids{36, 0, 17, 5};
    both.hold("embed", format, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        const auto packed = first.packed(kernels, run);
        Floats out = room(4 * columns);
        run(kernels.embed, EmbedArgs{ids.data(), 4, columns, packed.data(), format, rows, out.data()});
        answers.add(out);
    });
    if (!first.may_be_table()) return;
    const std::vector<int64_t> wanted{136, 90, 117, 105, 100, 137};  // some are not in this part of the table
    both.hold("gather", format, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        Floats out = room(6 * columns);
        first.table([&](const PackGroupsArgs& table) { run(kernels.gather, GatherArgs{wanted.data(), out.data(), 6, 100, table}); });
        answers.add(out);
    });
}

void experts_in(Both& both, int32_t format, int32_t kind) {
    constexpr int64_t tokens = 9, columns = 256, inner = 256, count = 4, top_k = 2;
    const Weight gate_up(format, count * 2 * inner, columns), down(format, count * columns, inner);
    const Floats x = normals(tokens * columns), weights = normals(tokens * top_k);
    Integers chosen(tokens * top_k);
    for (int32_t& expert : chosen) expert = static_cast<int32_t>(random_bits() % count);
    both.hold("experts", format, kRounded, [&](const Kernels& kernels, auto run, Answers& answers) {
        const auto a = gate_up.packed(kernels, run), b = down.packed(kernels, run);
        Floats out = room(tokens * columns);
        const ExpertsArgs args{x.data(), a.data(), b.data(), weights.data(), chosen.data(), out.data(), tokens, columns, inner, count, top_k, format, format, kind, 0.5f, 1.5f, 3.0f, kind == 1};
        run(kernels.experts, args, kernels.experts_scratch(args));
        answers.add(out);
    });
}

}  // namespace

void agree_on_products(Both& both) {
    for (int64_t format = kF32; format < kNumFormats; ++format) linear_in(both, format);
    int32_t kind = 0;
    for (int32_t format : {kF32, kBf16, kQ4_K, kQ6_K, kMxfp4, kFp8_128}) experts_in(both, format, kind++ % 3);
}

}  // namespace parity::tests
