// A CUDA card for one kernel at a time, on a CPU: each thread of a block is a fiber, blocks come one after another.
//
// Made to find mistakes, not to be fast. Threads run as far ahead of the others as barriers let them, the first or the last
// one first; an asynchronous copy leaves NaN where it goes to until it is waited for, and arrives no sooner. Shared memory
// is as large as the kernel asks for, and full of NaN. Compiled with the address sanitizer, every access is checked.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <stdlib.h>
#include <utility>
#include <vector>

#define __global__
#define __device__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace card {

constexpr int PLANE = 32;

[[noreturn]] inline void fail(const char *what) {
    std::fprintf(stderr, "the card: %s\n", what);
    std::exit(1);
}

using Ids = std::vector<int>;

// Threads that wait for each other.
struct Barrier {
    int members = 0, arrived = 0;
    Ids waiting;
};

struct Copy {
    void *to;
    const void *from;
    std::size_t bytes;
};

// What a lane gives the others of its plane in one instruction.
using Given = std::array<uint32_t, 6>;

struct Plane {
    Barrier barrier;
    // In turn: who goes on to the next instruction may not disturb those who still read.
    std::array<Given, PLANE> given[2];
};

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    dim3 index;
    int id, lane;
    Plane *plane;
    int turn = 0;
    bool done = false;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
};

inline std::vector<Thread> threads;
inline std::vector<Plane> planes;
inline Barrier block;
inline std::set<int> ready;
inline Thread *current = nullptr;
inline ucontext_t scheduler;
inline std::function<void()> kernel;
inline dim3 block_index, block_size, grid_size;
inline char *shared = nullptr;
inline std::size_t shared_bytes = 0;

inline void wait(Barrier &barrier) {
    if (++barrier.arrived == barrier.members) {
        barrier.arrived = 0;
        ready.insert(barrier.waiting.begin(), barrier.waiting.end());
        barrier.waiting.clear();
    } else {
        barrier.waiting.push_back(current->id);
        ready.erase(current->id);
    }
    // Also the last to come: another may be the one that runs ahead.
    swapcontext(&current->context, &scheduler);
}

inline void work() {
    kernel();
    current->done = true;
    ready.erase(current->id);
    swapcontext(&current->context, &scheduler);
}

// The first thread that can go on, until there is none; or the last one.
inline void run_block(bool last_first) {
    constexpr std::size_t STACK = 1 << 18;
    std::size_t count = block_size.x * block_size.y * block_size.z;
    planes = std::vector<Plane>(count / PLANE);
    for (Plane &plane : planes) plane.barrier.members = PLANE;
    block = Barrier{(int)count};
    threads.resize(count);
    std::memset(shared, 0xFF, shared_bytes);
    for (std::size_t i = 0; i < count; ++i) {
        Thread &thread = threads[i];
        if (!thread.stack) thread.stack.reset(new char[STACK]);
        thread.index = {(unsigned)i % block_size.x, (unsigned)i / block_size.x % block_size.y,
                        (unsigned)i / block_size.x / block_size.y};
        thread.id = i;
        thread.lane = i % PLANE;
        thread.plane = &planes[i / PLANE];
        thread.done = false;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = STACK;
        makecontext(&thread.context, work, 0);
        ready.insert(i);
    }
    while (!ready.empty()) {
        current = &threads[last_first ? *ready.rbegin() : *ready.begin()];
        swapcontext(&scheduler, &current->context);
    }
    for (Thread &thread : threads) {
        if (!thread.done) fail("a thread waits at a barrier that the others do not reach");
        if (!thread.open.empty()) fail("a copy was begun and its group never ended");
        for (const auto &group : thread.groups) {
            if (!group.empty()) fail("a copy was begun that nobody waits for");
        }
        thread.groups.clear();
    }
}

// Gives the other lanes some registers, and sees what they gave.
inline const std::array<Given, PLANE> &exchange(const Given &given) {
    Plane &plane = *current->plane;
    auto &room = plane.given[current->turn ^= 1];
    room[current->lane] = given;
    wait(plane.barrier);
    return room;
}

inline float bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}

inline uint16_t bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return 0x7FFF;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

inline float f16(uint16_t bits) {
    _Float16 x;
    std::memcpy(&x, &bits, 2);
    return (float)x;
}

inline uint16_t f16(float x) {
    _Float16 narrow = (_Float16)x;
    uint16_t bits;
    std::memcpy(&bits, &narrow, 2);
    return bits;
}

template <class Widen>
void multiply(float &d0, float &d1, float &d2, float &d3, const Given &ab, const std::array<float, 4> &c,
              Widen widen) {
    int group = current->lane / 4, pair = current->lane % 4;
    const auto &given = exchange(ab);
    auto half = [&](uint32_t both, int which) { return widen((uint16_t)(both >> which * 16)); };
    float *d[4] = {&d0, &d1, &d2, &d3};
    for (int i = 0; i < 4; ++i) {
        int row = group + i / 2 * 8, column = pair * 2 + i % 2;
        float sum = c[i];
        for (int k = 0; k < 16; ++k) {
            float a = half(given[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
            float b = half(given[column * 4 + k % 8 / 2][4 + k / 8], k % 2);
            sum += a * b;
        }
        *d[i] = sum;
    }
}

} // namespace card

#define threadIdx (card::current->index)
#define blockIdx card::block_index
#define blockDim card::block_size
#define gridDim card::grid_size
#define warpSize 32

template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }

inline unsigned __activemask() { return ~0u; }
inline void __syncthreads() { card::wait(card::block); }
inline void __syncwarp() { card::wait(card::current->plane->barrier); }

// Where something lies in shared memory.
inline uint32_t __cvta_generic_to_shared(const volatile void *at) {
    std::ptrdiff_t offset = (const volatile char *)at - card::shared;
    if (offset < 0 || (std::size_t)offset >= card::shared_bytes) card::fail("an address outside shared memory");
    return (uint32_t)offset;
}

template <class T> T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    static_assert(sizeof(T) == 4);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = card::exchange({bits})[card::current->lane ^ mask][0];
    std::memcpy(&value, &bits, 4);
    return value;
}

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float x) : bits(card::bf16(x)) {}
    explicit operator float() const { return card::bf16(bits); }
};

struct __half {
    uint16_t bits;
    __half() = default;
    explicit __half(float x) : bits(card::f16(x)) {}
    explicit operator float() const { return card::f16(bits); }
};

// The instructions of PTX, by their names.
namespace ptx {

inline void ex2_approx_ftz_f32(float &y, float x) { y = std::exp2(x); }

inline void mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(
    float &d0, float &d1, float &d2, float &d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
    uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3) {
    card::multiply(d0, d1, d2, d3, {a0, a1, a2, a3, b0, b1}, {c0, c1, c2, c3},
                   [](uint16_t bits) { return card::bf16(bits); });
}

inline void mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(
    float &d0, float &d1, float &d2, float &d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
    uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3) {
    card::multiply(d0, d1, d2, d3, {a0, a1, a2, a3, b0, b1}, {c0, c1, c2, c3},
                   [](uint16_t bits) { return card::f16(bits); });
}

// Four matrices of 8 × 8: eight lanes each say where their rows lie.
inline void load(uint32_t &r0, uint32_t &r1, uint32_t &r2, uint32_t &r3, uint32_t at, bool transposed) {
    if (at % 16 != 0) card::fail("ldmatrix from where no row of 16 bytes begins");
    int lane = card::current->lane;
    const auto &given = card::exchange({at});
    uint32_t *r[4] = {&r0, &r1, &r2, &r3};
    for (int matrix = 0; matrix < 4; ++matrix) {
        uint32_t both = 0;
        for (int i = 0; i < 2; ++i) {
            int row = lane / 4, column = lane % 4 * 2 + i;
            if (transposed) std::swap(row, column);
            uint32_t from = given[matrix * 8 + row][0];
            both |= (uint32_t)((const uint16_t *)(card::shared + from))[column] << i * 16;
        }
        *r[matrix] = both;
    }
}

inline void ldmatrix_sync_aligned_m8n8_x4_shared__cta_b16(uint32_t &r0, uint32_t &r1, uint32_t &r2, uint32_t &r3,
                                                          uint32_t at) {
    load(r0, r1, r2, r3, at, false);
}

inline void ldmatrix_sync_aligned_m8n8_x4_trans_shared__cta_b16(uint32_t &r0, uint32_t &r1, uint32_t &r2,
                                                                uint32_t &r3, uint32_t at) {
    load(r0, r1, r2, r3, at, true);
}

inline void cp_async_cg_shared__cta_global(uint32_t to, const void *from, std::size_t bytes, std::size_t of_them) {
    if (of_them != bytes) card::fail("cp.async of fewer bytes than it writes");
    if (to % bytes != 0 || (std::uintptr_t)from % bytes != 0) card::fail("cp.async that is not aligned");
    std::memset(card::shared + to, 0xFF, bytes);
    card::current->open.push_back({card::shared + to, from, bytes});
}

inline void cp_async_commit_group() {
    card::current->groups.push_back(std::exchange(card::current->open, {}));
}

inline void cp_async_wait_group(std::size_t left) {
    auto &groups = card::current->groups;
    while (groups.size() > left) {
        for (const card::Copy &copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
        groups.pop_front();
    }
}

} // namespace ptx

namespace card {

template <class... P, std::size_t... I>
void call(void (*kernel)(P...), const std::vector<void *> &arguments, std::index_sequence<I...>) {
    kernel((P)arguments[I]...);
}

// Not a byte more, for what lies behind to be noticed.
inline void *allocate(std::size_t bytes) {
    void *buffer = nullptr;
    if (posix_memalign(&buffer, 256, bytes) != 0) fail("there is no memory left");
    return buffer;
}

template <class T> T read() {
    T x;
    if (std::fread(&x, sizeof x, 1, stdin) != 1) fail("the input ends early");
    return x;
}

// Reads a launch from standard input: the order of threads, sizes of the grid and of blocks, bytes of shared memory, how many
// arguments, and each with its bytes before it. Writes all arguments to standard output.
template <class... P> int launch(void (*entry)(P...)) {
    bool last_first = read<uint32_t>() != 0;
    grid_size = read<dim3>();
    block_size = read<dim3>();
    shared_bytes = read<uint32_t>();
    std::vector<std::pair<std::size_t, void *>> buffers(read<uint32_t>());
    std::vector<void *> arguments;
    for (auto &[bytes, buffer] : buffers) {
        bytes = read<uint32_t>();
        buffer = allocate(bytes);
        if (std::fread(buffer, 1, bytes, stdin) != bytes) fail("the input ends early");
        arguments.push_back(buffer);
    }
    shared = (char *)allocate(shared_bytes);
    if (sizeof...(P) != arguments.size()) fail("the kernel takes another number of arguments");
    kernel = [&] { call(entry, arguments, std::index_sequence_for<P...>()); };
    for (block_index.z = 0; block_index.z < grid_size.z; ++block_index.z)
        for (block_index.y = 0; block_index.y < grid_size.y; ++block_index.y)
            for (block_index.x = 0; block_index.x < grid_size.x; ++block_index.x) run_block(last_first);
    for (auto [bytes, buffer] : buffers) std::fwrite(buffer, 1, bytes, stdout);
    return 0;
}

} // namespace card
