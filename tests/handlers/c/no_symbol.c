/* A shared library that is no handler: it lacks the entry and is refused. */
int a_library_of_something_else(void);

int a_library_of_something_else(void) { return 1; }
