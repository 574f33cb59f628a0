/* What the engine needs of the machine: OpenMP, the floating-point mode, forks, the processor, a clock. */

#ifndef FASTOPT_MACHINE_H
#define FASTOPT_MACHINE_H

#include <time.h>

#ifdef _OPENMP
#include <omp.h>
#define FASTOPT_OPENMP _OPENMP
#else
#define FASTOPT_OPENMP 0
static int omp_get_max_threads(void) { return 1; }
static int omp_get_num_threads(void) { return 1; }
static int omp_get_thread_num(void) { return 0; }
#endif

/* Denormals: the bits that make the processor treat them as zero, on input and on output. */
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
typedef unsigned int floating_point_mode;
#define FLUSH_BITS 0x8040u
static inline floating_point_mode get_mode(void) { return _mm_getcsr(); }
static inline void set_mode(floating_point_mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
typedef unsigned long long floating_point_mode;
#define FLUSH_BITS (1ull << 24)
static inline floating_point_mode get_mode(void) {
    floating_point_mode mode; __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode)); return mode;
}
static inline void set_mode(floating_point_mode mode) { __asm__ __volatile__("msr fpcr, %0" : : "r"(mode)); }
#else
typedef unsigned int floating_point_mode;
#define FLUSH_BITS 0u
static inline floating_point_mode get_mode(void) { return 0; }
static inline void set_mode(floating_point_mode mode) { (void)mode; }
#endif
static inline floating_point_mode enter_mode(int flush) {
    floating_point_mode caller = get_mode();
    set_mode(flush ? (caller | FLUSH_BITS) : (caller & ~FLUSH_BITS));
    return caller;
}

/* The end of parallel work. libgomp's own barrier spins for milliseconds without letting go of the processor; a thread that
   slept and was woken on that very processor starts only then. So the first thread waits here before it, and soon
   yields. */
#if !defined(_WIN32)
#include <sched.h>
static inline void yield_processor(void) { sched_yield(); }
#else
static inline void yield_processor(void) {}
#endif
#if defined(__x86_64__) || defined(__i386__)
static inline void pause_processor(void) { _mm_pause(); }
#else
static inline void pause_processor(void) {}
#endif
#define PAUSES_BEFORE_YIELDING 512  /* 10 to 30 microseconds: longer than threads that are awake differ by */
#if defined(__GNUC__)
static inline void note_finished(int *finished) { __atomic_add_fetch(finished, 1, __ATOMIC_RELEASE); }
static inline void await_finished(const int *finished, int n_threads) {
    int pauses = 0;
    while (__atomic_load_n(finished, __ATOMIC_ACQUIRE) < n_threads) {
        if (pauses < PAUSES_BEFORE_YIELDING) { ++pauses; pause_processor(); } else yield_processor();
    }
}
#else
static inline void note_finished(int *finished) { (void)finished; }
static inline void await_finished(const int *finished, int n_threads) { (void)finished; (void)n_threads; }
#endif

/* libgomp keeps threads for each thread that ever asked for some. A forked child has none of them left, and libgomp would
   wait for them for ever, whoever used them (another library on the same runtime, too). A new thread has no such past:
   a forked child uses threads from one. */
static int forked = 0;
#if !defined(_WIN32)
#include <pthread.h>
static void note_fork(void) { forked = 1; }
static void watch_forks(void) { pthread_atfork(0, 0, note_fork); }
static int call_from_new_thread(void *(*function)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, 0, function, argument)) return 0;
    pthread_join(thread, 0);
    return 1;
}
#else
static void watch_forks(void) {}
static int call_from_new_thread(void *(*function)(void *), void *argument) { return 0; }
#endif

#if defined(__x86_64__) && defined(__GNUC__)
static int supports_v3(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
        && __builtin_cpu_supports("bmi2");
}
static int supports_v4(void) {
    return supports_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl");
}
static int is_intel(void) { __builtin_cpu_init(); return __builtin_cpu_is("intel"); }
static int is_x86_64(void) { return 1; }
#else
static int supports_v3(void) { return 0; }
static int supports_v4(void) { return 0; }
static int is_intel(void) { return 0; }
static int is_x86_64(void) { return 0; }
#endif

static double nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

#endif
