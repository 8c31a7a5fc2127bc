/* Class one: takes any request, sleeps 50 ms, gives the greatest number of overlapping calls this worker has seen. */
#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "appserver.h"

struct counter {
    const appserver_host *host;
    atomic_int running;
    atomic_int greatest;
};

static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init, void **out) {
    (void)module, (void)init;
    struct counter *counter = calloc(1, sizeof *counter);
    if (!counter) return APPSERVER_E_FAILED;
    counter->host = host;
    *out = counter;
    return APPSERVER_OK;
}

static void worker_shutdown(void *module, void *worker) { (void)module, free(worker); }

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module;
    struct counter *counter = worker;
    int running = atomic_fetch_add(&counter->running, 1) + 1;
    int greatest = atomic_load(&counter->greatest);
    while (running > greatest && !atomic_compare_exchange_weak(&counter->greatest, &greatest, running)) {
    }
    nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
    atomic_fetch_sub(&counter->running, 1);

    const appserver_field fields[] = {{APPSERVER_STR_INIT("Content-Type"), APPSERVER_STR_INIT("text/plain")}};
    appserver_status status = counter->host->start_response(call, APPSERVER_STR("200 OK"), fields, 1, NULL);
    if (status < 0) return status;
    char text[16];
    int len = snprintf(text, sizeof text, "%d", atomic_load(&counter->greatest));
    return counter->host->body_bytes(call, &(appserver_chunk){.ptr = (const uint8_t *)text, .len = (size_t)len});
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .threads = APPSERVER_THREADS_ONE,
        .name = APPSERVER_STR_INIT("threads_one"),
        .version = APPSERVER_STR_INIT("1.0"),
        .worker_init = worker_init,
        .worker_shutdown = worker_shutdown,
        .handle = handle,
    };
    return &module;
}
