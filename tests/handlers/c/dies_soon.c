/* Its workers become ready one after the other and end a moment later: a generation that would never be complete. */
#define _GNU_SOURCE
#include "appserver.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

static void pause_ms(unsigned ms) {
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

static void *end_soon(void *unused) {
    pause_ms(30);
    abort();
    return unused;
}

static int32_t worker_init(const appserver_host *host, void *module, const appserver_init *init, void **worker) {
    (void)host;
    (void)module;
    (void)worker;
    pause_ms(200 * init->worker);
    pthread_t thread;
    return pthread_create(&thread, NULL, end_soon, NULL) == 0 ? APPSERVER_OK : APPSERVER_E_FAILED;
}

static int32_t handle(void *module, void *worker, appserver_call *call) {
    (void)module;
    (void)worker;
    (void)call;
    return APPSERVER_E_FAILED;
}

static const appserver_module MODULE = {
    APPSERVER_MODULE_DEFAULTS,
    .name = APPSERVER_STR_INIT("dies_soon"),
    .worker_init = worker_init,
    .handle = handle,
};

APPSERVER_EXPORT const appserver_module *appserver_module_v1(void) {
    return &MODULE;
}
