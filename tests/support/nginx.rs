//! A real nginx in front of the server, with the configuration file that we ship.
//!
//! Takes the server's address; gives a running nginx that listens on a Unix socket in its own folder, so that no port
//! is guessed. Of the shipped file it changes only the addresses; everything nginx would write elsewhere is kept local.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::client::{Address, Client};
use crate::support::modules::root;
use crate::support::process;
use crate::support::wait::until;

/// A running nginx.
pub struct Nginx {
    child: Child,
    folder: TempDir,
}

impl Nginx {
    /// Starts one before `server`, with `config/nginx.conf`.
    pub fn before(server: &Address) -> Self {
        let shipped = fs::read_to_string(root().join("config/nginx.conf")).unwrap();
        let upstream = match server {
            Address::Tcp(address) => shipped.replace("127.0.0.1:8000", &address.to_string()),
            Address::Unix(path) => shipped
                .replace("proxy_pass http://appserver_tcp;", "proxy_pass http://appserver_unix;")
                .replace("/run/appserver/app.sock", &path.display().to_string()),
        };
        assert_ne!(upstream, shipped, "config/nginx.conf names the default addresses");
        Self::serving(&upstream)
    }

    /// Starts one with `config/nginx-uwsgi.conf` before the socket of a uwsgi listener.
    pub fn before_uwsgi(socket: &Path) -> Self {
        let shipped = fs::read_to_string(root().join("config/nginx-uwsgi.conf")).unwrap();
        let upstream = shipped.replace(
            "server unix:/run/appserver/uwsgi.sock;",
            &format!("server unix:{};", socket.display()),
        );
        assert_ne!(upstream, shipped, "config/nginx-uwsgi.conf names the default address");
        Self::serving(&upstream)
    }

    /// Starts one with `config/nginx-two.conf` before two servers.
    pub fn before_two(servers: [&Address; 2]) -> Self {
        let mut site = fs::read_to_string(root().join("config/nginx-two.conf")).unwrap();
        for (server, default) in servers.into_iter().zip(["127.0.0.1:8000", "127.0.0.1:8001"]) {
            let name = match server {
                Address::Tcp(address) => address.to_string(),
                Address::Unix(path) => format!("unix:{}", path.display()),
            };
            let upstream = site.replace(&format!("server {default} "), &format!("server {name} "));
            assert_ne!(upstream, site, "config/nginx-two.conf names the default addresses");
            site = upstream;
        }
        Self::serving(&site)
    }

    /// Has it read its configuration anew: its old workers finish what they have.
    pub fn reload(&self) {
        process::signal(self.child.id() as i32, Signal::SIGHUP);
    }

    /// Its workers.
    pub fn workers(&self) -> Vec<i32> {
        process::children(self.child.id() as i32)
    }

    /// Starts one that serves this text within `http { }`; `listen 80;` in it becomes its socket.
    pub fn serving(site: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let front = format!("unix:{}", folder.path().join("front.sock").display());
        let site = site
            .replace("listen 80;", &format!("listen {front};"))
            .replace("listen [::]:80;", "");
        fs::write(folder.path().join("site.conf"), site).unwrap();
        fs::write(folder.path().join("nginx.conf"), main_config(folder.path())).unwrap();
        let child = nginx(folder.path())
            .spawn()
            .unwrap_or_else(|error| panic!("nginx: {error}; see `make test`"));
        let nginx = Nginx { child, folder };
        until("nginx listens", || Client::connect(&nginx.address()).ok());
        nginx
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        Address::Unix(self.socket())
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("front.sock")
    }

    /// A new connection to it.
    pub fn client(&self) -> Client {
        Client::connect(&self.address()).unwrap()
    }

    /// Its error log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- nginx's log:\n{}---", self.log());
        }
        let workers = process::children(self.child.id() as i32);
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in workers {
            process::signal(pid, Signal::SIGKILL);
        }
    }
}

fn nginx(folder: &Path) -> Command {
    let path = ["/usr/sbin/nginx", "/usr/bin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let mut nginx = Command::new(path.unwrap_or("nginx"));
    nginx
        .arg("-p")
        .arg(folder)
        .arg("-e")
        .arg(folder.join("error.log"))
        .arg("-c")
        .arg(folder.join("nginx.conf"));
    let output = File::create(folder.join("output")).unwrap();
    nginx
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    nginx
}

fn main_config(folder: &Path) -> String {
    let folder = folder.display();
    // A root's nginx would drop to an account that may not enter the test's folder.
    let user = if nix::unistd::geteuid().is_root() {
        "user root;\n"
    } else {
        ""
    };
    let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "{user}daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log info;\n\
         events {{ worker_connections 512; }}\nhttp {{\n    access_log {folder}/access.log;\n{temps}    \
         include {folder}/site.conf;\n}}\n"
    )
}
