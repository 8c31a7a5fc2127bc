/* A handler in plain C: takes any request, gives a greeting, its query string, and the size of a POSTed body. */
#include <stdio.h>
#include <stdlib.h>

#include "appserver.h"

/* The state of a worker is the server's function table; a handler with settings would put a struct of its own there. */
static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init, void **out) {
    (void)module, (void)init;
    *out = (void *)host;
    return APPSERVER_OK;
}

static appserver_status handle(void *module, void *state, appserver_call *call) {
    (void)module;
    const appserver_host *host = state;
    appserver_str method = {0}, query = {0};
    host->method(call, &method);
    host->environ_get(call, APPSERVER_STR("QUERY_STRING"), &query);

    int post = appserver_str_is(method, "POST");
    unsigned long long total = 0;
    uint8_t buf[16384];
    appserver_status status = post ? APPSERVER_OK : APPSERVER_END;
    while (status == APPSERVER_OK) {
        size_t got = 0;
        status = host->input_read(call, buf, sizeof buf, &got);
        total += got;
    }
    if (status < 0) return status; /* the body was cut short: there is nothing to answer */

    const appserver_field fields[] = {{APPSERVER_STR_INIT("Content-Type"), APPSERVER_STR_INIT("text/plain")}};
    status = host->start_response(call, APPSERVER_STR("200 OK"), fields, 1, NULL);
    if (status < 0) return status;

    char *text = malloc(query.len + 64); /* the fixed words and a 20-digit number are shorter than 64 */
    if (!text) return APPSERVER_E_FAILED;
    size_t len = (size_t)sprintf(text, "Hello from C!\n");
    if (query.len) len += (size_t)sprintf(text + len, "query: %.*s\n", (int)query.len, (const char *)query.ptr);
    if (post) len += (size_t)sprintf(text + len, "read %llu bytes\n", total);
    const appserver_chunk body = {(const uint8_t *)text, len, free, text}; /* the server frees it when it was sent */
    status = host->body_bytes(call, &body);
    if (status < 0) free(text); /* it was not taken */
    return status;
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .threads = APPSERVER_THREADS_MANY,
        .name = APPSERVER_STR_INIT("hello-c"),
        .version = APPSERVER_STR_INIT("0.1.0"),
        .compiler = APPSERVER_STR_INIT(APPSERVER_COMPILER),
        .worker_init = worker_init,
        .handle = handle,
    };
    return &module;
}
