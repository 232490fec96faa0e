// Which instruction sets were compiled in, and which this machine has.
#include "choose.h"

#include <stdexcept>
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(PARITY_X86)
#include <cpuid.h>
#endif

namespace parity {

#define PARITY_DECLARE(name) namespace name { extern const Kernels kernels; }
PARITY_DECLARE(portable)
#if defined(PARITY_X86)
PARITY_DECLARE(avx2)
PARITY_DECLARE(avx512)
#endif
#if defined(PARITY_ARM)
PARITY_DECLARE(neon)
#endif
#undef PARITY_DECLARE

#if defined(PARITY_X86)
// Not every compiler's __builtin_cpu_supports knows the name.
static bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

std::vector<const Kernels*> usable_kernels() {
    std::vector<const Kernels*> found;
#if defined(PARITY_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        found.push_back(&avx512::kernels);
    if (avx2) found.push_back(&avx2::kernels);
#endif
#if defined(PARITY_ARM) && defined(__linux__)
    constexpr unsigned long wanted = HWCAP_ASIMDDP | HWCAP_ASIMDHP;  // dot products, and numbers of half precision
    if ((getauxval(AT_HWCAP) & wanted) == wanted) found.push_back(&neon::kernels);
#elif defined(PARITY_ARM)
    found.push_back(&neon::kernels);  // every Apple processor has both
#endif
    found.push_back(&portable::kernels);
    return found;
}

const Kernels& kernels_named(const std::string& name) {
    std::string known;
    for (const Kernels* kernels : usable_kernels()) {
        if (name == kernels->isa || name.empty()) return *kernels;
        known += std::string(known.empty() ? "" : ", ") + kernels->isa;
    }
    throw std::invalid_argument("no instruction set " + name + " here: there are " + known);
}

const FormatInfo& format_info(int64_t format) {
    static const FormatInfo infos[kNumFormats] = {
        {"f32", 0, 4, 0},       {"f16", 0, 2, 0},       {"bf16", 0, 2, 0},       {"q4_0", 32, 18, 288},   {"q4_1", 32, 20, 320},
        {"q5_0", 32, 22, 352},  {"q5_1", 32, 24, 384},  {"q8_0", 32, 34, 544},   {"q2_k", 256, 84, 1344}, {"q3_k", 256, 110, 1824},
        {"q4_k", 256, 144, 2368}, {"q5_k", 256, 176, 2880}, {"q6_k", 256, 210, 3360},
        {"int4_128", 128, 64, 1088}, {"int4_32", 32, 16, 288}, {"zero4_128", 128, 64, 1104}, {"zero4_32", 32, 16, 304},
        {"int8_128", 128, 128, 2112}, {"int8_32", 32, 32, 544}, {"mxfp4", 32, 16, 272},
        {"fp8_128", 128, 128, 2112}, {"fp8_32", 32, 32, 576}, {"fp8_power", 32, 32, 528},
    };
    return infos[format];
}

}  // namespace parity
