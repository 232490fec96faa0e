// The engine as a server uses it: several threads replay steps and submit calls at once, while another sets the number of
// threads anew. Whatever they do to each other, every answer is the first one's bits.
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "agree.h"

namespace parity::tests {
namespace {

constexpr int64_t kTokens = 5, kColumns = 256, kInner = 384, kHeads = 4, kDim = 64, kContext = 1100;

// A caller's layers: norm, packed products, a gate after them and one with them, pages written and attended to over several
// segments.
class Step {
public:
    Step(const Kernels& kernels, Engine& engine, const Floats& x)
        : kernels_(kernels), engine_(engine), x_(x), normed_(x.size()), wide_(room(kTokens * 2 * kInner)), inner_(room(kTokens * kInner)), gated_(inner_), down_(x.size()), out_(x.size()),
          up_panels_(packed(kQ4_K, 2 * kInner, kColumns)), down_panels_(packed(kQ6_K, kColumns, kColumns)), context_({{kContext - kTokens, kTokens}}, 16) {
        keys_ = normals(context_.count * 16 * kColumns), values_ = normals(context_.count * 16 * kColumns);
    }

    // The calls of a step, one after the other.
    void submit() {
        const Spaced rows{x_.data(), kColumns, 1, 0}, none{nullptr, 0, 1, 0};
        engine_.submit("norm", kernels_.norm, NormArgs{rows, nullptr, nullptr, nullptr, none, nullptr, normed_.data(), kTokens, kColumns, 1, 1e-6f, 0, 0}, false, 0);
        linear(normed_, kColumns, up_panels_, kQ4_K, 2 * kInner, wide_);
        engine_.submit("gated_activation", kernels_.gated, GatedArgs{wide_.data(), inner_.data(), kTokens, kInner, 0, 0, 0, 0}, true, 0);
        gated_linear(normed_, kColumns, up_panels_, kQ4_K, kInner, gated_);
        linear(inner_, kColumns, down_panels_, kQ6_K, kColumns, down_);
        engine_.submit("write", kernels_.write, WriteArgs{down_.data(), keys_.data(), 4 * kColumns, 4 * kColumns, 1, 0, 0, kPageFloat, context_.places}, true, 0);
        AttendArgs args{down_.data(), nullptr, kColumns, kDim, 0, 0, keys_.data(), nullptr, values_.data(), nullptr, nullptr, nullptr, out_.data(), kPageFloat, kHeads, kHeads, kDim, 0, kDim, 0, 0, kAll, 1, 0, 0.1f, context_.places};
        const size_t scratch = kernels_.attend_scratch(args, 4);
        engine_.submit("attend", kernels_.attend, args, false, scratch);
    }

    void clear() { std::fill(out_.begin(), out_.end(), 0.0f), std::fill(gated_.begin(), gated_.end(), 0.0f); }
    // What the step computes last, and what gate and up gave at once.
    std::pair<Floats, Floats> out() const { return {out_, gated_}; }
    // The same as the latter, by two calls.
    const Floats& inner() const { return inner_; }

private:
    std::vector<uint8_t> packed(int64_t format, int64_t rows, int64_t columns) {
        const FormatInfo& info = format_info(format);
        const auto data = blocks(format, rows, columns, kRandom);
        std::vector<uint8_t> panels(static_cast<size_t>((rows + 15) / 16 * (columns / info.columns) * info.panel_bytes));
        engine_.submit("pack", kernels_.pack, PackArgs{data.data(), format, rows, columns, panels.data()}, false, 0);
        return panels;
    }
    void linear(const Floats& x, int64_t columns, const std::vector<uint8_t>& panels, int32_t format, int64_t rows, Floats& out) {
        LinearArgs args{x.data(), static_cast<int64_t>(x.size()) / kTokens, kTokens, columns, nullptr, out.data(), rows, 1, {}};
        args.parts[0] = Part{panels.data(), format, static_cast<int32_t>(rows), 0};
        engine_.submit("linear", kernels_.linear, args, false, kernels_.linear_scratch(args));
    }
    // The first half of a weight's rows gates the second.
    void gated_linear(const Floats& x, int64_t columns, const std::vector<uint8_t>& panels, int32_t format, int64_t rows, Floats& out) {
        LinearArgs both{x.data(), static_cast<int64_t>(x.size()) / kTokens, kTokens, columns, nullptr, out.data(), rows, 2, {}};
        both.parts[0] = Part{panels.data(), format, static_cast<int32_t>(rows), 0};
        both.parts[1] = Part{panels.data() + panels.size() / 2, format, static_cast<int32_t>(rows), static_cast<int32_t>(rows)};
        engine_.submit("gated_linear", kernels_.gated_linear, GatedLinearArgs{both, 0, 0, 0, 0}, false, kernels_.linear_scratch(both));
    }

    const Kernels& kernels_;
    Engine& engine_;
    Floats x_, normed_, wide_, inner_, gated_, down_, out_, keys_, values_;
    std::vector<uint8_t> up_panels_, down_panels_;
    Pages context_;
};

}  // namespace

void stress(const Kernels& kernels, int runs) {
    Engine engine;
    std::atomic<bool> going{true};
    std::atomic<int> wrong{0};
    const auto caller = [&](uint32_t seed, Step& step) {
        Recording recording;
        engine.set_threads(1);
        Engine::record(&recording);
        step.submit();
        Engine::record(nullptr);
        const auto expected = step.out();
        wrong += step.inner() != expected.second;
        for (int i = 0; i < runs; ++i) {
            step.clear();
            if ((static_cast<uint32_t>(i) + seed) % 4) recording.replay(*engine.pool());
            else step.submit();
            wrong += step.out() != expected;
        }
    };
    std::vector<std::unique_ptr<Step>> steps;  // made here: the random numbers are for one thread
    for (int i = 0; i < 3; ++i) steps.push_back(std::make_unique<Step>(kernels, engine, normals(kTokens * kColumns)));
    std::thread setter([&] {
        for (int count = 1; going; count = count % 4 + 1) engine.set_threads(count), std::this_thread::sleep_for(std::chrono::milliseconds(2));
    });
    std::vector<std::thread> callers;
    for (uint32_t i = 0; i < 3; ++i) callers.emplace_back(caller, i, std::ref(*steps[i]));
    for (std::thread& thread : callers) thread.join();
    going = false;
    setter.join();
    check(wrong == 0, kernels.isa, "answers under stress that are not the first one's bits", wrong, runs);
}

}  // namespace parity::tests
