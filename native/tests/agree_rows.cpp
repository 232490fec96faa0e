// What works on rows of activations: norms, gates, streams, routers, recurrences and the choice of tokens.
#include "agree.h"

namespace parity::tests {
namespace {

void norms(Both& both, int64_t columns) {
    const int64_t rows = 6, stride = 3 * columns + 5;
    const Floats x = normals(rows * stride), weight = normals(2 * columns), bias = normals(columns), residual = normals(rows * columns);
    const Spaced heads{x.data(), 2 * stride, 2, columns}, gates{x.data() + columns, stride, 1, 0}, none{nullptr, 0, 1, 0};
    both.hold("norm", columns, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        Floats sum = room(rows * columns), out = room(rows * columns);
        NormArgs args{heads, nullptr, nullptr, nullptr, none, nullptr, out.data(), rows, columns, 1, 1e-6f, 0, 0};
        run(kernels.norm, args), answers.add(out);
        args.residual = residual.data(), args.sum = sum.data(), args.weight = weight.data(), args.weights = 2, args.shift = 1;
        run(kernels.norm, args), answers.add(out), answers.add(sum);
        for (args.activation = 0; args.activation < 2; ++args.activation) args.gate = gates, run(kernels.norm, args), answers.add(out);
        if (columns == 1) return;  // with the mean taken out, nothing is left of one number
        args.bias = bias.data(), run(kernels.norm, args), answers.add(out);
    });
    both.hold("gates, sums and copies of rows", columns, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        Floats out = room(rows * columns);
        for (int64_t kind : {0, 1, 2}) run(kernels.gated, GatedArgs{x.data(), out.data(), rows, columns, kind, 0.5f, 1.5f, 3.0f}), answers.add(out);
        for (int64_t one : {0, 1}) run(kernels.sigmoid_gate, SigmoidGateArgs{heads, gates, out.data(), rows, columns, one}), answers.add(out);
        for (int64_t kind : {0, 1}) run(kernels.activate, ActivateArgs{heads, out.data(), rows, columns, kind, 1.7f, 0.3f}), answers.add(out);
        run(kernels.add, AddArgs{heads, gates, out.data(), rows, columns}), answers.add(out);
        run(kernels.copy, CopyArgs{heads, nullptr, out.data(), rows, columns}), answers.add(out);
        run(kernels.copy, CopyArgs{heads, residual.data(), out.data(), rows, columns}), answers.add(out);
    });
}

void streams(Both& both, int64_t columns) {
    const int64_t count = 3, tokens = 2, size = tokens * count * columns;
    const Floats mixed = normals(tokens * count * (2 + count)), base = normals(count * (2 + count)), scale = normals(3), x = normals(size), y = normals(size);
    both.hold("streams", columns, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        Floats pre = room(tokens * count), post = pre, comb = room(tokens * count * count), scores = pre, wide = room(size), out = room(tokens * columns);
        run(kernels.hyper_weights, HyperWeightsArgs{mixed.data(), base.data(), scale.data(), pre.data(), post.data(), comb.data(), tokens, count, 4, 1e-6f});
        answers.add(pre), answers.add(post), answers.add(comb);
        run(kernels.hyper_read, HyperArgs{x.data(), nullptr, pre.data(), nullptr, out.data(), tokens, count, columns}), answers.add(out);
        run(kernels.hyper_write, HyperArgs{x.data(), y.data(), post.data(), comb.data(), wide.data(), tokens, count, columns}), answers.add(wide);
        run(kernels.hyper_write, HyperArgs{x.data(), y.data(), post.data(), nullptr, wide.data(), tokens, count, columns}), answers.add(wide);
        run(kernels.gated_mean, StreamGateArgs{x.data(), y.data(), out.data(), tokens, count, columns}), answers.add(out);
        run(kernels.stream_gate, StreamGateArgs{x.data(), y.data(), scores.data(), tokens, count, columns}), answers.add(scores);
        run(kernels.mix, MixArgs{{x.data(), y.data()}, x.data(), y.data(), out.data(), tokens, columns, 2, 1e-6f}), answers.add(out);
    });
}

void routers(Both& both) {
    const int64_t rows = 11, columns = 36;
    const Floats logits = normals(rows * columns), bias = normals(columns), wide = normals(rows * 5 * 19), rates = normals(5 * 19);
    Integers table(50 * 4), tokens(rows);
    for (int32_t& expert : table) expert = static_cast<int32_t>(random_bits() % columns);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_bits() % 50);
    both.hold("route", 0, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        Floats weights = room(rows * 4);
        Integers experts(rows * 4);
        for (int32_t score : {0, 1, 2})
            for (int32_t groups : {1, 4})
                for (const bool by_table : {false, true}) {
                    run(kernels.route, RouteArgs{logits.data(), columns, groups > 1 ? bias.data() : nullptr, by_table ? tokens.data() : nullptr, by_table ? table.data() : nullptr, weights.data(), experts.data(), rows, columns, 4, score, groups, groups > 1 ? 2 : 1, score == 1, score > 0, 1.5f});
                    answers.add(weights), answers.add(experts);
                }
    });
    for (int64_t dim : {1, 19})
        both.hold("gates of the delta rule", dim, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
            Floats decay = room(rows * 5 * dim), beta = room(rows * 5);
            for (int64_t bounded : {0, 1}) {
                run(kernels.delta_gates, DeltaGatesArgs{wide.data(), logits.data(), rates.data(), rates.data(), decay.data(), beta.data(), 5 * dim, columns, rows, 5, dim, bounded, -5.0f});
                answers.add(decay), answers.add(beta);
            }
        });
}

void recurrences(Both& both) {
    const int64_t sequences = 3, tokens = 9, channels = 70, width = 4;
    const Integers starts{0, 1, 1, 9}, slots{4, 0, 2};
    const Floats x = normals(tokens * 200), weight = normals(channels * width), bias = normals(channels), kept = normals(5 * 4 * 21 * 37);
    both.hold("causal_conv", 0, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        for (int64_t silu : {0, 1}) {
            Floats state = kept, out = room(tokens * channels);
            run(kernels.causal_conv, ConvArgs{x.data(), weight.data(), silu ? bias.data() : nullptr, state.data(), out.data(), starts.data(), slots.data(), 200, sequences, channels, width, silu});
            answers.add(out), answers.add(state);
        }
    });
    const int32_t key_heads = 2, value_heads = 4, k_dim = 21, v_dim = 37;
    const Floats v = normals(tokens * value_heads * v_dim), beta = normals(tokens * value_heads);
    Floats decay = normals(tokens * value_heads * k_dim);
    for (float& rate : decay) rate = -std::fabs(rate);
    for (int32_t decay_width : {1, k_dim})
        both.hold("gated_delta", decay_width, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
            Floats state = kept, out = room(tokens * value_heads * v_dim);
            run(kernels.gated_delta, DeltaArgs{x.data(), x.data() + 100, v.data(), decay.data(), beta.data(), state.data(), out.data(), starts.data(), slots.data(), 200, 200, value_heads * v_dim, sequences, key_heads, value_heads, k_dim, v_dim, decay_width, 0.2f});
            answers.add(out), answers.add(state);
        });
    const Integers ids{3, 1, 4, 1, 5, 9, 2, 6, 5}, past{2, 7, 1, 8, 2, 8, 1, 8, 2, 8};
    const std::vector<int64_t> multipliers{13, 77777, 1234567}, primes{53, 59, 61, 67}, offsets{0, 53, 112, 173};
    both.hold("windows of tokens, their hashes and rows", 0, kExact, [&](const Kernels& kernels, auto run, Answers& answers) {
        Integers history = past;
        std::vector<int64_t> windows(tokens * 3), rows(tokens * 4);
        Floats out = room(tokens * 4 * 17);
        run(kernels.windows, WindowsArgs{ids.data(), nullptr, history.data(), starts.data(), slots.data(), sequences, 3, windows.data()});
        run(kernels.hash, HashArgs{windows.data(), multipliers.data(), primes.data(), offsets.data(), rows.data(), tokens, 3, 2, 3, 7});
        answers.add(history), answers.add(windows), answers.add(rows);
        for (int64_t format : {kF32, kF16, kBf16}) {
            const PackGroupsArgs table{reinterpret_cast<const uint8_t*>(kept.data()), nullptr, nullptr, format, 150, 17, 1, 1, kF32, nullptr};
            run(kernels.gather, GatherArgs{rows.data(), out.data(), tokens * 4, 20, table}), answers.add(out);
        }
    });
}

void choices(Both& both) {
    const int64_t rows = 4, columns = 5003;
    Floats logits = normals(rows * columns);
    logits[3 * columns + 77] = std::nanf("");
    const Floats temperature{0, 1, 0.5f, 1}, top_p{1, 0.8f, 0.3f, 1}, min_p{0, 0, 0.1f, 0}, uniform{0.3f, 0.99f, 0.5f, 0.5f};
    const Integers top_k{0, 40, 0, 0};
    both.hold("sample", 0, kExact, [&](const Kernels& kernels, auto run, Answers& answers) {
        std::vector<int64_t> out(rows);
        run(kernels.sample, SampleArgs{logits.data(), temperature.data(), top_p.data(), min_p.data(), uniform.data(), top_k.data(), rows, columns, columns, out.data()});
        answers.add(out);
    });
    const Floats much = normals(3 << 16);
    both.hold("read", 0, kClose, [&](const Kernels& kernels, auto run, Answers& answers) {
        Floats largest(16);
        run(kernels.read, ReadArgs{much.data(), 3 << 16, largest.data()});
        answers.add(Floats{*std::max_element(largest.begin(), largest.end()) > 0 ? 1.0f : 0.0f});  // which thread reads what varies
    });
    Integers order(64);
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i * 37 % 64);
    both.hold("reorder", 0, kExact, [&](const Kernels& kernels, auto run, Answers& answers) {
        Floats out = room(5 * 64);
        run(kernels.reorder, ReorderArgs{logits.data(), 70, 5, 64, order.data(), out.data()}), answers.add(out);
    });
}

}  // namespace

void agree_on_rows(Both& both) {
    for (int64_t columns : {1, 15, 16, 45, 130}) norms(both, columns), streams(both, columns);
    routers(both);
    recurrences(both);
    choices(both);
}

}  // namespace parity::tests
