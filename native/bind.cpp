// The Python module `_native`: pointers and sizes in, errors as exceptions, nothing owned.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "isa/choose.h"
#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace parity {
namespace {

using Address = uintptr_t;
template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }

// Below this many bytes or operations an op is done sooner by one thread than by several.
constexpr int64_t kSoloWork = 1 << 15;

struct State {
    Engine engine;
    const Kernels* kernels = &kernels_named("");

    template <class Args> void submit(const char* name, Kernel kernel, const Args& args, int64_t work, size_t scratch = 0) {
        const nb::gil_scoped_release unlocked;
        engine.submit(name, kernel, args, work < kSoloWork, scratch);
    }
};

State& state() {
    static State only;
    return only;
}

// A process that forks after it has computed, as those of `multiprocessing` do, can compute on in its child.
void survive_forks() {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork([] { state().engine.before_fork(); }, [] { state().engine.after_fork(); }, [] { state().engine.after_fork_in_child(); });
#endif
}

void need(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

Places places(Address positions, Address starts, Address lengths, Address pages, int64_t sequences, int64_t tokens, int64_t max_pages, int64_t page_size) {
    need(sequences >= 0 && tokens >= 0 && page_size > 0, "a batch has no negative sizes");
    return {at<const int32_t>(positions), at<const int32_t>(starts), at<const int32_t>(lengths), at<const int32_t>(pages), sequences, tokens, max_pages, page_size};
}

int64_t part_bytes(const Part& part, int64_t columns) {
    const FormatInfo& info = format_info(part.format);
    return info.columns ? part.rows * (columns / info.columns) * info.bytes : part.rows * columns * info.bytes;
}

using PartTuple = std::tuple<Address, int32_t, int32_t>;  // data, format, rows

LinearArgs product(Address x, int64_t x_stride, int64_t tokens, int64_t columns, const std::vector<PartTuple>& parts, Address bias, Address out, int64_t out_stride, bool as_floats) {
    need(parts.size() <= kMaxParts, "a weight has at most five parts");
    LinearArgs args{at<const float>(x), x_stride, tokens, columns, at<const float>(bias), at<float>(out), out_stride, static_cast<int64_t>(parts.size()), {}, as_floats};
    int32_t first = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
        const auto& [data, format, rows] = parts[i];
        need(format >= 0 && format < kNumFormats, "no such weight format");
        const FormatInfo& info = format_info(format);
        need(!info.columns || columns % info.columns == 0, "the columns of a packed weight are a whole number of blocks");
        args.parts[i] = Part{at<const void>(data), format, rows, first};
        first += rows;
    }
    return args;
}

int64_t product_work(const LinearArgs& args) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < args.num_parts; ++i) bytes += part_bytes(args.parts[i], args.columns);
    return bytes * args.tokens;
}

void linear(Address x, int64_t x_stride, int64_t tokens, int64_t columns, const std::vector<PartTuple>& parts, Address bias, Address out, int64_t out_stride, bool as_floats) {
    const LinearArgs args = product(x, x_stride, tokens, columns, parts, bias, out, out_stride, as_floats);
    state().submit("linear", state().kernels->linear, args, product_work(args), state().kernels->linear_scratch(args));
}

void gated_linear(Address x, int64_t x_stride, int64_t tokens, int64_t columns, const std::vector<PartTuple>& parts, Address bias, Address out, int64_t out_stride, bool as_floats, int32_t kind, float limit, float beta, float linear) {
    need(parts.size() == 2 && std::get<2>(parts[0]) == std::get<2>(parts[1]), "gate and up have as many rows");
    const GatedLinearArgs args{product(x, x_stride, tokens, columns, parts, bias, out, out_stride, as_floats), kind, limit, beta, linear};
    state().submit("gated_linear", state().kernels->gated_linear, args, product_work(args.both), state().kernels->linear_scratch(args.both));
}

void reorder(Address x, int64_t x_stride, int64_t rows, int64_t columns, Address order, Address out) {
    const ReorderArgs args{at<const float>(x), x_stride, rows, columns, at<const int32_t>(order), at<float>(out)};
    state().submit("reorder", state().kernels->reorder, args, rows * columns * 4);
}

void embed(Address tokens, int64_t num_tokens, int64_t columns, Address data, int64_t format, int64_t rows, Address out) {
    need(format >= 0 && format < kNumFormats, "no such weight format");
    need(!format_info(format).columns || columns % format_info(format).columns == 0, "the columns of a packed weight are a whole number of blocks");
    const EmbedArgs args{at<const int32_t>(tokens), num_tokens, columns, at<const void>(data), format, rows, at<float>(out)};
    state().submit("embed", state().kernels->embed, args, num_tokens * columns * 4);
}

void pack(Address rows, int64_t format, int64_t num_rows, int64_t columns, Address panels) {
    need(format >= 0 && format < kNumFormats && format_info(format).columns > 0, "not a packed format");
    need(columns > 0 && columns % format_info(format).columns == 0, "the columns of a packed weight are a whole number of blocks");
    const PackArgs args{at<const uint8_t>(rows), format, num_rows, columns, at<uint8_t>(panels)};
    state().submit("pack", state().kernels->pack, args, num_rows * columns);
}

void pack_groups(Address data, Address scale, Address zeros, int64_t format, int64_t rows, int64_t columns, int64_t group_rows, int64_t group_columns, int64_t scale_format, Address panels) {
    need(format >= 0 && format < kNumFormats && format_info(format).columns > 0, "not a packed format");
    need(columns > 0 && columns % format_info(format).columns == 0 && group_rows > 0 && group_columns > 0, "the columns of a packed weight are a whole number of blocks");
    const PackGroupsArgs args{at<const uint8_t>(data), at<const void>(scale), at<const uint8_t>(zeros), format, rows, columns, group_rows, group_columns, scale_format, at<uint8_t>(panels)};
    state().submit("pack", state().kernels->pack_groups, args, rows * columns);
}

void need_page_type(int32_t type) { need(type >= kPageFloat && type <= kPageByte, "no such type of pages"); }

using SpacedTuple = std::tuple<Address, int64_t, int64_t, int64_t>;  // data, stride, inner, inner stride

Spaced spaced(const SpacedTuple& rows) {
    const auto& [data, stride, inner, inner_stride] = rows;
    need(inner > 0, "rows stand at least one beside each other");
    return {at<const float>(data), stride, inner, inner_stride};
}

void norm(const SpacedTuple& x, Address residual, Address weight, Address bias, const SpacedTuple& gate, Address sum, Address out, int64_t rows, int64_t columns, int64_t weights, float eps, float shift, int64_t activation) {
    need(weights > 0, "a norm's weights are at least one row");
    const NormArgs args{spaced(x), at<const float>(residual), at<const float>(weight), at<const float>(bias), spaced(gate), at<float>(sum), at<float>(out), rows, columns, weights, eps, shift, activation};
    state().submit("norm", state().kernels->norm, args, rows * columns * 4);
}

void gated(Address gate_up, Address out, int64_t rows, int64_t columns, int64_t kind, float limit, float beta, float linear) {
    const GatedArgs args{at<const float>(gate_up), at<float>(out), rows, columns, kind, limit, beta, linear};
    state().submit("gated_activation", state().kernels->gated, args, rows * columns * 4);
}

void sigmoid_gate(const SpacedTuple& x, const SpacedTuple& gate, bool one, Address out, int64_t rows, int64_t columns) {
    const SigmoidGateArgs args{spaced(x), spaced(gate), at<float>(out), rows, columns, one};
    state().submit("sigmoid_gate", state().kernels->sigmoid_gate, args, rows * columns * 4);
}

void add(const SpacedTuple& a, const SpacedTuple& b, Address out, int64_t rows, int64_t columns) {
    const AddArgs args{spaced(a), spaced(b), at<float>(out), rows, columns};
    state().submit("add", state().kernels->add, args, rows * columns);
}

void copy(const SpacedTuple& x, Address factors, Address out, int64_t rows, int64_t columns) {
    const CopyArgs args{spaced(x), at<const float>(factors), at<float>(out), rows, columns};
    state().submit("copy", state().kernels->copy, args, rows * columns);
}

void activate(const SpacedTuple& x, Address out, int64_t rows, int64_t columns, int64_t kind, float scale, float factor) {
    const ActivateArgs args{spaced(x), at<float>(out), rows, columns, kind, scale, factor};
    state().submit("activate", state().kernels->activate, args, rows * columns * 4);
}

void angles(Address positions, Address inv_freq, Address out, int64_t tokens, int64_t half, int64_t shift, float scale) {
    const AnglesArgs args{at<const int32_t>(positions), at<const float>(inv_freq), at<float>(out), tokens, half, shift, scale};
    state().submit("rope_angles", state().kernels->angles, args, tokens * half * 64);
}

void rope(Address x, int64_t x_stride, int64_t x_head_stride, Address angles, Address out, int64_t tokens, int64_t heads, int64_t dim, int64_t half, int64_t offset, bool interleaved, bool inverse) {
    const RopeArgs args{at<const float>(x), x_stride, x_head_stride, at<const float>(angles), at<float>(out), tokens, heads, dim, half, offset, interleaved, inverse};
    state().submit("rope", state().kernels->rope, args, tokens * heads * dim * 4);
}

void write_rows(Address values, Address pages, int64_t value_stride_bytes, int64_t row_bytes, int64_t every, int64_t rows, int64_t columns, int32_t type, const Places& where) {
    need(every > 0, "an entry is of at least one token");
    need_page_type(type);
    const WriteArgs args{at<const void>(values), at<void>(pages), value_stride_bytes, row_bytes, every, rows, columns, type, where};
    state().submit("write", state().kernels->write, args, where.num_tokens * row_bytes);
}

void rope_write(Address q, int64_t q_stride, Address k, int64_t k_stride, Address v, int64_t v_stride, Address angles, Address out, Address k_pages, Address v_pages, int32_t page_type, int32_t heads, int32_t kv_heads, int32_t k_dim, int32_t v_dim, int32_t half, int32_t offset, bool interleaved, const Places& where) {
    need_page_type(page_type);
    const RopeWriteArgs args{at<const float>(q), at<const float>(k), at<const float>(v), q_stride, k_stride, v_stride, at<const float>(angles), at<float>(out), at<void>(k_pages), at<void>(v_pages), page_type, heads, kv_heads, k_dim, v_dim, half, offset, interleaved, where};
    state().submit("rope_write", state().kernels->rope_write, args, where.num_tokens * (heads + 2 * kv_heads) * k_dim * 4);
}

void attend(Address q, int64_t q_stride, int64_t q_head_stride, Address q2, int64_t q2_stride, int64_t q2_head_stride, Address k_pages, Address k2_pages, Address v_pages, Address pooled, Address sinks, Address selected, Address out, int32_t page_type, int32_t heads, int32_t kv_heads, int32_t k_dim, int32_t k2_dim, int32_t v_dim, int32_t num_selected, int32_t window, int32_t seen, int32_t every, float scale, const Places& where) {
    need(kv_heads > 0 && heads % kv_heads == 0, "query heads are a multiple of key heads");
    need(seen == kAll || seen == kPooled || selected, "what a row attends to is chosen");
    need(every > 0, "an entry is of at least one token");
    need(!pooled || where.page_size >= every, "a page holds the tokens of at least one pooled entry");
    need(scale > 0, "scores are scaled by a number above 0");
    need_page_type(page_type);
    AttendArgs args{at<const float>(q), at<const float>(q2), q_stride, q_head_stride, q2_stride, q2_head_stride, at<const void>(k_pages), at<const void>(k2_pages), at<const void>(v_pages), at<const void>(pooled), at<const float>(sinks), at<const int32_t>(selected), at<float>(out), page_type, heads, kv_heads, k_dim, k2_dim, v_dim, num_selected, window, seen, every, 0, scale, where};
    const size_t scratch = state().kernels->attend_scratch(args, state().engine.pool()->size());
    state().submit("attend", state().kernels->attend, args, kSoloWork, scratch);  // lengths are known only when it runs
}

void select_entries(Address q, int64_t q_stride, int64_t q_head_stride, Address weights, int64_t weight_stride, Address k_pages, Address within, Address out, int32_t page_type, int32_t heads, int32_t dim, int32_t top_k, int32_t every, int32_t num_within, int32_t length, bool blocks, const Places& where) {
    need(every > 0 && length > 0, "an entry is of at least one token, and a block of one entry");
    need_page_type(page_type);
    const SelectArgs args{at<const float>(q), at<const float>(weights), at<const void>(k_pages), at<const int32_t>(within), at<int32_t>(out), q_stride, q_head_stride, weight_stride, page_type, heads, dim, top_k, every, num_within, length, blocks, where};
    state().submit("select", state().kernels->select, args, kSoloWork, state().kernels->select_scratch(args));
}

void pool(Address values, int64_t value_stride, Address gates, int64_t gate_stride, Address bias, Address tail, Address out, Address starts, Address lengths, Address slots, int64_t sequences, int64_t channels, int64_t every, bool overlap, int64_t tokens) {
    need(every > 0, "an entry is of at least one token");
    const PoolArgs args{at<const float>(values), at<const float>(gates), at<const float>(bias), at<float>(tail), at<float>(out), at<const int32_t>(starts), at<const int32_t>(lengths), at<const int32_t>(slots), value_stride, gate_stride, sequences, channels, every, overlap};
    state().submit("pool", state().kernels->pool, args, tokens * channels * 16);
}

void route(Address logits, int64_t stride, Address bias, Address tokens, Address table, Address weights, Address experts, int64_t rows, int64_t columns, int32_t top_k, int32_t score, int32_t groups, int32_t top_groups, bool by_largest, bool renormalize, float scale) {
    need(groups > 0 && groups <= 64 && top_groups <= groups && columns % groups == 0, "experts are in at most 64 groups of one size");
    need(top_k > 0 && top_k <= columns / groups * top_groups, "at least one expert is chosen, and no more than there are");
    const RouteArgs args{at<const float>(logits), stride, at<const float>(bias), at<const int32_t>(tokens), at<const int32_t>(table), at<float>(weights), at<int32_t>(experts), rows, columns, top_k, score, groups, top_groups, by_largest, renormalize, scale};
    state().submit("route", state().kernels->route, args, rows * columns * 8);
}

void delta_gates(Address a, int64_t a_stride, Address b, int64_t b_stride, Address a_log, Address dt_bias, Address decay, Address beta, int64_t rows, int64_t heads, int64_t dim, bool bounded, float lower_bound) {
    const DeltaGatesArgs args{at<const float>(a), at<const float>(b), at<const float>(a_log), at<const float>(dt_bias), at<float>(decay), at<float>(beta), a_stride, b_stride, rows, heads, dim, bounded, lower_bound};
    state().submit("delta_gates", state().kernels->delta_gates, args, rows * heads * dim * 8);
}

void hyper_weights(Address mixed, Address base, Address scale, Address pre, Address post, Address comb, int64_t tokens, int64_t count, int64_t iterations, float eps) {
    const HyperWeightsArgs args{at<const float>(mixed), at<const float>(base), at<const float>(scale), at<float>(pre), at<float>(post), at<float>(comb), tokens, count, iterations, eps};
    state().submit("hyper_weights", state().kernels->hyper_weights, args, tokens * count * count * iterations * 4);
}

void hyper_read(Address streams, Address weights, Address out, int64_t tokens, int64_t count, int64_t columns) {
    const HyperArgs args{at<const float>(streams), nullptr, at<const float>(weights), nullptr, at<float>(out), tokens, count, columns};
    state().submit("hyper_read", state().kernels->hyper_read, args, tokens * count * columns);
}

void hyper_write(Address streams, Address y, Address weights, Address comb, Address out, int64_t tokens, int64_t count, int64_t columns) {
    const HyperArgs args{at<const float>(streams), at<const float>(y), at<const float>(weights), at<const float>(comb), at<float>(out), tokens, count, columns};
    state().submit("hyper_write", state().kernels->hyper_write, args, tokens * count * columns * (comb ? count : 1));
}

void gated_mean(Address x, Address gates, Address out, int64_t tokens, int64_t count, int64_t columns) {
    const StreamGateArgs args{at<const float>(x), at<const float>(gates), at<float>(out), tokens, count, columns};
    state().submit("gated_mean", state().kernels->gated_mean, args, tokens * count * columns * 4);
}

void stream_gate(Address queries, Address keys, Address out, int64_t tokens, int64_t count, int64_t columns) {
    const StreamGateArgs args{at<const float>(queries), at<const float>(keys), at<float>(out), tokens, count, columns};
    state().submit("stream_gate", state().kernels->stream_gate, args, tokens * count * columns);
}

void mix(const std::vector<Address>& values, Address norm, Address proj, Address out, int64_t tokens, int64_t columns, float eps) {
    need(!values.empty() && values.size() <= kMaxMixed, "at most twenty values are mixed");
    MixArgs args{{}, at<const float>(norm), at<const float>(proj), at<float>(out), tokens, columns, static_cast<int32_t>(values.size()), eps};
    for (size_t i = 0; i < values.size(); ++i) args.values[i] = at<const float>(values[i]);
    state().submit("mix", state().kernels->mix, args, tokens * columns * args.count * 2);
}

void token_windows(Address tokens, Address ids, Address history, Address starts, Address slots, int64_t sequences, int64_t width, Address out) {
    const WindowsArgs args{at<const int32_t>(tokens), at<const int32_t>(ids), at<int32_t>(history), at<const int32_t>(starts), at<const int32_t>(slots), sequences, width, at<int64_t>(out)};
    state().submit("token_windows", state().kernels->windows, args, 0);
}

void hash_windows(Address windows, Address multipliers, Address primes, Address offsets, Address out, int64_t tokens, int64_t width, int64_t heads, int64_t fill, int64_t stop) {
    const HashArgs args{at<const int64_t>(windows), at<const int64_t>(multipliers), at<const int64_t>(primes), at<const int64_t>(offsets), at<int64_t>(out), tokens, width, heads, fill, stop};
    state().submit("hash_windows", state().kernels->hash, args, tokens * width * heads * 16);
}

void gather(Address rows, Address data, Address scale, Address out, int64_t count, int64_t first, int64_t num_rows, int64_t columns, int64_t format, int64_t group_rows, int64_t group_columns, int64_t scale_format) {
    need(format >= 0 && format < kNumFormats && (!scale || format >= kFirstFloatPanels), "no format of a table");
    need(!format_info(format).columns || columns % format_info(format).columns == 0, "the columns of a packed weight are a whole number of blocks");
    need(group_rows > 0 && group_columns > 0, "a scale belongs to some rows and columns");
    const GatherArgs args{at<const int64_t>(rows), at<float>(out), count, first, {at<const uint8_t>(data), at<const void>(scale), nullptr, format, num_rows, columns, group_rows, group_columns, scale_format, nullptr}};
    state().submit("gather", state().kernels->gather, args, count * columns);
}

void experts(Address x, Address gate_up, Address down, Address weights, Address chosen, Address out, int64_t tokens, int64_t columns, int64_t inner, int64_t experts, int64_t top_k, int32_t gate_up_format, int32_t down_format, int32_t kind, float limit, float beta, float linear, bool as_floats) {
    const ExpertsArgs args{at<const float>(x), at<const void>(gate_up), at<const void>(down), at<const float>(weights), at<const int32_t>(chosen), at<float>(out), tokens, columns, inner, experts, top_k, gate_up_format, down_format, kind, limit, beta, linear, as_floats};
    for (const auto& [format, width] : {std::pair{gate_up_format, columns}, std::pair{down_format, inner}}) {
        need(format >= 0 && format < kNumFormats, "no such weight format");
        need(!format_info(format).columns || width % format_info(format).columns == 0, "the columns of a packed weight are a whole number of blocks");
    }
    state().submit("experts", state().kernels->experts, args, tokens * top_k * inner * columns, state().kernels->experts_scratch(args));
}

void causal_conv(Address x, int64_t x_stride, Address weight, Address bias, Address state_, Address out, Address starts, Address slots, int64_t sequences, int64_t tokens, int64_t channels, int64_t width, bool silu) {
    const ConvArgs args{at<const float>(x), at<const float>(weight), at<const float>(bias), at<float>(state_), at<float>(out), at<const int32_t>(starts), at<const int32_t>(slots), x_stride, sequences, channels, width, silu};
    state().submit("causal_conv", state().kernels->causal_conv, args, tokens * channels * width * 4);
}

void gated_delta(Address q, int64_t q_stride, Address k, int64_t k_stride, Address v, int64_t v_stride, Address decay, Address beta, Address state_, Address out, Address starts, Address slots, int64_t sequences, int64_t tokens, int32_t key_heads, int32_t value_heads, int32_t k_dim, int32_t v_dim, int32_t decay_width, float scale) {
    need(key_heads > 0 && value_heads % key_heads == 0, "value heads are a multiple of key heads");
    need(decay_width == 1 || decay_width == k_dim, "a head has one decay, or one for each dimension of its keys");
    const DeltaArgs args{at<const float>(q), at<const float>(k), at<const float>(v), at<const float>(decay), at<const float>(beta), at<float>(state_), at<float>(out), at<const int32_t>(starts), at<const int32_t>(slots), q_stride, k_stride, v_stride, sequences, key_heads, value_heads, k_dim, v_dim, decay_width, scale};
    state().submit("gated_delta", state().kernels->gated_delta, args, tokens * value_heads * k_dim * v_dim * 8);
}

void sample(Address logits, int64_t stride, Address temperature, Address top_k, Address top_p, Address min_p, Address uniform, int64_t rows, int64_t columns, Address out) {
    const SampleArgs args{at<const float>(logits), at<const float>(temperature), at<const float>(top_p), at<const float>(min_p), at<const float>(uniform), at<const int32_t>(top_k), rows, columns, stride, at<int64_t>(out)};
    state().submit("sample", state().kernels->sample, args, rows > 1 ? rows * columns * 16 : 0);
}

void read_all(Address data, int64_t count, Address out) {
    state().submit("read", state().kernels->read, ReadArgs{at<const float>(data), count, at<float>(out)}, count);
}

std::vector<std::pair<std::string, double>> timed(const Recording& recording, int repeats) {
    need(repeats > 0, "times are taken of at least one run");
    std::vector<double> seconds;
    {
        const nb::gil_scoped_release unlocked;
        seconds = recording.timed(*state().engine.pool(), repeats);
    }
    std::vector<std::pair<std::string, double>> out;
    for (size_t i = 0; i < seconds.size(); ++i) out.emplace_back(recording.tasks()[i].name, seconds[i]);
    return out;
}

}  // namespace
}  // namespace parity

NB_MODULE(_native, m) {
    using namespace parity;
    nb::set_leak_warnings(false);  // a program may end while an engine's thread still holds its recordings: no leak
    survive_forks();
    m.attr("interface") = PARITY_INTERFACE;
    nb::class_<Places>(m, "Places").def(
        "__init__",
        [](Places* self, Address positions, Address starts, Address lengths, Address pages, int64_t sequences, int64_t tokens, int64_t max_pages, int64_t page_size) {
            new (self) Places(places(positions, starts, lengths, pages, sequences, tokens, max_pages, page_size));
        },
        "positions"_a, "starts"_a, "lengths"_a, "pages"_a, "sequences"_a, "tokens"_a, "max_pages"_a, "page_size"_a);
    nb::class_<Recording>(m, "Recording")
        .def(nb::init<>())
        .def("start", [](Recording& self) { Engine::record(&self); })
        .def("stop", [](Recording&) { Engine::record(nullptr); })
        .def("replay", [](const Recording& self) { self.replay(*state().engine.pool()); }, nb::call_guard<nb::gil_scoped_release>())
        .def("timed", &timed, "repeats"_a)
        .def_prop_ro("num_bytes", [](const Recording& self) { return self.tasks().capacity() * sizeof(Task); })
        .def("__len__", [](const Recording& self) { return self.tasks().size(); });
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : usable_kernels()) names.emplace_back(kernels->isa);
        return names;
    });
    m.def("isa", [] { return std::string(state().kernels->isa); });
    m.def("set_isa", [](const std::string& name) { state().kernels = &kernels_named(name); });
    m.def("threads", [] { return state().engine.pool()->size(); });
    m.def("set_threads", [](int threads) { state().engine.set_threads(threads); });
    m.def("usable_processors", &usable_processors);
    m.def("formats", [] {
        nb::dict out;
        for (int64_t i = 0; i < kNumFormats; ++i) {
            const FormatInfo& info = format_info(i);
            out[info.name] = nb::make_tuple(i, info.columns, info.bytes, info.panel_bytes);
        }
        return out;
    });
    m.attr("PANEL_ROWS") = kPanelRows;
    m.def("pack", &pack);
    m.def("pack_groups", &pack_groups);
    m.def("read", &read_all);
    m.def("linear", &linear);
    m.def("gated_linear", &gated_linear);
    m.def("reorder", &reorder);
    m.def("embed", &embed);
    m.def("norm", &norm);
    m.def("gated_activation", &gated);
    m.def("sigmoid_gate", &sigmoid_gate);
    m.def("rope_angles", &angles);
    m.def("rope", &rope);
    m.def("write", &write_rows);
    m.def("rope_write", &rope_write);
    m.def("attend", &attend);
    m.def("experts", &experts);
    m.def("causal_conv", &causal_conv);
    m.def("gated_delta", &gated_delta);
    m.def("sample", &sample);
    m.def("add", &add);
    m.def("copy", &copy);
    m.def("activate", &activate);
    m.def("select", &select_entries);
    m.def("pool", &pool);
    m.def("route", &route);
    m.def("delta_gates", &delta_gates);
    m.def("hyper_weights", &hyper_weights);
    m.def("hyper_read", &hyper_read);
    m.def("hyper_write", &hyper_write);
    m.def("gated_mean", &gated_mean);
    m.def("stream_gate", &stream_gate);
    m.def("mix", &mix);
    m.def("token_windows", &token_windows);
    m.def("hash_windows", &hash_windows);
    m.def("gather", &gather);
    m.attr("MAX_MIXED") = kMaxMixed;
}
