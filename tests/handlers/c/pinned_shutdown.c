/* Class pinned: takes any request; tells at its end whether worker_shutdown came on the thread of worker_init. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdlib.h>

#include "appserver.h"

struct pinned {
    const appserver_host *host;
    pthread_t home;
};

static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init, void **out) {
    (void)module, (void)init;
    struct pinned *pinned = malloc(sizeof *pinned);
    if (!pinned) return APPSERVER_E_FAILED;
    pinned->host = host;
    pinned->home = pthread_self();
    *out = pinned;
    return APPSERVER_OK;
}

static void worker_shutdown(void *module, void *worker) {
    (void)module;
    struct pinned *pinned = worker;
    int same = pthread_equal(pthread_self(), pinned->home);
    pinned->host->log(NULL, APPSERVER_LOG_WARN,
                      appserver_str_of(same ? "shut down at home" : "shut down on a strange thread"));
    free(pinned);
}

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module;
    const struct pinned *pinned = worker;
    appserver_status status = pinned->host->start_response(call, APPSERVER_STR("200 OK"), NULL, 0, NULL);
    return status < 0 ? status : pinned->host->body_bytes(call, &(appserver_chunk){.ptr = NULL, .len = 0});
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .threads = APPSERVER_THREADS_PINNED,
        .name = APPSERVER_STR_INIT("pinned_shutdown"),
        .version = APPSERVER_STR_INIT("1.0"),
        .worker_init = worker_init,
        .worker_shutdown = worker_shutdown,
        .handle = handle,
    };
    return &module;
}
