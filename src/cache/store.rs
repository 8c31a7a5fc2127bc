//! The cache in a file, across a stop.
//!
//! Takes a cache and a path; writes all that is of use to a new file that takes the old one's place at once, and reads it back. A file that is
//! damaged, cut off or of another version is refused whole, by what is wrong with it. What was kept for one generation alone is not written.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::Cache;
use super::record::{Draft, Kind};
use crate::sys::time;

/// The first bytes; the last two are the version.
const MAGIC: [u8; 16] = *b"appserver cache1";
/// Bytes before those of an entry: kind, whether it was asked for again, its end, its lengths.
const HEAD: usize = 1 + 1 + 8 + 4 + 4 + 8;
/// The kind of the last one, which is none: its end is the number of the others.
const LAST: u8 = 0xff;

/// Why a file was not taken.
#[derive(Debug)]
pub enum Unread {
    /// It cannot be read.
    Io(PathBuf, io::Error),
    /// It is no file of ours, or of another version.
    Version(PathBuf),
    /// It is not as it was written: at which byte.
    Damaged(PathBuf, u64),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "the stored cache {} cannot be read: {error}", path.display()),
            Self::Version(path) => write!(
                f,
                "{} is no stored cache of this version; the cache starts empty, and the file is replaced at the next stop",
                path.display()
            ),
            Self::Damaged(path, at) => write!(
                f,
                "the stored cache {} is damaged at byte {at}; the cache starts empty, and the file is replaced at the next stop",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Unread {}

/// An entry in the file.
struct Stored {
    kind: Kind,
    proven: bool,
    until: u64,
    key: Vec<u8>,
    head: Vec<u8>,
    body: Bytes,
}

impl Cache {
    /// Writes the cache to `path`; gives how many entries that were.
    ///
    /// # Errors
    /// The file cannot be written. What was there before is there still.
    pub fn save(&self, path: &Path) -> io::Result<u64> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = PathBuf::from(name);
        let saved = self.write_to(&new).and_then(|count| {
            fs::rename(&new, path)?;
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                File::open(folder)?.sync_all()?;
            }
            Ok(count)
        });
        if saved.is_err() {
            let _ = fs::remove_file(&new);
        }
        saved
    }

    fn write_to(&self, path: &Path) -> io::Result<u64> {
        // Responses may be for the eyes of those alone who may ask for them.
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&MAGIC)?;
        let (mut count, mut failed) = (0, None);
        let now = time::unix_ms();
        for shard in &self.shards {
            shard.each(|main, entry| {
                let shape = entry.shape;
                let own = super::response::is_of_generation(entry.key());
                if failed.is_some() || own || shape.kind == Kind::Value && shape.is_over(now) {
                    return;
                }
                let body = entry.body();
                let mut head = Vec::with_capacity(HEAD);
                head.push(shape.kind as u8);
                head.push(u8::from(main));
                head.extend_from_slice(&shape.until.to_le_bytes());
                head.extend_from_slice(&(entry.key().len() as u32).to_le_bytes());
                head.extend_from_slice(&(entry.head().len() as u32).to_le_bytes());
                head.extend_from_slice(&(body.len() as u64).to_le_bytes());
                let parts = [&head[..], entry.key(), entry.head(), &body];
                let written = parts.iter().try_for_each(|part| out.write_all(part));
                failed = written.and_then(|()| out.write_all(&sum(&parts).to_le_bytes())).err();
                count += 1;
            });
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let mut last = [0; HEAD];
        last[0] = LAST;
        last[2..10].copy_from_slice(&u64::to_le_bytes(count));
        out.write_all(&last)?;
        out.write_all(&sum(&[&last]).to_le_bytes())?;
        out.into_inner()?.sync_all()?;
        Ok(count)
    }

    /// Takes what a file holds; gives how many entries there is room for. None when there is no file.
    ///
    /// # Errors
    /// Why it was not taken. Nothing of it was, then.
    pub fn load(&self, path: &Path) -> Result<Option<u64>, Unread> {
        let unread = |error| Unread::Io(path.to_owned(), error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unread(error)),
        };
        let length = file.metadata().map_err(unread)?.len();
        let mut reader = Reader {
            from: BufReader::with_capacity(1 << 20, file),
            path,
            at: 0,
            length,
        };
        // The whole is looked at before any of it is believed.
        reader.each(|_| ())?;
        reader.from.rewind().map_err(unread)?;
        reader.at = 0;
        let mut taken = 0;
        let now = time::unix_ms();
        reader.each(|stored| {
            let value_is_over = stored.kind == Kind::Value && stored.until != 0 && stored.until <= now;
            if !value_is_over && self.take_back(&stored) {
                taken += 1;
            }
        })?;
        Ok(Some(taken))
    }

    fn take_back(&self, stored: &Stored) -> bool {
        let hash = self.hash(&stored.key);
        let mut toll = super::Toll::default();
        // What workers have kept already is newer.
        if self.shards[self.number(hash)]
            .find(stored.kind, hash, &stored.key, &mut toll)
            .is_some()
        {
            return false;
        }
        let draft = Draft {
            kind: stored.kind,
            hash,
            until: stored.until,
            key: &stored.key,
            head: &stored.head,
            body: std::slice::from_ref(&stored.body),
        };
        self.keep(&draft, stored.proven, || true).is_ok()
    }
}

fn sum(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.digest()
}

struct Reader<'a> {
    from: BufReader<File>,
    path: &'a Path,
    at: u64,
    length: u64,
}

impl Reader<'_> {
    fn damaged(&self) -> Unread {
        Unread::Damaged(self.path.to_owned(), self.at)
    }

    /// The next bytes; a length that the file does not have is damage, and not a wish for memory.
    fn take(&mut self, count: u64) -> Result<Vec<u8>, Unread> {
        if count > self.length.saturating_sub(self.at) {
            return Err(self.damaged());
        }
        let mut bytes = vec![0; count as usize];
        self.from
            .read_exact(&mut bytes)
            .map_err(|error| Unread::Io(self.path.to_owned(), error))?;
        self.at += count;
        Ok(bytes)
    }

    fn each(&mut self, mut visit: impl FnMut(Stored)) -> Result<(), Unread> {
        let magic = self.take(MAGIC.len() as u64).unwrap_or_default();
        if magic != MAGIC {
            return Err(Unread::Version(self.path.to_owned()));
        }
        let mut count = 0;
        loop {
            let head = self.take(HEAD as u64)?;
            let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
            let short = |at: usize| u64::from(u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes")));
            let is_last = head[0] == LAST;
            let lengths = if is_last {
                [0; 3]
            } else {
                [short(10), short(14), number(18)]
            };
            let [key, text, body] = [self.take(lengths[0])?, self.take(lengths[1])?, self.take(lengths[2])?];
            let told = self.take(8)?;
            if told != sum(&[&head, &key, &text, &body]).to_le_bytes() {
                return Err(self.damaged());
            }
            if is_last {
                return if number(2) == count && self.at == self.length {
                    Ok(())
                } else {
                    Err(self.damaged())
                };
            }
            let Some(kind) = Kind::of(u64::from(head[0])).filter(|kind| *kind != Kind::Pad) else {
                return Err(self.damaged());
            };
            count += 1;
            visit(Stored {
                kind,
                proven: head[1] == 1,
                until: number(2),
                key,
                head: text,
                body: body.into(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_there_again_and_a_damaged_file_is_refused_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let create = || Cache::create(1 << 20, 1 << 16).unwrap();
        let cache = create();
        assert_eq!(cache.load(&path).unwrap(), None);
        let key = |number: u32| number.to_le_bytes();
        for number in 0..300 {
            cache
                .set(b"a", &key(number), &vec![number as u8; number as usize], None)
                .unwrap();
        }
        assert_eq!(cache.save(&path).unwrap(), 300);
        let other = create();
        assert_eq!(other.load(&path).unwrap(), Some(300));
        for number in 0..300 {
            assert_eq!(
                other.get(b"a", &key(number)).unwrap(),
                vec![number as u8; number as usize]
            );
        }
        // What overwrites a restored value is what is found then (uWSGI gave another key's bytes).
        other.set(b"a", &key(7), b"new", None).unwrap();
        assert_eq!(other.get(b"a", &key(7)).unwrap(), &b"new"[..]);
        assert_eq!(other.get(b"a", &key(8)).unwrap(), vec![8; 8]);

        let whole = fs::read(&path).unwrap();
        for (at, damage) in (0..whole.len()).step_by(211).enumerate() {
            let mut bytes = whole.clone();
            if at % 3 == 0 {
                bytes.truncate(damage);
            } else {
                bytes[damage] ^= 1 << (at % 8);
            }
            fs::write(&path, &bytes).unwrap();
            let empty = create();
            assert!(empty.load(&path).is_err(), "byte {damage}");
            assert_eq!(empty.usage().entries, 0);
        }
        fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(matches!(create().load(&path), Err(Unread::Damaged(..))));
    }
}
