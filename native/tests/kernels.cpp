// The kernels without Python, for sanitizers, emulators and thread checkers: every instruction set that runs here, ragged
// sizes, several threads. Products are held to sums in double over the rows that `embed` reads, all else to itself on one
// thread, and everything to the kernels in plain C++. Prints what went wrong and returns 1. Arguments name the sets to test;
// a number among them is how often each thread of the stress runs its step.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "agree.h"

namespace {

using namespace parity;
using namespace parity::tests;

// The products of all rows of x, computed together first, and then of fewer of them, which must not change a bit. What lies
// between the rows that the kernels are given is no number.
std::vector<float> in_batches(const Kernels& kernels, Pool& pool, const uint8_t* weights, int64_t format, int64_t rows, int64_t columns,
                              const std::vector<float>& x, const std::vector<float>& bias, std::initializer_list<int64_t> batches) {
    const int64_t stride = columns + 5;
    std::vector<float> whole, apart(x.size() / static_cast<size_t>(columns) * static_cast<size_t>(stride), std::nanf(""));
    for (size_t i = 0; i < x.size(); ++i) apart[i + 5 * (i / static_cast<size_t>(columns))] = x[i];
    for (int64_t tokens : batches) {
        std::vector<float> out(static_cast<size_t>(tokens * rows));
        LinearArgs args{apart.data(), stride, tokens, columns, bias.data(), out.data(), rows, 1, {}};
        args.parts[0] = Part{weights, static_cast<int32_t>(format), static_cast<int32_t>(rows), 0};
        run(pool, kernels.linear, args, kernels.linear_scratch(args));
        if (whole.empty()) whole = out;
        check(out.empty() || std::memcmp(whole.data(), out.data(), out.size() * 4) == 0, kernels.isa, "a row depends on its batch", format, tokens);
    }
    return whole;
}

void linear_of(const Kernels& kernels, Pool& pool, int64_t format, int64_t rows, int64_t columns, int fill = kRandom) {
    const FormatInfo& info = format_info(format);
    std::vector<uint8_t> panels(static_cast<size_t>((rows + 15) / 16 * (columns / info.columns) * info.panel_bytes));
    if (format >= kFirstGroups) {
        pack_groups_of(format, rows, columns, panels.data(), [&](const PackGroupsArgs& args) { run(pool, kernels.pack_groups, args); });
    } else {
        const auto data = blocks(format, rows, columns, fill);
        run(pool, kernels.pack, PackArgs{data.data(), format, rows, columns, panels.data()});
    }
    std::vector<int32_t> all(static_cast<size_t>(rows));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    std::vector<float> plain(static_cast<size_t>(rows * columns));
    run(pool, kernels.embed, EmbedArgs{all.data(), rows, columns, panels.data(), format, rows, plain.data()});
    auto x = normal(static_cast<size_t>(19 * columns));
    // The largest sums there are: every activation at the end of its range, with one sign for each row.
    for (size_t i = 0; fill != kRandom && i < x.size(); ++i) x[i] = i / static_cast<size_t>(columns) % 2 ? -1.0f : 1.0f;
    const auto bias = normal(static_cast<size_t>(rows));
    const auto whole = in_batches(kernels, pool, panels.data(), format, rows, columns, x, bias, {19, 0, 1, 2, 3, 4, 5, 6, 7, 12});
    for (int64_t t = 0; t < 19; ++t)
        for (int64_t r = 0; r < rows; ++r) {
            double expected = bias[static_cast<size_t>(r)], allowed = 1e-4;
            for (int64_t b = 0; b < columns; b += 32) {
                double most = 0, size = 0;
                for (int64_t c = b; c < b + 32; ++c) {
                    const double a = x[static_cast<size_t>(t * columns + c)], w = plain[static_cast<size_t>(r * columns + c)];
                    expected += a * w, most = std::fmax(most, std::fabs(a)), size += std::fabs(w);
                }
                allowed += format >= kFirstFloatPanels ? 1e-5 * most * size : most / 254 * size * 1.001;
            }
            const double got = whole[static_cast<size_t>(t * rows + r)];
            if (!(std::fabs(got - expected) <= allowed)) return check(false, kernels.isa, "linear", format, t * 1000 + r);
        }
}

// The fused gate, up and activation: the very bits of the product of both and the activation after it, for any rows, with both
// matrices in one format or in two.
void gated_of(const Kernels& kernels, Pool& pool, int64_t format, int64_t other, int64_t inner, int64_t columns) {
    std::vector<uint8_t> data[2];
    LinearArgs both{};
    const int64_t formats[2] = {format, other};
    for (int64_t i = 0; i < 2; ++i) {
        const FormatInfo& info = format_info(formats[i]);
        if (info.columns == 0) {
            data[i].resize(static_cast<size_t>(inner * columns * info.bytes));
            const auto numbers = normal(static_cast<size_t>(inner * columns));
            for (size_t n = 0; n < numbers.size(); ++n) {
                uint32_t bits;
                std::memcpy(&bits, &numbers[n], 4);
                const uint16_t two = static_cast<uint16_t>(formats[i] == kF16 ? 0x3000 + bits % 1024 : bits >> 16);
                if (formats[i] == kF32) std::memcpy(&data[i][4 * n], &bits, 4);
                else std::memcpy(&data[i][2 * n], &two, 2);
            }
        } else {
            data[i].resize(static_cast<size_t>((inner + 15) / 16 * (columns / info.columns) * info.panel_bytes));
            if (formats[i] >= kFirstGroups) {
                pack_groups_of(formats[i], inner, columns, data[i].data(), [&](const PackGroupsArgs& args) { run(pool, kernels.pack_groups, args); });
            } else {
                const auto rows = blocks(formats[i], inner, columns, kRandom);
                run(pool, kernels.pack, PackArgs{rows.data(), formats[i], inner, columns, data[i].data()});
            }
        }
        both.parts[i] = Part{data[i].data(), static_cast<int32_t>(formats[i]), static_cast<int32_t>(inner), static_cast<int32_t>(i * inner)};
    }
    const auto x = normal(static_cast<size_t>(19 * columns)), bias = normal(static_cast<size_t>(2 * inner));
    for (int64_t tokens : {0, 1, 2, 3, 4, 5, 13, 19})
        for (bool as_floats : {false, true}) {
            const int32_t kind = static_cast<int32_t>(tokens % 3);
            std::vector<float> apart(static_cast<size_t>(tokens * 2 * inner)), joined(static_cast<size_t>(tokens * inner)), fused(joined.size());
            both.x = x.data(), both.x_stride = columns, both.tokens = tokens, both.columns = columns, both.as_floats = as_floats;
            both.bias = tokens % 2 ? bias.data() : nullptr, both.num_parts = 2;
            both.out = apart.data(), both.out_stride = 2 * inner;
            run(pool, kernels.linear, both, kernels.linear_scratch(both));
            run(pool, kernels.gated, GatedArgs{apart.data(), joined.data(), tokens, inner, kind, 0.5f, 1.5f, 3.0f});
            both.out = fused.data(), both.out_stride = inner;
            run(pool, kernels.gated_linear, GatedLinearArgs{both, kind, 0.5f, 1.5f, 3.0f}, kernels.linear_scratch(both));
            check(fused.empty() || std::memcmp(joined.data(), fused.data(), fused.size() * 4) == 0, kernels.isa, "gate, up and activation at once", format, tokens);
        }
}

// Pages of every type: rows written, then attended to over a context of several segments, with the same bits on any threads.
void page_types(const Kernels& kernels, Pool& pool, Pool& one) {
    const Pages all({{0, 1300}}, 8), last({{1299, 1}}, 8);
    const int heads = 3, dim = 24;
    const auto values = normal(static_cast<size_t>(all.places.num_tokens * dim)), q = normal(heads * dim);
    for (int32_t type : {kPageFloat, kPageHalf, kPageBfloat, kPageByte}) {
        const int64_t row = type == kPageFloat ? 4 * dim : type == kPageByte ? dim + 2 : 2 * dim;
        std::vector<uint8_t> kept(static_cast<size_t>(all.count * 8 * row));
        run(pool, kernels.write, WriteArgs{values.data(), kept.data(), 4 * dim, row, 1, 1, dim, type, all.places});
        std::vector<float> out[2];
        Pool* pools[2] = {&one, &pool};
        for (int i = 0; i < 2; ++i) {
            out[i].resize(q.size());
            AttendArgs args{q.data(), nullptr, heads * dim, dim, 0, 0, kept.data(), nullptr, kept.data(), nullptr, nullptr, nullptr, out[i].data(), type, heads, 1, dim, 0, dim, 0, 0, kAll, 1, 0, 0.2f, last.places};
            const size_t scratch = kernels.attend_scratch(args, pools[i]->size());
            run(*pools[i], kernels.attend, args, scratch);
        }
        check(out[0] == out[1], kernels.isa, "attend over pages of a type on several threads", type);
        double total = 0, sum = 0;
        for (int64_t e = 0; e < 1300; ++e) {
            double score = 0;
            for (int d = 0; d < dim; ++d) score += double(q[static_cast<size_t>(d)]) * values[static_cast<size_t>(e * dim + d)];
            total += std::exp(score * 0.2), sum += std::exp(score * 0.2) * values[static_cast<size_t>(e * dim)];
        }
        check(std::fabs(sum / total - out[0][0]) < (type == kPageFloat ? 1e-5 : 0.02), kernels.isa, "attend over pages of a type", type);
    }
}

// What `select` is to choose for a row, by a sort of all that it may choose from.
std::vector<int32_t> selection(const SelectArgs& args, const std::vector<float>& keys, int64_t sequence, int64_t row) {
    const int64_t visible = (args.places.positions[row] + 1) / args.every, size = args.places.page_size, length = args.length;
    const auto score = [&](int64_t entry) {
        const int64_t at = args.places.pages[sequence * args.places.max_pages + entry / size] * size + entry % size;
        double total = 0;
        for (int64_t h = 0; h < args.heads; ++h) {
            double product = 0;
            for (int64_t d = 0; d < args.dim; ++d) product += static_cast<double>(args.q[row * args.q_stride + h * args.q_head_stride + d]) * keys[static_cast<size_t>(at * args.dim + d)];
            total += std::fmax(product, 0.0) * (args.weights ? args.weights[row * args.weight_stride + h] : 1.0f);
        }
        return total;
    };
    std::vector<std::pair<double, int32_t>> found;  // minus the score, and the entry or block
    const int32_t *within = args.within + row * args.num_within, *end = within + args.num_within;
    for (int64_t entry = 0; entry < visible; ++entry) {
        const auto block = static_cast<int32_t>(entry / length);
        if (args.within && std::find(within, end, block) == end) continue;
        if (!args.blocks) found.emplace_back(-score(entry), static_cast<int32_t>(entry));
        else if (entry % length == 0) found.emplace_back(-score(entry), block);
        else found.back().first = std::fmin(found.back().first, -score(entry));
    }
    if (args.blocks && !found.empty()) found.back().first = -1e300;  // the newest block
    std::sort(found.begin(), found.end());
    std::vector<int32_t> chosen;
    for (size_t i = 0; i < found.size() && chosen.size() < static_cast<size_t>(args.top_k); ++i) chosen.push_back(found[i].second);
    std::sort(chosen.begin(), chosen.end());
    chosen.resize(static_cast<size_t>(args.top_k), -1);
    return chosen;
}

// Entries and blocks of them chosen out of contexts of up to several scans, by scores of small whole numbers: sums of these are
// exact, and many are equal.
void selections(const Kernels& kernels, Pool& pool) {
    const Pages pages({{0, 3}, {690, 20}, {70, 1}, {255, 2}, {2100, 1}}, 8);
    const int64_t heads = 3, dim = 5, tokens = pages.places.num_tokens;
    const auto whole = [](int64_t count, int most) {
        std::vector<float> out(static_cast<size_t>(count));
        for (float& x : out) x = static_cast<float>(static_cast<int>(random_bits() % static_cast<uint32_t>(2 * most + 1)) - most);
        return out;
    };
    const auto keys = whole(pages.count * 8 * dim, 2), q = whole(tokens * heads * dim, 3), weights = whole(tokens * heads, 2);
    std::vector<int32_t> within(static_cast<size_t>(tokens * 12));
    for (size_t i = 0; i < within.size(); ++i) within[i] = static_cast<int32_t>(random_bits() % 42) - 1;
    for (const bool weighted : {false, true})
        for (const int32_t every : {1, 4})
            for (const int32_t kind : {0, 1, 2}) {  // entries, entries of given blocks, blocks
                Places places = pages.places;
                places.page_size = 8 / every;
                const int32_t top_k = kind == 2 ? 5 : 9, length = kind == 0 ? 1 : 16 / every;
                std::vector<int32_t> out(static_cast<size_t>(tokens * top_k));
                const SelectArgs args{q.data(), weighted ? weights.data() : nullptr, keys.data(), kind == 1 ? within.data() : nullptr, out.data(), heads * dim, dim, weighted ? heads : 0, kPageFloat, heads, dim, top_k, every, kind == 1 ? 12 : 0, length, kind == 2, places};
                run(pool, kernels.select, args, kernels.select_scratch(args));
                for (int64_t s = 0; s < places.num_sequences; ++s)
                    for (int64_t row = pages.starts[static_cast<size_t>(s)]; row < pages.starts[static_cast<size_t>(s) + 1]; ++row)
                        check(std::equal(out.begin() + row * top_k, out.begin() + (row + 1) * top_k, selection(args, keys, s, row).begin()), kernels.isa, "what is selected", kind, row);
            }
}

double gate_of(int64_t kind, double gate, double up, double limit, double beta, double linear) {
    if (kind == 1) gate = std::fmin(gate, limit), up = std::fmax(std::fmin(up, limit), -limit);
    if (kind == 2) up = linear * std::tanh(up / linear);
    return (kind == 2 ? beta * std::tanh(gate / beta) : gate) / (1 + std::exp(-gate)) * up;
}

// Norms, with the mean taken out or not and two weights in turn, and gates of every kind, in double.
void norms_and_gates(const Kernels& kernels, Pool& pool, int64_t columns) {
    constexpr int64_t rows = 7;
    const auto at = [&](const std::vector<float>& all, int64_t row, int64_t column) { return static_cast<double>(all[static_cast<size_t>(row * columns + column)]); };
    const auto x = normal(static_cast<size_t>(2 * rows * columns)), residual = normal(static_cast<size_t>(rows * columns)), weight = normal(static_cast<size_t>(2 * columns)), bias = normal(static_cast<size_t>(columns));
    std::vector<float> sum(residual.size()), out(residual.size());
    for (const bool centred : {false, true}) {
        run(pool, kernels.norm, NormArgs{{x.data(), columns, 1, 0}, residual.data(), weight.data(), centred ? bias.data() : nullptr, {nullptr, 0, 1, 0}, sum.data(), out.data(), rows, columns, 2, 1e-3f, 1, 0});
        for (int64_t r = 0; r < rows; ++r) {
            double mean = 0, squares = 0;
            for (int64_t c = 0; c < columns; ++c) mean += centred ? (at(x, r, c) + at(residual, r, c)) / static_cast<double>(columns) : 0;
            for (int64_t c = 0; c < columns; ++c) squares += std::pow(at(x, r, c) + at(residual, r, c) - mean, 2);
            for (int64_t c = 0; c < columns; ++c) {
                const double y = (at(x, r, c) + at(residual, r, c) - mean) / std::sqrt(squares / static_cast<double>(columns) + 1e-3);
                check(std::fabs(y * (1 + at(weight, r % 2, c)) + (centred ? at(bias, 0, c) : 0) - at(out, r, c)) < 1e-4, kernels.isa, "norm", columns, r);
            }
        }
    }
    for (int64_t kind : {0, 1, 2}) {
        run(pool, kernels.gated, GatedArgs{x.data(), out.data(), rows, columns, kind, 0.5f, 1.5f, 3.0f});
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c)
                check(std::fabs(gate_of(kind, at(x, 2 * r, c), at(x, 2 * r + 1, c), 0.5, 1.5, 3) - at(out, r, c)) < 1e-5, kernels.isa, "a gated activation", kind, columns);
    }
}

// Everything that is not a product: the same bits on one thread and on several, and for attention a sum in double.
void others(const Kernels& kernels, Pool& pool, Pool& one) {
    const Pages pages({{0, 21}, {70, 1}, {5, 3}}, 8);
    const int heads = 6, kv = 2, dim = 24;
    const auto tokens = pages.places.num_tokens;
    const auto q = normal(static_cast<size_t>(tokens * heads * dim)), k = normal(static_cast<size_t>(pages.count * 8 * kv * dim)), v = normal(k.size());
    std::vector<float> out[2];
    Pool* pools[2] = {&one, &pool};
    for (int i = 0; i < 2; ++i) {
        out[i].resize(q.size());
        const AttendArgs args{q.data(), nullptr, heads * dim, dim, 0, 0, k.data(), nullptr, v.data(), nullptr, nullptr, nullptr, out[i].data(), kPageFloat, heads, kv, dim, 0, dim, 0, 9, kAll, 1, 0, 0.2f, pages.places};
        run(*pools[i], kernels.attend, args);
    }
    check(out[0] == out[1], kernels.isa, "attend on several threads");
    for (int64_t t = 0; t < tokens; ++t) {
        const int64_t s = t < 21 ? 0 : t < 22 ? 1 : 2, position = pages.positions[static_cast<size_t>(t)];
        double total = 0, sum = 0;
        for (int64_t e = std::max<int64_t>(0, position - 8); e <= position; ++e) {
            const int64_t at = (pages.pages[static_cast<size_t>(s * pages.places.max_pages + e / 8)] * 8 + e % 8) * kv * dim;
            double score = 0;
            for (int d = 0; d < dim; ++d) score += double(q[static_cast<size_t>(t * heads * dim + d)]) * k[static_cast<size_t>(at + d)];
            total += std::exp(score * 0.2), sum += std::exp(score * 0.2) * v[static_cast<size_t>(at)];
        }
        check(std::fabs(sum / total - out[0][static_cast<size_t>(t * heads * dim)]) < 1e-5, kernels.isa, "attend", t);
    }
    std::vector<int32_t> best[2];
    for (int i = 0; i < 2; ++i) {
        best[i].resize(static_cast<size_t>(tokens * 5));
        const SelectArgs args{q.data(), nullptr, k.data(), nullptr, best[i].data(), heads * dim, dim, 0, kPageFloat, heads, dim, 5, 1, 0, 1, false, pages.places};
        run(*pools[i], kernels.select, args, kernels.select_scratch(args));
    }
    check(best[0] == best[1], kernels.isa, "select on several threads");
    selections(kernels, pool);
    page_types(kernels, pool, one);
    const auto logits = normal(3 * 5000);
    const float temperature[3] = {0, 1, 0.5f}, top_p[3] = {1, 0.8f, 0.3f}, min_p[3] = {0, 0, 0.1f}, uniform[3] = {0.3f, 0.99f, 0.5f};
    const int32_t top_k[3] = {0, 40, 0};
    int64_t chosen[2][3];
    for (int i = 0; i < 2; ++i) run(*pools[i], kernels.sample, SampleArgs{logits.data(), temperature, top_p, min_p, uniform, top_k, 3, 5000, 5000, chosen[i]});
    check(std::memcmp(chosen[0], chosen[1], sizeof chosen[0]) == 0, kernels.isa, "sample on several threads");
    for (int64_t columns : {1, 15, 16, 45}) norms_and_gates(kernels, pool, columns);
}

void experts_of(const Kernels& kernels, Pool& pool, Pool& one) {
    const int64_t tokens = 9, columns = 64, inner = 32, count = 5, top_k = 2;
    const auto x = normal(tokens * columns), up = normal(count * 2 * inner * columns), down = normal(count * columns * inner), weights = normal(tokens * top_k);
    std::vector<int32_t> chosen(tokens * top_k);
    for (int32_t& e : chosen) e = static_cast<int32_t>(random_bits() % count);
    std::vector<float> out[2];
    Pool* pools[2] = {&one, &pool};
    for (int i = 0; i < 2; ++i) {
        out[i].resize(x.size());
        const ExpertsArgs args{x.data(), up.data(), down.data(), weights.data(), chosen.data(), out[i].data(), tokens, columns, inner, count, top_k, kF32, kF32, 0, 0, 0, 0};
        run(*pools[i], kernels.experts, args, kernels.experts_scratch(args));
    }
    check(out[0] == out[1], kernels.isa, "experts on several threads");
    const auto dot = [](const float* a, const auto* b, int64_t n) {
        double total = 0;
        for (int64_t i = 0; i < n; ++i) total += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        return total;
    };
    for (int64_t t = 0; t < tokens; ++t) {
        std::vector<double> expected(columns);
        double size = 0;
        for (int64_t k = t * top_k; k < (t + 1) * top_k; ++k) {
            const int64_t expert = chosen[static_cast<size_t>(k)];
            double hidden[inner];
            for (int64_t i = 0; i < inner; ++i) {
                const float *gate = up.data() + (expert * 2 * inner + i) * columns, *token = x.data() + t * columns;
                hidden[i] = gate_of(0, dot(token, gate, columns), dot(token, gate + inner * columns, columns), 0, 0, 0);
                size += std::fabs(hidden[i] * static_cast<double>(weights[static_cast<size_t>(k)]));
            }
            for (int64_t c = 0; c < columns; ++c)
                expected[static_cast<size_t>(c)] += static_cast<double>(weights[static_cast<size_t>(k)]) * dot(down.data() + (expert * columns + c) * inner, hidden, inner);
        }
        for (int64_t c = 0; c < columns; ++c)
            check(std::fabs(expected[static_cast<size_t>(c)] - static_cast<double>(out[0][static_cast<size_t>(t * columns + c)])) <= 2e-5 * size, kernels.isa, "experts", t, c);
    }
}

// Plain numbers, on sizes that leave part of every tile, of a register and of a stretch of columns.
void plain_of(const Kernels& kernels, Pool& pool, int64_t format, int64_t rows, int64_t columns) {
    const auto count = static_cast<size_t>(rows * columns);
    std::vector<uint8_t> data(count * static_cast<size_t>(format_info(format).bytes));
    std::vector<float> plain(count);
    for (size_t i = 0; i < count; ++i) {  // small whole numbers: the same in every format
        const int value = static_cast<int>(random_bits() % 17) - 8;
        plain[i] = static_cast<float>(value);
        uint32_t bits;
        std::memcpy(&bits, &plain[i], 4);
        const uint32_t half = value ? (bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10)) : 0;
        const uint16_t two = static_cast<uint16_t>(format == kF16 ? half : bits >> 16);
        if (format == kF32) std::memcpy(&data[4 * i], &bits, 4);
        else std::memcpy(&data[2 * i], &two, 2);
    }
    constexpr int64_t most = 70;
    const auto x = normal(static_cast<size_t>(most * columns)), bias = normal(static_cast<size_t>(rows));
    const auto whole = in_batches(kernels, pool, data.data(), format, rows, columns, x, bias, {most, 0, 1, 2, 5, 12, 13, 16, 64});
    for (int64_t t = 0; t < most; ++t)
        for (int64_t r = 0; r < rows; ++r) {
            double expected = bias[static_cast<size_t>(r)], size = std::fabs(expected);
            for (int64_t c = 0; c < columns; ++c) {
                const double product = static_cast<double>(x[static_cast<size_t>(t * columns + c)]) * plain[static_cast<size_t>(r * columns + c)];
                expected += product, size += std::fabs(product);
            }
            const double off = std::fabs(expected - whole[static_cast<size_t>(t * rows + r)]);
            check(off <= static_cast<double>(columns + 3) * size / (1 << 24), kernels.isa, "a product of plain numbers", format, r);
        }
}

// What chooses, pools, routes and mixes, on odd sizes: the same bits on one thread and on several.
void choices(const Kernels& kernels, Pool& pool, Pool& one) {
    const Pages pages({{0, 21}, {70, 1}, {5, 3}}, 8);
    const int64_t tokens = pages.places.num_tokens, sequences = 3, every = 4, heads = 3, dim = 21, entries = pages.count * 8;
    Places pooled_places = pages.places;
    pooled_places.page_size = 8 / every;
    const auto q = normal(static_cast<size_t>(tokens * heads * dim)), keys = normal(static_cast<size_t>(entries * dim)), pooled = normal(static_cast<size_t>(entries / every * dim)), x = normal(static_cast<size_t>(tokens * 200));
    const std::vector<int32_t> slots{4, 0, 2};
    std::vector<int64_t> windows(static_cast<size_t>(tokens * 3));
    for (int64_t& token : windows) token = static_cast<int64_t>(random_bits() % 50) - 1;
    const int64_t multipliers[3] = {13, 77777, 1234567}, primes[4] = {53, 59, 61, 67}, offsets[4] = {0, 53, 112, 173};
    std::vector<float> floats[2];
    std::vector<int32_t> integers[2];
    std::vector<int64_t> rows[2];
    Pool* pools[2] = {&one, &pool};
    for (int i = 0; i < 2; ++i) {
        Pool& on = *pools[i];
        const auto room = [&](int64_t size) {
            floats[i].resize(floats[i].size() + static_cast<size_t>(size));
            return floats[i].data() + floats[i].size() - size;
        };
        floats[i].reserve(1 << 16), integers[i].resize(static_cast<size_t>(tokens * 13)), rows[i].resize(static_cast<size_t>(tokens * 4));
        int32_t *best = integers[i].data(), *blocks = best + tokens * 5, *experts = blocks + tokens * 4;
        for (int32_t* out : {blocks, best}) {  // the blocks first: the choice is among them
            const bool whole = out == blocks;
            const SelectArgs args{q.data(), nullptr, pooled.data(), whole ? nullptr : blocks, out, heads * dim, dim, 0, kPageFloat, heads, dim, whole ? 4 : 5, every, whole ? 0 : 4, 3, whole, pooled_places};
            run(on, kernels.select, args, kernels.select_scratch(args));
        }
        const int32_t seen[3] = {kChosen, kGroups, kPooled};
        for (int32_t kind : seen) {
            AttendArgs args{q.data(), nullptr, heads * dim, dim, 0, 0, keys.data(), nullptr, keys.data(), pooled.data(), nullptr, best, room(tokens * heads * dim), kPageFloat, heads, 1, dim, 0, dim, 5, kind == kPooled ? 6 : 0, kind, every, 0, 0.2f, pages.places};
            run(on, kernels.attend, args);
        }
        for (int overlap : {0, 1}) {
            std::vector<float> tail(5 * 2 * every * 2 * 66, 0.5f);
            run(on, kernels.pool, PoolArgs{x.data(), x.data() + 66, overlap ? x.data() : nullptr, tail.data(), room(tokens * 66), pages.starts.data(), pages.lengths.data(), slots.data(), 200, 200, sequences, 66, every, overlap});
        }
        for (int32_t score : {0, 1, 2})
            run(on, kernels.route, RouteArgs{x.data(), 200, x.data(), nullptr, nullptr, room(tokens * 4), experts, tokens, 36, 4, score, 4, 2, score == 1, true, 1.5f});
        for (int64_t wide : {1, 19}) run(on, kernels.delta_gates, DeltaGatesArgs{x.data(), x.data() + 100, x.data(), x.data(), room(tokens * 5 * wide), room(tokens * 5), 200, 200, tokens, 5, wide, wide > 1, -5.0f});
        float *pre = room(tokens * 3), *post = room(tokens * 3), *comb = room(tokens * 9), *streams = room(tokens * 3 * 21);
        run(on, kernels.hyper_weights, HyperWeightsArgs{x.data(), x.data(), x.data(), pre, post, comb, tokens, 3, 4, 1e-6f});
        run(on, kernels.copy, CopyArgs{{x.data(), 200, 3, 0}, pre, streams, tokens * 3, 21});
        run(on, kernels.hyper_write, HyperArgs{streams, x.data(), post, comb, room(tokens * 3 * 21), tokens, 3, 21});
        run(on, kernels.hyper_read, HyperArgs{streams, nullptr, pre, nullptr, room(tokens * 21), tokens, 3, 21});
        run(on, kernels.gated_mean, StreamGateArgs{streams, streams, room(tokens * 21), tokens, 3, 21});
        run(on, kernels.stream_gate, StreamGateArgs{streams, streams, room(tokens * 3), tokens, 3, 21});
        run(on, kernels.mix, MixArgs{{x.data(), x.data() + 1000}, x.data(), x.data() + 40, room(tokens * 21), tokens, 21, 2, 1e-6f});
        run(on, kernels.hash, HashArgs{windows.data(), multipliers, primes, offsets, rows[i].data(), tokens, 3, 2, 3, 7});
        for (int64_t format : {kF32, kBf16}) {
            const PackGroupsArgs table{reinterpret_cast<const uint8_t*>(x.data()), nullptr, nullptr, format, 240, 17, 1, 1, kF32, nullptr};
            run(on, kernels.gather, GatherArgs{rows[i].data(), room(tokens * 4 * 17), tokens * 4, 0, table});
        }
    }
    check(std::memcmp(floats[0].data(), floats[1].data(), floats[0].size() * 4) == 0, kernels.isa, "choices on several threads");
    check(integers[0] == integers[1] && rows[0] == rows[1], kernels.isa, "what is chosen on several threads");
}

}  // namespace

int main(int count, char** names) {
    Pool pool(3), one(1);
    int runs = 200;
    std::vector<const Kernels*> tested;
    for (int i = 1; i < count; ++i) {
        if (const int number = std::atoi(names[i])) runs = number;
        else tested.push_back(&kernels_named(names[i]));
    }
    starve();
    for (const Kernels* kernels : tested.empty() ? usable_kernels() : tested) {
        for (int64_t format = kQ4_0; format < kNumFormats; ++format) {
            for (int64_t rows : {1, 16, 50}) linear_of(*kernels, pool, format, rows, 512);
            if (format_info(format).columns == 32) linear_of(*kernels, pool, format, 19, 96);  // blocks that are left of every few
            for (int fill : {0x00, 0x7f, 0x80, 0xff})
                if (format < kFirstGroups) linear_of(*kernels, pool, format, 17, 512, fill);
        }
        for (int64_t format : {kF32, kF16, kBf16})
            for (int64_t columns : {7, 512, 1100}) plain_of(*kernels, pool, format, 37, columns);
        for (int64_t format = kF32; format < kNumFormats; ++format) gated_of(*kernels, pool, format, format, 50, 512);
        for (int64_t inner : {1, 16, 33}) gated_of(*kernels, pool, kQ4_K, kQ6_K, inner, 256);
        gated_of(*kernels, pool, kQ5_0, kBf16, 37, 96);
        others(*kernels, pool, one);
        experts_of(*kernels, pool, one);
        choices(*kernels, pool, one);
        for (int i = 0; i < runs; ++i) experts_of(*kernels, pool, one);
        stress(*kernels, runs);
        if (const Kernels& plain = kernels_named("portable"); kernels != &plain) {
            Both both(*kernels, plain, pool);
            agree_on_products(both), agree_on_rows(both), agree_on_pages(both);
            Both starved(*kernels, plain, pool, true);
            agree_on_products(starved), agree_on_rows(starved), agree_on_pages(starved);
        }
        std::printf("%s: done\n", kernels->isa);
    }
    return failures ? 1 : 0;
}
