use std::fmt::{self, Write as _};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The name of a blob: SHA-256 of the content, or SHA-1 as git takes it of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checksum {
    Sha256(String),
    Git(String),
}

impl Checksum {
    /// From the hub's `etag`, which is quoted and may be called weak. `None` if it is neither sum.
    pub(crate) fn from_etag(etag: &str) -> Option<Self> {
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        let digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        match etag.len() {
            64 if etag.chars().all(digit) => Some(Self::Sha256(etag.to_owned())),
            40 if etag.chars().all(digit) => Some(Self::Git(etag.to_owned())),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(sum) | Self::Git(sum) => sum,
        }
    }

    /// A sum of the same kind over content of `size` bytes.
    pub(crate) fn summing(&self, size: u64) -> Summing {
        match self {
            Self::Sha256(_) => Summing::Sha256(Sha256::new()),
            Self::Git(_) => {
                let mut sum = Sha1::new();
                sum.update(format!("blob {size}\0"));
                Summing::Git(sum)
            }
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(sum) => write!(f, "SHA-256 `{sum}`"),
            Self::Git(sum) => write!(f, "git's SHA-1 `{sum}`"),
        }
    }
}

/// A sum being taken.
pub(crate) enum Summing {
    Sha256(Sha256),
    Git(Sha1),
}

impl Summing {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Git(sum) => sum.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Checksum {
        match self {
            Self::Sha256(sum) => Checksum::Sha256(hex(&sum.finalize())),
            Self::Git(sum) => Checksum::Git(hex(&sum.finalize())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_sha256sum_and_of_git_hash_object() {
        let sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"; // printf hello | git hash-object --stdin
        for sum in [sha, git] {
            let expected = Checksum::from_etag(&format!("\"{sum}\"")).unwrap();
            let mut summing = expected.summing(5);
            summing.update(b"hel");
            summing.update(b"lo");
            assert_eq!(summing.finish(), expected);
        }
    }

    #[test]
    fn an_etag_that_is_no_sum_is_refused() {
        let upper = "A".repeat(64);
        let path = format!("../{}", "a".repeat(37));
        for etag in ["", "\"\"", "abc", "d41d8cd98f00b204e9800998ecf8427e-3", &upper, &path] {
            assert_eq!(Checksum::from_etag(etag), None, "{etag}");
        }
        let weak = format!("W/\"{}\"", "a".repeat(40));
        assert_eq!(Checksum::from_etag(&weak), Some(Checksum::Git("a".repeat(40))));
    }
}
