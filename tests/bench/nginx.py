"""nginx's configuration: takes a folder, a port and what it should do; gives the file's path. Everything it writes stays
in the folder. It listens as its manual advises for throughput, and with `reuseport` off, so that its workers share one
queue as ours do."""

import os
from pathlib import Path

CONFIG = """
daemon off; worker_processes {workers}; worker_rlimit_nofile 65536; pid {folder}/nginx.pid; error_log {folder}/error.log;
{user}
events {{ worker_connections 8192; }}
http {{
    access_log off; default_type text/plain; server_tokens off; tcp_nodelay on;
    sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 75s; client_max_body_size 2g;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {upstream} {cache}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        {locations}
    }}
}}
"""
HELLO = 'location = / { return 200 "Hello, world!\\n"; }'
UPSTREAM = "upstream app {{ server unix:{socket}; keepalive 64; keepalive_requests 1000000000; }}"
PROXY = """location / {
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_request_buffering off; proxy_buffering off;
        }"""


CACHE = """proxy_cache_path {stored} levels=1:2 keys_zone=pages:10m max_size={size} inactive=1h use_temp_path=off;
    open_file_cache max=20000 inactive=60s; open_file_cache_valid 60s;"""
CACHED = """location / {
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_cache pages; proxy_cache_lock on;
        }"""


def config(folder, port, workers=1, files=None, upstream=None, cache=None):
    """`files` is a folder to serve below /files/; `upstream` the Unix socket of a server to proxy to; `cache` where pages are kept, and
    in how much."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    locations = CACHED if cache else PROXY if upstream else HELLO
    if files:
        locations += f"\n        location /files/ {{ alias {files}/; }}"
    path = folder / "nginx.conf"
    path.write_text(CONFIG.format(
        folder=folder, port=port, workers=workers, locations=locations,
        user="user root;" if os.geteuid() == 0 else "",
        cache=CACHE.format(stored=cache[0], size=cache[1].replace("MiB", "m")) if cache else "",
        upstream=UPSTREAM.format(socket=upstream) if upstream else "",
    ))
    return path
