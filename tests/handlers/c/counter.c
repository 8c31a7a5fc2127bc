/* Counts its visits in the shared cache, which it cannot do without. */
#include "appserver.h"
#include <stdio.h>

static const appserver_host *host;

static appserver_status begin(const appserver_host *given, void *module, const appserver_init *init, void **worker) {
    (void)module, (void)init, (void)worker;
    host = given;
    return APPSERVER_OK;
}

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module, (void)worker;
    int64_t sum = 0;
    appserver_str name = APPSERVER_STR("counter"), key = APPSERVER_STR("visits");
    appserver_status status = host->cache->incr(name, key, 1, 0, &sum);
    if (status != APPSERVER_OK) return status;
    appserver_chunk value = {0};
    status = host->cache->get(name, key, &value);
    if (status != APPSERVER_OK) return status;
    value.release(value.owner);
    char text[32];
    size_t length = (size_t)snprintf(text, sizeof text, "%lld\n", (long long)sum);
    status = host->start_response(call, APPSERVER_STR("200 OK"), NULL, 0, NULL);
    if (status != APPSERVER_OK) return status;
    return host->write(call, (const uint8_t *)text, length);
}

static const appserver_module module = {
    APPSERVER_MODULE_DEFAULTS,
    .min_host_minor = 1,
    .threads = APPSERVER_THREADS_MANY,
    .required_features = APPSERVER_FEATURE_CACHE,
    .name = APPSERVER_STR_INIT("counter"),
    .version = APPSERVER_STR_INIT("1"),
    .worker_init = begin,
    .handle = handle,
};

const appserver_module *appserver_module_v1(void) {
    return &module;
}
