/* Requires a feature that no server has: refused. */
#include "appserver.h"

static appserver_status handle(void *module, void *worker, appserver_call *call) {
    (void)module, (void)worker, (void)call;
    return APPSERVER_E_FAILED;
}

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .name = APPSERVER_STR_INIT("unknown_feature"),
        .version = APPSERVER_STR_INIT("1.0"),
        .required_features = UINT64_C(1) << 63,
        .handle = handle,
    };
    return &module;
}
