/* Hello as a uWSGI symcall handler: takes a request on any path; gives the body and the type that hello.so gives through
 * appserver, and on /sleep the same after 50 ms.
 *
 * The functions are those that uWSGI's documentation names for plugins. They are declared here and the request stays
 * opaque, so that no layout has to match the server's build. "Connection: close" says what its http-socket does anyway;
 * a client that is not told takes the end for an error. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

struct wsgi_request;

int uwsgi_parse_vars(struct wsgi_request *);
char *uwsgi_get_var(struct wsgi_request *, char *, uint16_t, uint16_t *);
int uwsgi_response_prepare_headers(struct wsgi_request *, char *, uint16_t);
int uwsgi_response_add_header(struct wsgi_request *, char *, uint16_t, char *, uint16_t);
int uwsgi_response_add_content_length(struct wsgi_request *, uint64_t);
int uwsgi_response_write_body_do(struct wsgi_request *, char *, size_t);

static char body[] = "Hello, world!\n";

int hello(struct wsgi_request *request)
{
    uint16_t length = 0;
    if (uwsgi_parse_vars(request))
        return -1;
    char *path = uwsgi_get_var(request, "PATH_INFO", 9, &length);
    if (path && length == 6 && !memcmp(path, "/sleep", 6))
        usleep(50 * 1000);
    if (uwsgi_response_prepare_headers(request, "200 OK", 6) ||
        uwsgi_response_add_header(request, "Content-Type", 12, "text/plain", 10) ||
        uwsgi_response_add_content_length(request, sizeof body - 1) ||
        uwsgi_response_add_header(request, "Connection", 10, "close", 5))
        return -1;
    uwsgi_response_write_body_do(request, body, sizeof body - 1);
    return 0; /* UWSGI_OK */
}
