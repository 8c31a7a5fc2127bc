//! What a faulty server is configured with, so that a scenario changes one line of it and no other.
//!
//! Takes settings by table and key, as TOML writes their values; gives the text of the file. It knows no setting.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// The table whose settings belong to the one mount.
const MOUNT: &str = "mount";

/// One configuration, ready to be changed and written anew.
#[derive(Debug, Clone, Default)]
pub struct Site {
    tables: BTreeMap<String, BTreeMap<String, String>>,
    arguments: BTreeMap<String, String>,
    listeners: Vec<String>,
    module: String,
    raw: String,
}

impl Site {
    /// One that serves this module at the root.
    pub fn of(module: &Path) -> Self {
        Site {
            module: module.display().to_string(),
            ..Site::default()
        }
    }

    /// Sets `key` of a table (`""` is the top level) to this TOML value.
    pub fn set(&mut self, table: &str, key: &str, value: &str) -> &mut Self {
        let table = self.tables.entry(table.to_owned()).or_default();
        table.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Hands the module this argument.
    pub fn argument(&mut self, name: &str, value: &str) -> &mut Self {
        self.arguments.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Serves another module.
    pub fn module(&mut self, path: &Path) -> &mut Self {
        self.module = path.display().to_string();
        self
    }

    /// Where it listens, instead of where it did.
    pub fn listeners(&mut self, binds: &[String]) -> &mut Self {
        self.listeners = binds.to_vec();
        self
    }

    /// Text at the top of the file, sound or not.
    pub fn raw(&mut self, text: &str) -> &mut Self {
        text.clone_into(&mut self.raw);
        self
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.raw);
        // The top level has the empty name and so comes first.
        for (name, settings) in self.tables.iter().filter(|(name, _)| *name != MOUNT) {
            if !name.is_empty() {
                let _ = writeln!(out, "[{name}]");
            }
            for (key, value) in settings {
                let _ = writeln!(out, "{key} = {value}");
            }
        }
        for bind in &self.listeners {
            let _ = writeln!(out, "[[listener]]\nbind = {bind:?}");
        }
        let _ = writeln!(out, "[[mount]]\npath = \"/\"\nmodule = {:?}", self.module);
        let arguments: Vec<String> = self
            .arguments
            .iter()
            .map(|(name, value)| format!("{name} = {value:?}"))
            .collect();
        let _ = writeln!(out, "args = {{ {} }}", arguments.join(", "));
        for (key, value) in self.tables.get(MOUNT).into_iter().flatten() {
            let _ = writeln!(out, "{key} = {value}");
        }
        out
    }
}

#[test]
fn a_site_is_written_as_toml() {
    let mut site = Site::of(Path::new("/a.so"));
    site.set("", "workers", "2").set("timeouts", "boot", "\"1s\"");
    site.argument("boot", "fail").listeners(&["unix:/b".to_owned()]);
    assert_eq!(
        site.text(),
        "\nworkers = 2\n[timeouts]\nboot = \"1s\"\n[[listener]]\nbind = \"unix:/b\"\n[[mount]]\npath = \"/\"\n\
         module = \"/a.so\"\nargs = { boot = \"fail\" }\n"
    );
}
