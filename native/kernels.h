// What every instruction set provides: a table of kernels, and the arguments of each. Sizes are in elements unless named
// bytes; activations are float32 with contiguous rows, `*_stride` apart where a stride is given. Nothing here is owned.
#pragma once
#include <cstddef>
#include <cstdint>

#include "team.h"

namespace parity {

constexpr int64_t kPanelRows = 16;  // rows of a weight that are interleaved
constexpr int64_t kBlock = 32;      // columns that share an activation scale

enum Format : int32_t {
    kF32, kF16, kBf16,
    kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0,
    kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
    kNumFormats,
};

// How a packed format is laid out, on disk and in panels.
struct FormatInfo {
    const char* name;
    int64_t columns;      // of a block; 0 for a plain number format
    int64_t bytes;        // of a block of one row on disk, or of one number
    int64_t panel_bytes;  // of a block of a panel
};

// A matrix of `rows` rows that fills the outputs `first` .. `first + rows` of a linear.
struct Part {
    const void* data;
    int32_t format, rows, first;
};

constexpr int kMaxParts = 5;

struct LinearArgs {
    const float* x;
    int64_t x_stride, tokens, columns;
    const float* bias;  // or null
    float* out;
    int64_t out_stride;
    int64_t num_parts;
    Part parts[kMaxParts];
};

struct EmbedArgs {
    const int32_t* tokens;
    int64_t num_tokens, columns;
    const void* data;
    int64_t format, rows;
    float* out;
};

struct PackArgs {
    const uint8_t* rows;  // the file's blocks
    int64_t format, num_rows, columns;
    uint8_t* panels;
};

struct NormArgs {
    const float* x;
    int64_t x_stride;
    const float* residual;  // or null; added to x
    const float* weight;    // or null
    const float* bias;      // or null; then the mean is taken out too
    const float* gate;      // or null
    float* sum;             // x + residual, or null
    float* out;
    int64_t rows, columns;
    float eps, shift;       // the weight is shift + weight
    int64_t activation;     // of the gate: 0 silu, 1 sigmoid
};

struct GatedArgs {
    const float* gate_up;
    float* out;
    int64_t rows, columns;
    int64_t kind;  // 0 silu, 1 silu with limit, 2 situ
    float limit, beta, linear;
};

struct SigmoidGateArgs {
    const float *x, *gate;
    int64_t x_stride, gate_stride;
    float* out;
    int64_t rows, columns;
};

struct AnglesArgs {
    const int32_t* positions;
    const float* inv_freq;
    float* out;
    int64_t tokens, half;
    float scale;
};

struct RopeArgs {
    const float* x;
    int64_t x_stride, x_head_stride;
    const float* angles;
    float* out;
    int64_t tokens, heads, dim, half, offset;
    int32_t interleaved, inverse;
};

// Where the rows of a batch stand in pages.
struct Places {
    const int32_t *positions, *starts, *lengths, *pages;
    int64_t num_sequences, num_tokens, max_pages, page_size;
};

struct WriteArgs {
    const void* values;
    void* pages;
    int64_t value_stride_bytes, row_bytes;
    Places places;
};

struct RopeWriteArgs {
    const float *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    const float* angles;
    float *out, *k_pages, *v_pages;
    int32_t heads, kv_heads, k_dim, v_dim, half, offset, interleaved;
    Places places;
};

struct AttendArgs {
    const float *q, *q2;  // q2 . k2 is added to the scores, with one k2 for all heads
    int64_t q_stride, q2_stride;
    const float *k_pages, *k2_pages, *v_pages;
    const float* sinks;       // or null
    const int32_t* selected;  // or null; [tokens, num_selected], the positions that a row attends to, -1 is none
    float* out;
    int32_t heads, kv_heads, k_dim, k2_dim, v_dim, num_selected;
    int32_t window;  // or 0
    float scale;
    Places places;
};

// Experts in packed panels or plain numbers, one matrix after the other.
struct ExpertsArgs {
    const float* x;       // [tokens, columns]
    const void *gate_up, *down;
    const float* weights;   // [tokens, top_k]
    const int32_t* chosen;  // [tokens, top_k]
    float* out;
    int64_t tokens, columns, inner, experts, top_k;
    int32_t gate_up_format, down_format;
    int32_t kind;  // of the activation, as in GatedArgs
    float limit, beta, linear;
};

struct ConvArgs {
    const float *x, *weight, *bias;  // bias or null
    float *state, *out;
    const int32_t *starts, *slots;
    int64_t x_stride, sequences, channels, width;
    int64_t activation;  // 0 none, 1 silu
};

struct DeltaArgs {
    const float *q, *k, *v, *decay, *beta;
    float *state, *out;
    const int32_t *starts, *slots;
    int64_t q_stride, k_stride, v_stride, sequences;
    int32_t key_heads, value_heads, k_dim, v_dim, decay_width;  // 1, or k_dim where each dimension has its own
    float scale;
};

struct SampleArgs {
    const float *logits, *temperature, *top_p, *min_p, *uniform;
    const int32_t* top_k;
    int64_t rows, columns, stride;
    int64_t* out;
};

// Reads all of `data`: how fast memory is. `out` has a number for each thread.
struct ReadArgs {
    const float* data;
    int64_t count;
    float* out;
};

using Kernel = void (*)(const void* args, Team& team);

struct Kernels {
    const char* isa;
    Kernel linear, embed, pack, norm, gated, sigmoid_gate, angles, rope, write, rope_write, attend, experts, causal_conv, gated_delta, sample, read;
    size_t (*linear_scratch)(const LinearArgs& args);
    size_t (*experts_scratch)(const ExpertsArgs& args);
};

const FormatInfo& format_info(int64_t format);

}  // namespace parity
