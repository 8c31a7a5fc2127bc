/* A handler in C that answers / and goes wrong in its own way at /divide, /nowhere, /smash and everywhere else. */
#include "appserver.h"

static volatile int zero = 0;

__attribute__((noinline)) static int divide_by(volatile int *divisor) { return 7 / *divisor; }

__attribute__((noinline)) static int dig_deeper(volatile char *hole, int depth) {
    volatile char place[4096];
    place[0] = hole[0];
    int below = depth < 1000000 ? dig_deeper(place, depth + 1) : 0;
    return below + place[0];
}

__attribute__((noinline)) static int call_nowhere(int (*volatile *nowhere)(void)) { return 1 + (*nowhere)(); }

__attribute__((noinline)) static int smash(int with) {
    volatile char *stack = __builtin_frame_address(0);
    for (int at = 0; at < 4096; at++) stack[at] = (char)with;
    return stack[17];
}

static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init,
                                    void **worker) {
    (void)module, (void)init;
    *worker = (void *)host;
    return APPSERVER_OK;
}

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    const appserver_host *host = worker;
    const appserver_chunk body = {(const uint8_t *)"sound\n", 6, NULL, NULL};
    appserver_str path;
    (void)module;
    if (host->environ_get(call, APPSERVER_STR("PATH_INFO"), &path) == APPSERVER_OK && path.len > 1) {
        volatile char seed = 1;
        int (*volatile nowhere)(void) = NULL;
        int wrong = path.ptr[1] == 'd'   ? divide_by(&zero)
                    : path.ptr[1] == 'n' ? call_nowhere(&nowhere)
                    : path.ptr[1] == 's' ? smash('A')
                                         : dig_deeper(&seed, 0);
        if (wrong == 12345) return APPSERVER_OK;
    }
    appserver_status status = host->start_response(call, APPSERVER_STR("200 OK"), NULL, 0, NULL);
    return status < 0 ? status : host->body_bytes(call, &body);
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .threads = APPSERVER_THREADS_MANY,
        .name = APPSERVER_STR_INIT("wrong"),
        .version = APPSERVER_STR_INIT("1.0"),
        .worker_init = worker_init,
        .handle = handle,
    };
    return &module;
}
