/* The entry gives no descriptor: refused. */
#include "appserver.h"

const appserver_module *appserver_module_v1(void) { return NULL; }
