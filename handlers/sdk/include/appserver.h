/*
 * appserver.h: write handlers for appserver in C (C11 or later, also C++), ABI 1.0.
 *
 * This header is all there is: no library to link, nothing to install. A handler is a shared library that exports one
 * function, `appserver_module_v1`, which describes it. The server loads it in every worker and calls `handle` once for
 * each request.
 *
 *     #include "appserver.h"
 *
 *     static appserver_status worker_init(const appserver_host *host, void *module, const appserver_init *init,
 *                                         void **worker) {
 *         (void)module, (void)init;
 *         *worker = (void *)host;                  // what is put here comes back in every call
 *         return APPSERVER_OK;
 *     }
 *
 *     static appserver_status handle(void *module, void *worker, appserver_call *call) {
 *         const appserver_host *host = worker;
 *         const appserver_field fields[] = {{APPSERVER_STR_INIT("Content-Type"), APPSERVER_STR_INIT("text/plain")}};
 *         const appserver_chunk body = {(const uint8_t *)"Hello\n", 6, NULL, NULL};
 *         (void)module;
 *         appserver_status status = host->start_response(call, APPSERVER_STR("200 OK"), fields, 1, NULL);
 *         return status < 0 ? status : host->body_bytes(call, &body);
 *     }
 *
 *     const appserver_module *appserver_module_v1(void) {
 *         static const appserver_module module = {
 *             APPSERVER_MODULE_DEFAULTS,
 *             .threads = APPSERVER_THREADS_MANY,
 *             .name = APPSERVER_STR_INIT("hello"),
 *             .version = APPSERVER_STR_INIT("1.0"),
 *             .worker_init = worker_init,
 *             .handle = handle,
 *         };
 *         return &module;
 *     }
 *
 *     gcc -O2 -std=c11 -fPIC -shared -I handlers/sdk/include -o hello.so hello.c
 *     appserver --workers 10 --module ./hello.so
 *
 * The model is PEP 3333 (WSGI): an environ of CGI keys (`environ_get`), a status and headers (`start_response`), and a
 * body: in one buffer (`body_bytes`), as an iterator (`body_iter`), as a file (`body_file`), or written piece by piece
 * (`write`). A response that is finished later, from another thread, begins with `detach`.
 *
 * The rules:
 *
 * - Strings are pointer and length, not NUL-terminated, and any bytes. What the server reads from you (messages, keys,
 *   header fields) need only live until the function returns: it copies.
 * - Who creates a thing frees it. What outlives a call carries its own `release` or `close`.
 * - Every function returns a status: 0 and above is an outcome, negative a failure. Out parameters are written only
 *   when the status is APPSERVER_OK.
 * - Every function of the host table that takes a call may be called on any thread, as long as somebody owns the call:
 *   the server until `handle` returns, you between `call_retain` and `call_release`. Once the call has ended they do
 *   nothing and say so (APPSERVER_E_STATE or APPSERVER_E_GONE).
 * - Never let an exception, a panic or a longjmp cross into the server: catch it and return a failure.
 * - A module is loaded from memory and never unloaded. Keep no state in statics: one file may be mounted twice with
 *   different arguments; what `worker_init` gives is passed to every call.
 * - `struct_size` stands first in every struct that may grow; set it to `sizeof` the struct. Fields are only appended.
 *   Before you use a field that a minor later than 0 added, compare `host->abi_minor`.
 * - Zero what you do not use; designated initialisers do.
 */
#ifndef APPSERVER_H
#define APPSERVER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Numbers ---------------------------------------------------------------------------------------------------- */

/* `appserver_module.magic`: "APPSERVR" read as a little-endian number. */
#define APPSERVER_MAGIC UINT64_C(0x5256524553505041)
/* Another major is refused by either side. */
#define APPSERVER_ABI_MAJOR 1
/* Grows when something was appended. */
#define APPSERVER_ABI_MINOR 1
/* Name of the one symbol that a module exports. */
#define APPSERVER_ENTRY "appserver_module_v1"

/* Outcome of a call across the boundary; negative is a failure. */
typedef int32_t appserver_status;
/* Done. */
#define APPSERVER_OK 0
/* Would block; the wake callback that was passed will be called exactly once. */
#define APPSERVER_AGAIN 1
/* The end of a sequence: of the input, of an iteration, of the environ. */
#define APPSERVER_END 2
/* No such key. */
#define APPSERVER_ABSENT 3
/* Not allowed at this point of the call. */
#define APPSERVER_E_STATE (-1)
/* A malformed status, header or argument. */
#define APPSERVER_E_INVALID (-2)
/* The client ended its request body early. Never mistaken for APPSERVER_END. */
#define APPSERVER_E_TRUNCATED (-3)
/* The request body is over `limits.body`. */
#define APPSERVER_E_TOO_LARGE (-4)
/* A deadline passed. */
#define APPSERVER_E_TIMEOUT (-5)
/* The client is gone, or the call has ended. */
#define APPSERVER_E_GONE (-6)
/* The server cannot do that on this connection. */
#define APPSERVER_E_UNSUPPORTED (-7)
/* The handler failed; the reason went to the log. */
#define APPSERVER_E_FAILED (-8)
/* The handler panicked; the message went to the log. */
#define APPSERVER_E_PANIC (-9)
/* Another writer to the shared cache does not get on (busy, stopped, or killed just now): worth trying again. */
#define APPSERVER_E_BUSY (-10)

/* `appserver_module.threads`: calls of one worker never overlap; `wsgi.multithread` is false. They may still come on
 * different threads. `next` and `close` of a body are not calls: they may run beside the next call. */
#define APPSERVER_THREADS_ONE 0
/* `threads`: calls may run on any threads at once. */
#define APPSERVER_THREADS_MANY 1
/* `threads`: every call of a worker runs on one and the same thread, the one that ran `worker_init`. */
#define APPSERVER_THREADS_PINNED 2

/* `appserver_module.panic_strategy`: the language has no panics. */
#define APPSERVER_PANIC_NONE 0
/* `panic_strategy`: panics (exceptions) unwind and are caught inside the module. */
#define APPSERVER_PANIC_UNWIND 1
/* `panic_strategy`: a panic ends the worker. */
#define APPSERVER_PANIC_ABORT 2

/* Bits of `features`, `required_features` and `optional_features`.
 * Response trailers (`trailers`) and request trailers (`trailer_at`). */
#define APPSERVER_FEATURE_TRAILERS (UINT64_C(1) << 0)
/* `body_file`. */
#define APPSERVER_FEATURE_FILE (UINT64_C(1) << 1)
/* `informational`. */
#define APPSERVER_FEATURE_INFORMATIONAL (UINT64_C(1) << 2)
/* `detach` and `finish`. */
#define APPSERVER_FEATURE_DETACH (UINT64_C(1) << 3)
/* `upgrade`. */
#define APPSERVER_FEATURE_UPGRADE (UINT64_C(1) << 4)
/* The would-block forms: `input_poll`, `write_poll`, `state_poll`, and APPSERVER_AGAIN from `next`. */
#define APPSERVER_FEATURE_POLL (UINT64_C(1) << 5)
/* `cache` is not NULL: only where the operator has enabled it (ABI minor 1). */
#define APPSERVER_FEATURE_CACHE (UINT64_C(1) << 6)

/* `appserver_cache.purge`: all variants of a URI, `http://host/path?query`, or `/path?query` of any host. */
#define APPSERVER_PURGE_KEY 0
/* `purge`: all URIs that begin with it, in either form. */
#define APPSERVER_PURGE_PREFIX 1
/* `purge`: all responses that were sent with this tag in Cache-Tag or Surrogate-Key. */
#define APPSERVER_PURGE_TAG 2

/* `state`: the client is connected and may still send. */
#define APPSERVER_STATE_HERE 0
/* `state`: the client has sent a FIN; it may still read, so this alone is no reason to stop. */
#define APPSERVER_STATE_HALF_CLOSED 1
/* `state`: the connection is gone; nothing can be delivered any more. */
#define APPSERVER_STATE_GONE 2

/* `log`: severities. */
#define APPSERVER_LOG_ERROR 1
#define APPSERVER_LOG_WARN 2
#define APPSERVER_LOG_INFO 3
#define APPSERVER_LOG_DEBUG 4
#define APPSERVER_LOG_TRACE 5

/* ---- Values ----------------------------------------------------------------------------------------------------- */

/* Borrowed bytes; not NUL-terminated, not necessarily UTF-8. `ptr` may be NULL only when `len` is 0. */
typedef struct appserver_str {
    const uint8_t *ptr;
    size_t len;
} appserver_str;

/* A header or trailer field, or a module argument. */
typedef struct appserver_field {
    appserver_str name;
    appserver_str value;
} appserver_field;

/* Tells that something that said APPSERVER_AGAIN is worth asking again. For every APPSERVER_AGAIN it is called exactly
 * once: on any thread, perhaps before the function that said so has returned, and also when the call ends. It may come
 * for nothing: ask again and see. Without APPSERVER_AGAIN it is not called. It must not block and should only pass the
 * word on (eventfd, condition variable, run queue). */
typedef void (*appserver_wake)(void *ctx);

/* Bytes of a body. With `release` they stay yours, unchanged, until the server calls `release(owner)`: once, on any
 * thread. Without it (NULL) the server copies them before the function returns. */
typedef struct appserver_chunk {
    const uint8_t *ptr;
    size_t len; /* bytes; 0 is allowed and sends nothing */
    void (*release)(void *owner);
    void *owner; /* what keeps the bytes alive: often the pointer to free */
} appserver_chunk;

/* A body that yields chunks. `next` and `close` may run on another thread than the call, never two at once. `next` is
 * called only when the previous chunk has left for the client. */
typedef struct appserver_iter {
    size_t struct_size; /* sizeof(appserver_iter) */
    void *ctx;          /* passed to both functions */
    /* APPSERVER_OK and a chunk in `out`; APPSERVER_END; APPSERVER_AGAIN, and then you call `wake(wake_ctx)` exactly
     * once, from any thread, when there is more; or a failure, which cuts the response off (a 500 if nothing was sent).
     * You must not call `wake` for any answer but APPSERVER_AGAIN. `out` comes zeroed. */
    appserver_status (*next)(void *ctx, appserver_chunk *out, appserver_wake wake, void *wake_ctx);
    /* Called exactly once after the last `next`, whatever happens: end, failure, client gone. May be NULL. */
    void (*close)(void *ctx);
} appserver_iter;

/* A body that is a range of a file, sent by sendfile(2) where the connection allows it. */
typedef struct appserver_file {
    size_t struct_size;       /* sizeof(appserver_file) */
    int32_t fd;               /* an open descriptor of a regular file; it stays yours until `close` */
    uint64_t offset;          /* first byte to send; the descriptor's own position is neither used nor moved */
    uint64_t length;          /* bytes to send, or UINT64_MAX for all to the end of the file */
    void *ctx;                /* passed to `close` */
    void (*close)(void *ctx); /* called exactly once, on any thread, when the server has done with it; may be NULL */
} appserver_file;

/* What an init function is told. It is valid until the init function returns: copy what you keep. */
typedef struct appserver_init {
    size_t struct_size;          /* sizeof(appserver_init) of the server */
    appserver_str mount;         /* the mount's URL prefix, which becomes SCRIPT_NAME; empty in module_init */
    const appserver_field *args; /* the mount's arguments (--arg KEY=VALUE), sorted by name; none in module_init */
    size_t args_len;             /* number of arguments */
    uint32_t worker;             /* the worker's number, counted from 1, as in the logs; 0 in module_init */
    uint32_t workers;            /* number of workers the server was asked to run */
    uint32_t threads;            /* most threads that may call at once */
    uint32_t reserved;
    uint64_t generation;         /* generation of the module image, counted from 1; grows with every reload */
    void *host_ctx;              /* the server's own, for init_error */
} appserver_init;

/* One request and its response. Opaque, reference-counted, usable from any thread. */
typedef struct appserver_call appserver_call;

/* ---- The shared cache ------------------------------------------------------------------------------------------- */

/* Values in memory that all workers of the server share. The functions belong to no call: any thread may use them at any
 * time, and none waits longer than about a millisecond. Every change is seen by all workers at once, and whole. Any value
 * can vanish at any time, a counter or a lock too: keep nothing there that cannot be made again. `name` has 1 to 64 bytes,
 * `key` 1 to 1024; a value may be empty. All may answer APPSERVER_E_INVALID (a length, a NULL) and
 * APPSERVER_E_UNSUPPORTED (there is no cache); those that write also APPSERVER_E_BUSY and APPSERVER_E_TOO_LARGE (above
 * `max-entry`). */
typedef struct appserver_cache {
    size_t struct_size; /* sizeof(appserver_cache) of the server */
    /* APPSERVER_OK and the bytes in `value`, which stay valid until you call `value->release(value->owner)`, once; or
     * APPSERVER_ABSENT. */
    appserver_status (*get)(appserver_str name, appserver_str key, appserver_chunk *value);
    /* Keeps a value in place of any other, for `ttl_ms` milliseconds; 0: until it has to give way. */
    appserver_status (*set)(appserver_str name, appserver_str key, appserver_str value, uint64_t ttl_ms);
    /* The same, if there is none: APPSERVER_OK; APPSERVER_ABSENT when there is one, and nothing was kept. Of all who ask at
     * once one gets APPSERVER_OK. */
    appserver_status (*add)(appserver_str name, appserver_str key, appserver_str value, uint64_t ttl_ms);
    /* Adds to a number, in decimal digits as a value, which begins at 0 and then with `ttl_ms`; one that is there keeps its
     * own end. The sum goes into `sum`, which may be NULL. APPSERVER_E_STATE when there is a value that is no number, or
     * the sum is beyond 64 bits. */
    appserver_status (*incr)(appserver_str name, appserver_str key, int64_t by, uint64_t ttl_ms, int64_t *sum);
    /* Throws a value away: APPSERVER_OK, or APPSERVER_ABSENT when there was none. */
    appserver_status (*delete_)(appserver_str name, appserver_str key);
    /* Throws responses of whichever handler away, by APPSERVER_PURGE_*; how many goes into `count`, which may be NULL. It
     * looks at every entry. */
    appserver_status (*purge)(int32_t what, appserver_str text, uint64_t *count);
} appserver_cache;

/* ---- What the server does for you ------------------------------------------------------------------------------- */

/* The functions of the server: none is NULL. The table is given to the init functions and valid as long as the process
 * lives: keep the pointer. Blocking functions block the calling thread only. */
typedef struct appserver_host {
    size_t struct_size; /* sizeof(appserver_host) of the server */
    uint32_t abi_major;
    uint32_t abi_minor;
    uint64_t features;    /* what this server can do: APPSERVER_FEATURE_* */
    appserver_str server; /* name and version, "appserver/0.1.0" */

    /* Writes `message` to the error log at an APPSERVER_LOG_* level, with the request id. `call` may be NULL, outside
     * of any request. */
    void (*log)(appserver_call *call, int32_t level, appserver_str message);
    /* Tells why an init function is about to fail: call it before you return the failure, from the same thread. The
     * message is what the operator reads. */
    void (*init_error)(const appserver_init *init, appserver_str message);

    /* One more owner of the call: it and everything read from it stays valid after `handle` has returned, until
     * `call_release`. This alone does not keep the response open: see `detach`. */
    void (*call_retain)(appserver_call *call);
    /* One owner less; exactly one for each `call_retain`. Afterwards that owner must not touch the call. A detached
     * call whose last owner lets go without `finish` has failed. */
    void (*call_release)(appserver_call *call);

    /* The value of one environ key, built when asked for: REQUEST_METHOD, SCRIPT_NAME, PATH_INFO, QUERY_STRING,
     * CONTENT_TYPE, CONTENT_LENGTH, SERVER_NAME, SERVER_PORT, SERVER_PROTOCOL, HTTP_*, wsgi.url_scheme, ... The bytes
     * are valid until the call is freed. APPSERVER_OK or APPSERVER_ABSENT. */
    appserver_status (*environ_get)(appserver_call *call, appserver_str key, appserver_str *value);
    /* The environ by index, from 0, for those who need all of it. APPSERVER_OK, or APPSERVER_END past the last. */
    appserver_status (*environ_at)(appserver_call *call, size_t index, appserver_str *key, appserver_str *value);

    /* The method as sent. Valid until the call is freed, as everything below. APPSERVER_OK. */
    appserver_status (*method)(appserver_call *call, appserver_str *value);
    /* The request target as sent, not decoded. APPSERVER_OK. */
    appserver_status (*target)(appserver_call *call, appserver_str *value);
    /* Request fields by index in the order sent, repeats included. APPSERVER_OK, or APPSERVER_END past the last. */
    appserver_status (*field_at)(appserver_call *call, size_t index, appserver_field *field);
    /* Request trailers by index. APPSERVER_OK, APPSERVER_END past the last, or APPSERVER_E_STATE before the input has
     * been read to its end. */
    appserver_status (*trailer_at)(appserver_call *call, size_t index, appserver_field *field);
    /* When the call must have answered, in nanoseconds of CLOCK_MONOTONIC; 0 when nothing bounds it. */
    uint64_t (*deadline)(appserver_call *call);
    /* APPSERVER_STATE_HERE, _HALF_CLOSED or _GONE, as of now. */
    appserver_status (*state)(appserver_call *call);
    /* APPSERVER_AGAIN, and a wake when the state changes from what it is now; APPSERVER_OK when it is gone already;
     * APPSERVER_E_INVALID without a wake. A second poll replaces the first, whose wake is called at once. */
    appserver_status (*state_poll)(appserver_call *call, appserver_wake wake, void *ctx);

    /* Reads the request body into `buf`; blocks until there is at least a byte. APPSERVER_OK and 1 to `len` bytes in
     * `got`; APPSERVER_END when the body was read to its end; APPSERVER_E_TRUNCATED, _E_TOO_LARGE, _E_TIMEOUT or
     * _E_GONE when the rest will not come (return it from `handle`); APPSERVER_E_INVALID for no buffer or `len` 0. The
     * first read answers `Expect: 100-continue`. One thread at a time. */
    appserver_status (*input_read)(appserver_call *call, uint8_t *buf, size_t len, size_t *got);
    /* Like `input_read`, but APPSERVER_AGAIN and a wake instead of blocking. `wake` may be NULL: just look. */
    appserver_status (*input_poll)(appserver_call *call, uint8_t *buf, size_t len, size_t *got, appserver_wake wake,
                                   void *ctx);

    /* Sets status ("404 Not Found", 200 to 999) and header fields. Nothing leaves before the first byte of the body, or
     * the end. Takes effect once: a second time is the handler's fault, and a 500, unless `exc_info` (a message, which
     * is logged) is given: then it replaces the first before the first body byte, and aborts the response after it, as
     * PEP 3333 says. Content-Length, when set, must be kept; hop-by-hop headers (Connection, Transfer-Encoding, ...)
     * are the server's and refused. APPSERVER_OK; APPSERVER_E_INVALID for a status or header that cannot be sent, or
     * for a second time (the response becomes a 500; the reason is logged); APPSERVER_E_STATE when it is too late. */
    appserver_status (*start_response)(appserver_call *call, appserver_str status, const appserver_field *fields,
                                       size_t fields_len, const appserver_str *exc_info);
    /* Sends an interim response (102 to 199) at once, such as 103 Early Hints. APPSERVER_OK; APPSERVER_E_INVALID;
     * APPSERVER_E_STATE when the response has begun; APPSERVER_E_UNSUPPORTED when the client speaks HTTP/1.0. */
    appserver_status (*informational)(appserver_call *call, uint32_t status, const appserver_field *fields,
                                      size_t fields_len);
    /* Sets the response's trailers, before the body ends; a second time replaces. They are sent where the framing has
     * room for them. APPSERVER_OK, APPSERVER_E_INVALID, or APPSERVER_E_STATE when it is too late. */
    appserver_status (*trailers)(appserver_call *call, const appserver_field *fields, size_t fields_len);

    /* Appends to the body (copies); blocks while the client does not read. After `start_response`, and before any of
     * the `body_*` functions. APPSERVER_OK when all was taken; APPSERVER_E_GONE, APPSERVER_E_FAILED,
     * APPSERVER_E_STATE. */
    appserver_status (*write)(appserver_call *call, const uint8_t *bytes, size_t len);
    /* Like `write`, but takes what it can: APPSERVER_OK and more than 0 in `taken`, or APPSERVER_AGAIN and a wake. */
    appserver_status (*write_poll)(appserver_call *call, const uint8_t *bytes, size_t len, size_t *taken,
                                   appserver_wake wake, void *ctx);
    /* The whole (rest of the) body in one buffer; the server sets Content-Length when nothing was written before. At
     * most one of the three `body_*` functions a call, from inside `handle`, and not after `detach`. APPSERVER_OK, or
     * APPSERVER_E_STATE, APPSERVER_E_FAILED, APPSERVER_E_INVALID (ptr NULL, len not 0). On failure `release` is not
     * called and the bytes stay yours; after APPSERVER_OK it is called exactly once, perhaps before this returns. */
    appserver_status (*body_bytes)(appserver_call *call, const appserver_chunk *chunk);
    /* The (rest of the) body as an iterator; the struct is copied, its `ctx` is used after `handle` has returned. On
     * failure neither function is called and `ctx` stays yours. */
    appserver_status (*body_iter)(appserver_call *call, const appserver_iter *iter);
    /* The (rest of the) body as a range of a file. On failure `close` is not called and the file stays yours. */
    appserver_status (*body_file)(appserver_call *call, const appserver_file *file);

    /* From inside `handle`, which then returns APPSERVER_OK: the response is finished later, by `write` and `finish`,
     * from any thread that holds a reference (`call_retain` it before `handle` returns). APPSERVER_OK, or
     * APPSERVER_E_STATE after a `body_*` function. */
    appserver_status (*detach)(appserver_call *call);
    /* Ends a detached response: APPSERVER_OK when it is complete; a failure status becomes a 500, or cuts a response
     * that was begun. Then `call_release`. APPSERVER_OK, or APPSERVER_E_STATE when it is not detached or has ended. */
    appserver_status (*finish)(appserver_call *call, appserver_status outcome);
    /* Instead of `start_response`, from inside `handle`: answers 101 with these fields (Upgrade: NAME among them). From
     * then on `input_*` and `write*` move raw bytes both ways until `finish`. Detaches, so retain the call.
     * APPSERVER_OK; APPSERVER_E_UNSUPPORTED when the client did not ask; APPSERVER_E_INVALID; APPSERVER_E_STATE. */
    appserver_status (*upgrade)(appserver_call *call, const appserver_field *fields, size_t fields_len);
    /* Writes to `wsgi.errors`: the error log, a line for each line, with the request id. */
    appserver_status (*errors_write)(appserver_call *call, appserver_str bytes);

    /* The shared cache; NULL without APPSERVER_FEATURE_CACHE. */
    const appserver_cache *cache;
    /* Reserved for tables to come; NULL means absent. */
    const void *metrics;
    const void *tasks;
    const void *reserved[5];
} appserver_host;

/* ---- What you give the server ----------------------------------------------------------------------------------- */

/* What a module says of itself. It and all it points at must live as long as the process: make it static const. */
typedef struct appserver_module {
    size_t struct_size;         /* sizeof(appserver_module) */
    uint64_t magic;             /* APPSERVER_MAGIC */
    uint32_t abi_major;         /* APPSERVER_ABI_MAJOR, as it was at compile time */
    uint32_t abi_minor;         /* APPSERVER_ABI_MINOR, as it was at compile time */
    uint32_t min_host_minor;    /* the least minor of a server that can run it; an older server refuses it */
    uint32_t threads;           /* APPSERVER_THREADS_* */
    uint32_t panic_strategy;    /* APPSERVER_PANIC_*; a C module leaves it 0 */
    uint32_t reserved;          /* 0 */
    uint64_t required_features; /* APPSERVER_FEATURE_* it cannot do without; a server that lacks one refuses it */
    uint64_t optional_features; /* APPSERVER_FEATURE_* it would use: look at host->features first */
    appserver_str name;
    appserver_str version;
    appserver_str sdk_version; /* empty without an SDK */
    appserver_str compiler;    /* for the log */

    /* Once per image, before any worker is forked from this process; may be NULL. Must not start a thread. What it puts
     * into `*module` is passed to all the others. APPSERVER_OK, or a failure after `host->init_error`. */
    appserver_status (*module_init)(const appserver_host *host, const appserver_init *init, void **module);
    /* Once per worker and mount, in the worker; may be NULL, but then nobody keeps `host` for you. What it puts into
     * `*worker` is passed to `handle`. APPSERVER_OK, or a failure after `host->init_error`: then the worker does not
     * serve, and a reload is called off. */
    appserver_status (*worker_init)(const appserver_host *host, void *module, const appserver_init *init,
                                    void **worker);
    /* After the last call of the worker; may be NULL. Not called when the worker is killed. */
    void (*worker_shutdown)(void *module, void *worker);
    /* Serves one request; must not be NULL. The threads it comes on are as `threads` says. The call is borrowed until
     * it returns (see `call_retain`). APPSERVER_OK, after `start_response` at least; any other status is a 500 when
     * nothing was sent yet, and else cuts the response off. */
    appserver_status (*handle)(void *module, void *worker, appserver_call *call);
} appserver_module;

/* ---- Conveniences ----------------------------------------------------------------------------------------------- */

/* Makes a symbol visible also under -fvisibility=hidden. */
#if defined(__GNUC__) || defined(__clang__)
#define APPSERVER_EXPORT __attribute__((visibility("default")))
#define APPSERVER_COMPILER __VERSION__
#else
#define APPSERVER_EXPORT
#define APPSERVER_COMPILER ""
#endif

/* A string literal as an appserver_str: in an initialiser (also a static one), and as an expression. */
#define APPSERVER_STR_INIT(literal) {(const uint8_t *)("" literal), sizeof("" literal) - 1}
#ifdef __cplusplus
#define APPSERVER_STR(literal) (appserver_str APPSERVER_STR_INIT(literal))
#else
#define APPSERVER_STR(literal) ((appserver_str)APPSERVER_STR_INIT(literal))
#endif

/* The fields of a descriptor that are the same for every module; begin its initialiser with it. (C, and C++20.) */
#define APPSERVER_MODULE_DEFAULTS                                                                                      \
    .struct_size = sizeof(appserver_module), .magic = APPSERVER_MAGIC, .abi_major = APPSERVER_ABI_MAJOR,               \
    .abi_minor = APPSERVER_ABI_MINOR

/* A NUL-terminated string; NULL counts as empty. */
static inline appserver_str appserver_str_of(const char *text) {
    appserver_str str;
    str.ptr = (const uint8_t *)text;
    str.len = text ? strlen(text) : 0;
    return str;
}

/* Whether the bytes are those of a NUL-terminated string. */
static inline int appserver_str_is(appserver_str str, const char *text) {
    return str.len == strlen(text) && (str.len == 0 || memcmp(str.ptr, text, str.len) == 0);
}

/* The value of a module argument (--arg NAME=VALUE), empty with a NULL pointer when it was not given. */
static inline appserver_str appserver_arg(const appserver_init *init, const char *name) {
    for (size_t i = 0; i < init->args_len; i++) {
        if (appserver_str_is(init->args[i].name, name)) return init->args[i].value;
    }
    return appserver_str_of(NULL);
}

/* The one symbol that a module exports. Called once after loading; returns the descriptor. */
APPSERVER_EXPORT const appserver_module *appserver_module_v1(void);

#ifdef __cplusplus
}
#endif

#endif
