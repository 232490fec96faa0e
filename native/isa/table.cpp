// Compiled once for each instruction set, with PARITY_ISA naming it. Nothing here may define a function outside of that
// namespace: the linker would keep one copy for all.
#include "../kernels.h"

#define PARITY_TEXT_(x) #x
#define PARITY_TEXT(x) PARITY_TEXT_(x)
#include PARITY_TEXT(PARITY_HEADER)

// clang-format off
#include "../ops/math.h"
#include "../formats/codecs.h"
#include "../formats/group_codecs.h"
#include "../formats/pack.h"
#include "../formats/group_pack.h"
#include "../ops/activations.h"
#include "../ops/packed_linear.h"
#include "../ops/float_panels.h"
#include "../ops/expanded_linear.h"
#include "../ops/plain_linear.h"
#include "../ops/linear.h"
#include "../ops/elementwise.h"
#include "../ops/gated_linear.h"
#include "../ops/reorder.h"
#include "../ops/pages.h"
#include "../ops/rope.h"
#include "../ops/attend_tile.h"
#include "../ops/softmax.h"
#include "../ops/attend_entries.h"
#include "../ops/attend_work.h"
#include "../ops/attend.h"
#include "../ops/select.h"
#include "../ops/pooled.h"
#include "../ops/route.h"
#include "../ops/experts.h"
#include "../ops/recurrence.h"
#include "../ops/streams.h"
#include "../ops/sample.h"
// clang-format on

namespace parity::PARITY_ISA {

extern const Kernels kernels;
const Kernels kernels = {
    .isa = PARITY_TEXT(PARITY_ISA),
    .linear = linear,
    .gated_linear = gated_linear,
    .reorder = reorder,
    .embed = embed,
    .pack = pack,
    .pack_groups = pack_groups,
    .norm = norm,
    .gated = gated,
    .sigmoid_gate = sigmoid_gate,
    .angles = angles,
    .rope = rope,
    .write = write,
    .rope_write = rope_write,
    .attend = attend,
    .experts = experts,
    .causal_conv = causal_conv,
    .gated_delta = gated_delta,
    .sample = sample,
    .read = read,
    .add = add,
    .copy = copy,
    .activate = activate,
    .select = select,
    .pool = pool,
    .route = route,
    .delta_gates = delta_gates,
    .hyper_weights = hyper_weights,
    .hyper_read = hyper_read,
    .hyper_write = hyper_write,
    .gated_mean = gated_mean,
    .stream_gate = stream_gate,
    .mix = mix,
    .windows = windows,
    .hash = hash,
    .gather = gather,
    .linear_scratch = linear_scratch,
    .experts_scratch = experts_scratch,
    .select_scratch = select_scratch,
    .attend_scratch = attend_scratch,
};

}  // namespace parity::PARITY_ISA
