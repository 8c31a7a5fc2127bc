/* Counts what it opens and what the server closes. Takes ?KIND[&status=NNN], gives a body of that kind; /count gives
 * "opened closed wrong", where wrong counts a second close and a next after the close. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "appserver.h"

static const uint8_t block[64 * 1024];

struct counts {
    const appserver_host *host;
    atomic_int opened, closed, wrong;
};

struct body {
    struct counts *counts;
    int steps, fd;
    char kind;
    atomic_int closed;
};

static appserver_status next(void *ctx, appserver_chunk *out, appserver_wake wake, void *wake_ctx) {
    struct body *body = ctx;
    (void)wake, (void)wake_ctx;
    if (atomic_load(&body->closed)) atomic_fetch_add(&body->counts->wrong, 1);
    int step = body->steps++;
    if (body->kind == 'w') return APPSERVER_AGAIN; /* waiting: there is never more */
    if (body->kind == 'p') return APPSERVER_E_PANIC;
    if (body->kind == 'f' && step == 1) return APPSERVER_E_FAILED;
    if (body->kind != 'e' && step == 3) return APPSERVER_END;
    out->ptr = block;
    out->len = body->kind == 'e' ? sizeof block : 3;
    return APPSERVER_OK;
}

/* The struct is kept for ever, so that a second close is seen and not a crash. */
static void close_body(void *ctx) {
    struct body *body = ctx;
    if (atomic_exchange(&body->closed, 1)) atomic_fetch_add(&body->counts->wrong, 1);
    if (body->fd >= 0) close(body->fd), body->fd = -1;
    atomic_fetch_add(&body->counts->closed, 1);
}

static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init, void **out) {
    (void)module, (void)init;
    struct counts *counts = calloc(1, sizeof *counts);
    if (!counts) return APPSERVER_E_FAILED;
    counts->host = host;
    *out = counts;
    return APPSERVER_OK;
}

static appserver_status start(const appserver_host *host, appserver_call *call, appserver_str query) {
    char status[16] = "200 OK";
    for (size_t at = 0; at + 10 <= query.len; at++) {
        if (!memcmp(query.ptr + at, "status=", 7)) sprintf(status, "%.3s Asked", (const char *)query.ptr + at + 7);
    }
    const appserver_field fields[] = {{APPSERVER_STR_INIT("X-Kind"), query}};
    return host->start_response(call, appserver_str_of(status), fields, 1, NULL);
}

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module;
    struct counts *counts = worker;
    const appserver_host *host = counts->host;
    appserver_str path = {0}, query = {0};
    host->environ_get(call, APPSERVER_STR("PATH_INFO"), &path);
    host->environ_get(call, APPSERVER_STR("QUERY_STRING"), &query);
    appserver_status status = start(host, call, query);
    if (status < 0) return status;
    if (appserver_str_is(path, "/count") || query.len == 0) {
        char text[64];
        int len = sprintf(text, "%d %d %d", atomic_load(&counts->opened), atomic_load(&counts->closed),
                          atomic_load(&counts->wrong));
        return host->body_bytes(call, &(appserver_chunk){.ptr = (uint8_t *)text, .len = (size_t)len});
    }
    struct body *body = calloc(1, sizeof *body);
    if (!body) return APPSERVER_E_FAILED;
    body->counts = counts;
    body->kind = (char)query.ptr[0];
    body->fd = -1;
    atomic_fetch_add(&counts->opened, 1);
    if (body->kind == 'd') { /* descriptor: the file is this program itself, whatever it is */
        body->fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        const appserver_file file = {
            .struct_size = sizeof file, .fd = body->fd, .length = UINT64_MAX, .ctx = body, .close = close_body};
        status = host->body_file(call, &file);
    } else if (body->kind == 'o') { /* owned: the release of a buffer */
        const appserver_chunk chunk = {block, 100, close_body, body};
        status = host->body_bytes(call, &chunk);
    } else {
        if (body->kind == 'b') host->write(call, block, 5); /* begun: by the write callable */
        const appserver_iter iter = {sizeof iter, body, next, close_body};
        status = host->body_iter(call, &iter);
    }
    if (status < 0) atomic_fetch_sub(&counts->opened, 1); /* it was not taken and stays ours */
    /* after, begun: the handler fails when the server has its body already. */
    if (body->kind == 'a' || body->kind == 'b') return APPSERVER_E_FAILED;
    return status;
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .threads = APPSERVER_THREADS_MANY,
        .name = APPSERVER_STR_INIT("closing"),
        .version = APPSERVER_STR_INIT("1.0"),
        .worker_init = worker_init,
        .handle = handle,
    };
    return &module;
}
