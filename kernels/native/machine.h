/* What the engine needs of the machine: OpenMP, the floating-point mode, forks, the processor, a clock. */

#ifndef FASTOPT_MACHINE_H
#define FASTOPT_MACHINE_H

#include <stdlib.h>
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

/* The floating-point mode of a thread. STANDARD_MODE rounds to nearest and masks all traps; FLUSH_BITS make the processor
   treat denormals as zero, on input and on output. */
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
typedef unsigned int floating_point_mode;
#define FLUSH_BITS 0x8040u
#define STANDARD_MODE 0x1f80u
static inline floating_point_mode get_mode(void) { return _mm_getcsr(); }
static inline void set_mode(floating_point_mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
typedef unsigned long long floating_point_mode;
#define FLUSH_BITS (1ull << 24)
#define STANDARD_MODE 0ull
static inline floating_point_mode get_mode(void) {
    floating_point_mode mode; __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode)); return mode;
}
static inline void set_mode(floating_point_mode mode) { __asm__ __volatile__("msr fpcr, %0" : : "r"(mode)); }
#else
typedef unsigned int floating_point_mode;
#define FLUSH_BITS 0u
#define STANDARD_MODE 0u
static inline floating_point_mode get_mode(void) { return 0; }
static inline void set_mode(floating_point_mode mode) { (void)mode; }
#endif
#if defined(__GNUC__)
#define prefetch_line(address) __builtin_prefetch(address, 0, 3)
#else
#define prefetch_line(address) ((void)(address))
#endif
/* Compilers do not know that arithmetic depends on the mode, but they move no access to memory past these. */
#if defined(__GNUC__)
#define KEEP_ORDER() __asm__ __volatile__("" : : : "memory")
#else
#define KEEP_ORDER()
#endif
/* The mode of a step does not depend on the caller's, which is returned for `leave_mode`. */
static inline floating_point_mode enter_mode(int flush) {
    floating_point_mode caller = get_mode();
    set_mode(STANDARD_MODE | (flush ? FLUSH_BITS : 0));
    KEEP_ORDER();
    return caller;
}
static inline void leave_mode(floating_point_mode caller) {
    KEEP_ORDER();
    set_mode(caller);
}

/* The end of parallel work. libgomp's own barrier spins for milliseconds without letting go of the processor; a thread that
   slept and was woken on that very processor starts only then. So the first thread waits here before it, and soon
   yields. Under a real-time scheduler, it yields to no thread of lower priority; so in the end it sleeps. */
#if !defined(_WIN32)
#include <sched.h>
static inline void yield_processor(void) { sched_yield(); }
static inline void sleep_briefly(void) {
    struct timespec duration = {0, 50000};
    nanosleep(&duration, 0);
}
#else
static inline void yield_processor(void) {}
static inline void sleep_briefly(void) {}
#endif
#if defined(__x86_64__) || defined(__i386__)
static inline void pause_processor(void) { _mm_pause(); }
#else
static inline void pause_processor(void) {}
#endif
#define PAUSES_BEFORE_YIELDING 512  /* 10 to 30 microseconds: longer than threads that are awake differ by */
#define YIELDS_BEFORE_SLEEPING 4096  /* at least a millisecond */
#if defined(__GNUC__)
static inline void note_finished(int *finished) { __atomic_add_fetch(finished, 1, __ATOMIC_RELEASE); }
static inline void await_finished(const int *finished, int n_threads) {
    int pauses = 0, yields = 0;
    while (__atomic_load_n(finished, __ATOMIC_ACQUIRE) < n_threads) {
        if (pauses < PAUSES_BEFORE_YIELDING) { ++pauses; pause_processor(); }
        else if (yields < YIELDS_BEFORE_SLEEPING) { ++yields; yield_processor(); }
        else sleep_briefly();
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

/* libgomp ends the process when it cannot create a thread. So before it has to create some, as many are created here, all
   at once; if only some can be, a step runs on fewer. libgomp keeps the threads of the last team of each thread that
   starts teams: `team_size` is the size of that team. */
#if !defined(_WIN32) && defined(__GNUC__) && FASTOPT_OPENMP
static __thread int team_size = 1;
static size_t thread_stack_bytes = 0;  /* of OpenMP's threads; 0: the default */
static void *pass_gate(void *gate) {
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return 0;
}
static int creatable_threads(int wanted) {
    pthread_t *threads = (pthread_t *)malloc(sizeof(pthread_t) * (size_t)wanted);
    pthread_mutex_t gate;
    pthread_attr_t attributes;
    int made = 0, k;
    if (!threads) return 0;
    if (pthread_attr_init(&attributes)) { free(threads); return 0; }
    if (thread_stack_bytes) pthread_attr_setstacksize(&attributes, thread_stack_bytes);
    pthread_mutex_init(&gate, 0);
    pthread_mutex_lock(&gate);
    while (made < wanted && !pthread_create(&threads[made], &attributes, pass_gate, &gate)) ++made;
    pthread_mutex_unlock(&gate);
    for (k = 0; k < made; ++k) pthread_join(threads[k], 0);
    pthread_mutex_destroy(&gate);
    pthread_attr_destroy(&attributes);
    free(threads);
    return made;
}
static int possible_threads(int wanted) {
    return wanted <= team_size ? wanted : team_size + creatable_threads(wanted - team_size);
}
static void note_team(int n_threads) { team_size = n_threads; }
static void set_thread_stack(size_t bytes) { thread_stack_bytes = bytes; }
#else
static int possible_threads(int wanted) { return wanted; }
static void note_team(int n_threads) { (void)n_threads; }
static void set_thread_stack(size_t bytes) { (void)bytes; }
#endif

/* The processors that OpenMP's threads may run on. With OMP_PROC_BIND and the like, the runtime binds the first thread to
   one of them when it is loaded, and that thread's affinity says no more. */
#if defined(_OPENMP) && _OPENMP >= 201511
static int openmp_processors(void) {
    int n_places = omp_get_num_places(), count = 0, place, k, n, largest = -1;
    char *seen = 0;
    for (place = 0; place < n_places; ++place) {
        int *ids;
        n = omp_get_place_num_procs(place);
        if (n <= 0 || !(ids = (int *)malloc(sizeof(int) * (size_t)n))) continue;
        omp_get_place_proc_ids(place, ids);
        for (k = 0; k < n; ++k) {
            if (ids[k] > largest) {
                char *longer = (char *)realloc(seen, (size_t)ids[k] + 1);
                if (!longer) continue;
                seen = longer;
                while (largest < ids[k]) seen[++largest] = 0;
            }
            count += !seen[ids[k]];
            seen[ids[k]] = 1;
        }
        free(ids);
    }
    free(seen);
    return count ? count : omp_get_num_procs();
}
#else
static int openmp_processors(void) { return 0; }
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
