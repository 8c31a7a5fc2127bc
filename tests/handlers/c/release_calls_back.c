/* A body whose release callback asks about its call and lets go of it: "/iter" gives it as chunks, "/late" fails in the
 * middle of them, "/replaced" takes it back for an error, all else gives it as one. */
#include <stdlib.h>

#include "appserver.h"

struct owner {
    const appserver_host *host;
    appserver_call *call;
    int left;
    int late;
};

static const appserver_str failed = APPSERVER_STR_INIT("as asked");

static void let_go(void *ctx) {
    struct owner *owner = ctx;
    owner->host->state(owner->call);
    owner->host->call_release(owner->call);
    free(owner);
}

static struct owner *own(const appserver_host *host, appserver_call *call) {
    struct owner *owner = malloc(sizeof *owner);
    if (!owner) return NULL;
    *owner = (struct owner){host, call, 3, 0};
    host->call_retain(call);
    return owner;
}

static appserver_chunk chunk(struct owner *owner) {
    return (appserver_chunk){.ptr = (const uint8_t *)"chunk\n", .len = 6, .release = let_go, .owner = owner};
}

static appserver_status next(void *ctx, appserver_chunk *out, appserver_wake wake, void *wake_ctx) {
    (void)wake, (void)wake_ctx;
    struct owner *source = ctx;
    if (source->left-- == 0) return APPSERVER_END;
    struct owner *owner = own(source->host, source->call);
    if (!owner) return APPSERVER_E_FAILED;
    // The chunk that is still given is thrown away by the server, and let go of.
    if (source->late && source->left == 1) {
        source->host->start_response(source->call, APPSERVER_STR("500 Late"), NULL, 0, &failed);
    }
    *out = chunk(owner);
    return APPSERVER_OK;
}

static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init, void **out) {
    (void)module, (void)init;
    *out = (void *)host;
    return APPSERVER_OK;
}

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module;
    const appserver_host *host = worker;
    appserver_str path;
    appserver_status status = host->start_response(call, APPSERVER_STR("200 OK"), NULL, 0, NULL);
    if (status < 0) return status;
    struct owner *owner = own(host, call);
    if (!owner) return APPSERVER_E_FAILED;
    if (host->environ_get(call, APPSERVER_STR("PATH_INFO"), &path) != APPSERVER_OK) path = appserver_str_of("");
    owner->late = appserver_str_is(path, "/late");
    if (owner->late || appserver_str_is(path, "/iter")) {
        status = host->body_iter(
            call, &(appserver_iter){.struct_size = sizeof(appserver_iter), .ctx = owner, .next = next, .close = let_go});
    } else {
        appserver_chunk all = chunk(owner);
        status = host->body_bytes(call, &all);
    }
    if (status < 0) let_go(owner);
    // What is thrown away here is let go of inside of start_response.
    if (appserver_str_is(path, "/replaced")) host->start_response(call, APPSERVER_STR("503 Busy"), NULL, 0, &failed);
    return status;
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .threads = APPSERVER_THREADS_MANY,
        .name = APPSERVER_STR_INIT("release_calls_back"),
        .version = APPSERVER_STR_INIT("1.0"),
        .worker_init = worker_init,
        .handle = handle,
    };
    return &module;
}
