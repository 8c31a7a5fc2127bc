/* A descriptor with nothing to call: refused. */
#include "appserver.h"

const appserver_module *appserver_module_v1(void) {
    static const appserver_module module = {
        APPSERVER_MODULE_DEFAULTS,
        .name = APPSERVER_STR_INIT("no_handle"),
        .version = APPSERVER_STR_INIT("1.0"),
    };
    return &module;
}
