// Columns in another order: what a weight whose inputs were sorted by group is multiplied by.
#pragma once

namespace parity::PARITY_ISA {

inline void reorder(const void* raw, Team& team) {
    const auto& args = *static_cast<const ReorderArgs*>(raw);
    share_rows(team, args.rows, args.columns, [&](int64_t t) {
        const float* x = args.x + t * args.x_stride;
        float* out = args.out + t * args.columns;
        for (int64_t c = 0; c < args.columns; ++c) out[c] = x[args.order[c]];
    });
}

}  // namespace parity::PARITY_ISA
