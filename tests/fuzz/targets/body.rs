//! A body alone: chunks, extensions and trailers, with no head before them that a mutation could break.
//!
//! The first byte of the input chooses the limits, the second the pieces, the others are the body and what follows it.

use appserver::protocol::http::framing::{Follower, Framing};
use appserver::protocol::http::head::Limits;
use appserver::protocol::http::refusal::Refusal;

use super::decoded::{self, Decoded};
use super::grammar::{self, Chunks, Pair, Stop};
use super::{pieces, request};

/// What became of a body: whether it is over, how many bytes it took, how large it is decoded, and its trailers.
type Seen = (bool, usize, u64, Vec<Pair>);

pub fn check(input: &[u8]) {
    let [limits, how, bytes @ ..] = input else { return };
    let limits = request::limits(*limits);
    let whole = followed(bytes, &[bytes.len()], limits);
    let in_pieces = followed(bytes, &pieces::ends(*how, bytes.len()), limits);
    assert_eq!(in_pieces, whole, "in pieces and whole: {}", bytes.escape_ascii());
    let read = grammar::chunks(bytes, limits);
    let agree = match (&whole, &read) {
        (Ok((true, taken, size, trailers)), Ok(chunks)) => {
            (*taken, *size, trailers) == (chunks.length, chunks.data.len() as u64, &chunks.trailers)
        }
        (Ok((false, taken, ..)), Err(Stop::Incomplete)) => *taken == bytes.len(),
        (Err(_), Err(Stop::Wrong)) => true,
        (Err(_), Err(Stop::Incomplete)) => !could_be_right(bytes, limits),
        _ => false,
    };
    if let Ok(chunks) = &read {
        is_decoded(&bytes[..chunks.length], *how, chunks);
    }
    assert!(agree, "followed {whole:?}, read {read:?}: {}", bytes.escape_ascii());
}

/// hyper finds the same data and trailers in it.
fn is_decoded(body: &[u8], how: u8, chunks: &Chunks) {
    let lower = |(name, value): &Pair| (name.to_ascii_lowercase(), value.clone());
    let mut trailers: Vec<Pair> = chunks.trailers.iter().map(lower).collect();
    let mut decoded = decoded::by_hyper(body, &pieces::ends(how, body.len()));
    // It keeps the values of a name together, where we keep all as they came.
    trailers.sort();
    decoded.trailers.sort();
    let expected = Decoded {
        data: chunks.data.clone(),
        trailers,
        whole: true,
    };
    assert_eq!(decoded, expected, "{}", body.escape_ascii());
}

fn could_be_right(bytes: &[u8], limits: &Limits) -> bool {
    const MORE: [&[u8]; 6] = [
        b"\r\n\r\n",
        b"\n\r\n",
        b"0\r\n\r\n",
        b"\r\n0\r\n\r\n",
        b":a\r\n\r\n",
        b"\"\r\n\r\n",
    ];
    MORE.iter()
        .any(|more| grammar::chunks(&[bytes, more].concat(), limits).is_ok())
}

fn followed(bytes: &[u8], ends: &[usize], limits: &Limits) -> Result<Seen, Refusal> {
    let mut follower = Follower::new(Framing::Chunked, limits);
    let (mut taken, mut begin) = (0, 0);
    for end in ends {
        let piece = &bytes[begin..*end];
        let more = follower.follow(piece)?;
        assert!(follower.data() <= limits.body, "a body above its limit");
        assert!(
            more == piece.len() || follower.done(),
            "bytes left over by a body that is not whole"
        );
        taken += more;
        begin = *end;
        if follower.done() {
            break;
        }
    }
    let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
    let trailers = if follower.done() {
        follower.trailers().map(owned).collect()
    } else {
        Vec::new()
    };
    Ok((follower.done(), taken, follower.data(), trailers))
}
