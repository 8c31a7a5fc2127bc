/* Tells who it is: "NAME COUNT SCRIPT_NAME PATH_INFO wsgi.multithread", the name its argument, the count its own calls.
 * What the query says is written to wsgi.errors first. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "appserver.h"

struct teller {
    const appserver_host *host;
    char name[64];
    atomic_int count;
};

static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init, void **out) {
    (void)module;
    struct teller *teller = calloc(1, sizeof *teller);
    if (!teller) return APPSERVER_E_FAILED;
    appserver_str name = appserver_arg(init, "name");
    snprintf(teller->name, sizeof teller->name, "%.*s", (int)name.len, (const char *)name.ptr);
    teller->host = host;
    *out = teller;
    return APPSERVER_OK;
}

static appserver_str key(struct teller *teller, appserver_call *call, const char *name) {
    appserver_str value = {0};
    teller->host->environ_get(call, appserver_str_of(name), &value);
    return value;
}

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module;
    struct teller *teller = worker;
    const appserver_host *host = teller->host;
    appserver_str query = key(teller, call, "QUERY_STRING"), script = key(teller, call, "SCRIPT_NAME");
    appserver_str path = key(teller, call, "PATH_INFO"), many = key(teller, call, "wsgi.multithread");
    appserver_str id = key(teller, call, "appserver.request_id");
    if (query.len) {
        host->errors_write(call, query);
        host->errors_write(call, APPSERVER_STR("\nthe second line\n"));
    }
    const appserver_field fields[] = {{APPSERVER_STR_INIT("X-Id"), id}};
    appserver_status status = host->start_response(call, APPSERVER_STR("200 OK"), fields, 1, NULL);
    if (status < 0) return status;
    char text[1024];
    int len = snprintf(text, sizeof text, "%s %d [%.*s] [%.*s] %.*s", teller->name,
                       atomic_fetch_add(&teller->count, 1) + 1, (int)script.len, (const char *)script.ptr,
                       (int)path.len, (const char *)path.ptr, (int)many.len, (const char *)many.ptr);
    return host->body_bytes(call, &(appserver_chunk){.ptr = (uint8_t *)text, .len = (size_t)len});
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .threads = APPSERVER_THREADS_MANY,
        .name = APPSERVER_STR_INIT("teller"),
        .version = APPSERVER_STR_INIT("1.0"),
        .worker_init = worker_init,
        .handle = handle,
    };
    return &module;
}
