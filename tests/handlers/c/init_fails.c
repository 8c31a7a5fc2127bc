/* worker_init fails and says why: the worker does not become ready, and the operator reads the reason. */
#include "appserver.h"

static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init, void **out) {
    (void)module, (void)out;
    host->init_error(init, APPSERVER_STR("the database is away"));
    return APPSERVER_E_FAILED;
}

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module, (void)worker, (void)call;
    return APPSERVER_E_FAILED;
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .name = APPSERVER_STR_INIT("init_fails"),
        .version = APPSERVER_STR_INIT("1.0"),
        .worker_init = worker_init,
        .handle = handle,
    };
    return &module;
}
