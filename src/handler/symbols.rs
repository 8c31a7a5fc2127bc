//! From the raw addresses of a stack to names a person can read.
//!
//! Takes where modules and other files lay in an address space; gives `lab.so@1f2e+0x1234` for an address at once, and the function,
//! file and line when there is time: that reads whole files and may be slow, so a process of its own does it. Modules are
//! read from their sealed images, so a file that was overwritten meanwhile names nothing wrongly.
#![forbid(unsafe_code)]

use super::image::Image;
use crate::sys::fault::Place;
use addr2line::Loader;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most lines that a stack is told in; one deeper has its outer end left out.
const MOST_LINES: usize = 48;

/// The server's own file, whatever lies at its path by now.
const OWN_FILE: &str = "/proc/self/exe";
/// Where the server's way to a module begins to be of no interest.
const CALLER: &str = "src/worker/";

/// What lay where in a process.
#[derive(Debug, Default)]
pub struct Space {
    files: Vec<Mapped>,
    regions: Vec<Region>,
}

#[derive(Debug)]
struct Mapped {
    /// As it is shown.
    name: String,
    /// Where it can be read.
    path: PathBuf,
    /// Its inode when it was mapped; none where the path always leads to the same bytes.
    inode: Option<u64>,
    /// A module's sealed image, which the path leads to as long as it is held.
    image: Option<Image>,
}

#[derive(Debug)]
struct Region {
    start: u64,
    end: u64,
    /// What must be subtracted from an address to have the one in the file.
    base: u64,
    file: usize,
}

impl Space {
    /// The modules of a worker, each where it was loaded, and the files that were mapped before the worker was forked, as
    /// `maps` (proc(5)) of its parent tells them.
    pub fn new(images: &[Image], places: &[Place], maps: &str) -> Self {
        let mut space = Self::default();
        for (image, place) in images.iter().zip(places).filter(|(_, place)| place.len > 0) {
            let file = space.add(Mapped {
                name: short_name(image),
                path: image.proc_path(),
                inode: None,
                image: Some(image.clone()),
            });
            space.regions.push(Region {
                start: place.base,
                end: place.base.saturating_add(place.len),
                base: place.base,
                file,
            });
        }
        space.add_maps(maps);
        space
    }

    fn add(&mut self, file: Mapped) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    fn add_maps(&mut self, maps: &str) {
        let executable = std::fs::read_link(OWN_FILE).unwrap_or_default();
        let mut known: HashMap<&str, (usize, u64)> = HashMap::new();
        for line in maps.lines() {
            let Some((start, end, offset, inode, path)) = mapping(line) else {
                continue;
            };
            let (file, base) = *known.entry(path).or_insert_with(|| {
                let shown = path.strip_suffix(" (deleted)").unwrap_or(path);
                let name = shown.rsplit('/').next().unwrap_or(shown).to_owned();
                let (path, inode) = if Path::new(path) == executable {
                    (PathBuf::from(OWN_FILE), None)
                } else {
                    (PathBuf::from(path), Some(inode))
                };
                (
                    self.add(Mapped {
                        name,
                        path,
                        inode,
                        image: None,
                    }),
                    start.wrapping_sub(offset),
                )
            });
            self.regions.push(Region { start, end, base, file });
        }
    }

    fn is_server(&self, region: &Region) -> bool {
        self.files[region.file].path == Path::new(OWN_FILE)
    }

    fn region(&self, address: u64) -> Option<&Region> {
        self.regions
            .iter()
            .find(|region| (region.start..region.end).contains(&address))
    }

    /// An address as file and offset, or as it is where nothing is known of it. Reads nothing.
    pub fn place(&self, address: u64) -> String {
        match self.region(address) {
            Some(region) => format!("{}+{:#x}", self.files[region.file].name, address - region.base),
            None => format!("{address:#x}"),
        }
    }

    /// A stack as files and offsets, a line each. Reads nothing.
    pub fn places(&self, frames: &[u64]) -> Vec<String> {
        let lines = frames.iter().enumerate();
        shortened(
            lines
                .map(|(index, address)| format!("#{index} {}", self.place(*address)))
                .collect(),
        )
    }

    /// A stack with all that can be found out, a line each and one more for each call that was compiled into its
    /// caller. Reads files and may take long.
    pub fn names(&self, frames: &[u64]) -> Vec<String> {
        let mut loaders: HashMap<usize, Option<Loader>> = HashMap::new();
        let mut lines = Vec::new();
        let mut in_module = false;
        for (index, address) in frames.iter().enumerate() {
            // A return address may be the first of the next line, or of the next function; the call stands before it.
            let looked_at = if index == 0 {
                *address
            } else {
                address.saturating_sub(1)
            };
            let named = self.region(looked_at).map_or_else(Vec::new, |region| {
                let loader = loaders
                    .entry(region.file)
                    .or_insert_with(|| self.files[region.file].open());
                loader
                    .as_ref()
                    .map_or_else(Vec::new, |loader| names_in(loader, looked_at - region.base))
            });
            let place = self.place(*address);
            if named.is_empty() {
                lines.push(format!("#{index} {place}"));
            }
            let innermost = named.len().saturating_sub(1);
            for (depth, name) in named.into_iter().enumerate() {
                // Only the outermost of a group has the address to itself.
                let place = if depth == innermost { &place } else { "inlined" };
                lines.push(format!("#{index} {name} ({place})"));
            }
            let region = self.region(looked_at);
            in_module |= region.is_some_and(|region| self.files[region.file].image.is_some());
            // How the server came to call the module is the same each time.
            if in_module
                && region.is_some_and(|region| self.is_server(region))
                && lines.last().is_some_and(|line| line.contains(CALLER))
            {
                let more = frames.len() - index - 1;
                lines.extend((more > 0).then(|| format!("and {more} more of the server")));
                break;
            }
        }
        shortened(lines)
    }
}

impl Mapped {
    fn open(&self) -> Option<Loader> {
        // Another file at the same path would name the wrong functions.
        let same = |inode| std::fs::metadata(&self.path).is_ok_and(|now| now.ino() == inode);
        self.inode.is_none_or(same).then(|| Loader::new(&self.path).ok())?
    }
}

/// The file's name and the first digits of its build id.
fn short_name(image: &Image) -> String {
    let build_id = image.build_id();
    format!("{}@{}", file_name(image), build_id.get(..12).unwrap_or(build_id))
}

fn file_name(image: &Image) -> String {
    image
        .path()
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The file's name and the whole build id: which bytes exactly.
pub fn full_name(image: &Image) -> String {
    format!("{}@{}", file_name(image), image.build_id())
}

/// The functions at an address of a file, innermost first: those compiled into another, and last the one itself.
fn names_in(loader: &Loader, at: u64) -> Vec<String> {
    let symbol = loader.find_symbol(at).map(demangled);
    let mut found: Vec<(Option<String>, Option<String>)> = Vec::new();
    if let Ok(mut frames) = loader.find_frames(at) {
        while let Ok(Some(frame)) = frames.next() {
            let function = frame.function.and_then(|name| Some(demangled(&name.raw_name().ok()?)));
            let place = frame.location.and_then(|location| {
                let file = shortened_path(location.file?);
                Some(
                    location
                        .line
                        .map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")),
                )
            });
            found.push((function, place));
        }
    }
    // What the standard library inlines into a function says less than the function itself.
    let outermost = found.len().saturating_sub(1);
    let mut depth = 0;
    found.retain(|(_, place)| {
        depth += 1;
        depth > outermost || place.as_ref().is_none_or(|place| !place.starts_with("library/"))
    });
    match (found.last_mut(), symbol) {
        // Line tables know a function by its last name only; the symbol has the whole path.
        (Some((function, _)), Some(symbol)) => *function = Some(symbol),
        (None, Some(symbol)) => found.push((Some(symbol), None)),
        (_, None) => {}
    }
    found.retain(|(function, place)| function.is_some() || place.is_some());
    let told = |(function, place): (Option<String>, Option<String>)| {
        let function = function.unwrap_or_else(|| "?".to_owned());
        place.map_or_else(|| function.clone(), |place| format!("{function} at {place}"))
    };
    found.into_iter().map(told).collect()
}

fn demangled(name: &str) -> String {
    // Without the hash at the end, which tells a person nothing.
    rustc_demangle::try_demangle(name).map_or_else(|_| name.to_owned(), |name| format!("{name:#}"))
}

/// Without the folders of the compiler's own sources and of cargo's registry, which say nothing and are long.
fn shortened_path(file: &str) -> &str {
    let rest = match file.strip_prefix("/rustc/") {
        Some(rest) => Some(rest),
        None => file.split_once("/registry/src/").map(|(_, rest)| rest),
    };
    rest.and_then(|rest| rest.split_once('/'))
        .map_or(file, |(_, rest)| rest)
}

fn shortened(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST_LINES);
    if more > 0 {
        lines.truncate(MOST_LINES);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Start, end, offset, inode and path of a line of /proc/PID/maps that is about a file.
fn mapping(line: &str) -> Option<(u64, u64, u64, u64, &str)> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let _permissions = words.next()?;
    let offset = words.next()?;
    let _device = words.next()?;
    let inode = words.next()?;
    let path = words.next()?.trim_start();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    path.starts_with('/')
        .then_some((hex(start)?, hex(end)?, hex(offset)?, inode.parse().ok()?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
        5000-6000 r--p 00000000 00:1 77 /usr/lib/libx.so.6\n\
        6000-9000 r-xp 00001000 00:1 77 /usr/lib/libx.so.6\n\
        a000-b000 rw-p 00000000 00:0 0 \n\
        b000-c000 rw-p 00000000 00:0 0                          [heap]\n\
        d000-e000 r-xp 00002000 00:1 78                         /tmp/a b.so (deleted)\n";

    #[test]
    fn an_address_is_told_as_file_and_offset() {
        let space = Space::new(&[], &[], MAPS);
        assert_eq!(space.place(0x6010), "libx.so.6+0x1010");
        assert_eq!(space.place(0xd001), "a b.so+0x2001");
        assert_eq!(space.place(0xb001), "0xb001");
        assert_eq!(space.places(&[0x6010, 1]), ["#0 libx.so.6+0x1010", "#1 0x1"]);
        assert_eq!(space.places(&[1; 96]).len(), MOST_LINES + 1);
    }

    #[test]
    fn this_very_function_is_named_with_its_file() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let space = Space::new(&[], &[], &maps);
        let here = this_very_function_is_named_with_its_file as *const () as u64;
        let lines = space.names(&[here + 1, 1]);
        assert!(
            lines[0].starts_with("#0 appserver::handler::symbols::tests::this_very_function"),
            "{lines:?}"
        );
        assert!(lines[0].contains("src/handler/symbols.rs:"), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "#1 0x1");
    }

    #[test]
    fn a_file_that_was_replaced_names_nothing() {
        let executable = std::env::current_exe().unwrap();
        let maps = format!("1000-2000 r-xp 00000000 00:1 1 {}.not\n", executable.display());
        assert_eq!(Space::new(&[], &[], &maps).names(&[0x1010]).len(), 1);
        assert_eq!(
            shortened_path("/rustc/0123/library/std/src/rt.rs"),
            "library/std/src/rt.rs"
        );
        assert_eq!(
            shortened_path("/h/.cargo/registry/src/index-1/mio-1.2/src/a.rs"),
            "mio-1.2/src/a.rs"
        );
        assert_eq!(shortened_path("/work/src/a.rs"), "/work/src/a.rs");
        assert_eq!(demangled("_ZN3lab5fault4segv17h0123456789abcdefE"), "lab::fault::segv");
    }
}
