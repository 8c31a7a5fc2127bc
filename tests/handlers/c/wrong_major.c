/* Built for ABI 2, which this server does not speak: refused. */
#include "appserver.h"

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module, (void)worker, (void)call;
    return APPSERVER_E_FAILED;
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        .struct_size = sizeof(appserver_module),
        .magic = APPSERVER_MAGIC,
        .abi_major = 2,
        .name = APPSERVER_STR_INIT("wrong_major"),
        .version = APPSERVER_STR_INIT("1.0"),
        .handle = handle,
    };
    return &module;
}
