//! Sizes in bytes, from the command line.

use bytesize::ByteSize;

/// Reads `16GiB`, `800MB` or `1B`.
///
/// # Errors
/// A sentence that names what was given, if it is none.
pub(crate) fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| format!("`{text}` is no size; use for example 16GiB or 800MB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_unit() {
        for (text, bytes) in [
            ("1B", 1),
            ("4096", 4096),
            ("800MB", 800_000_000),
            ("16GiB", 16 << 30),
            ("1.5 KiB", 1536),
        ] {
            assert_eq!(size(text), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_named() {
        for text in ["lots", "", "-4GiB", "4 apples", "GiB", "1.2.3GB"] {
            let expected = format!("`{text}` is no size; use for example 16GiB or 800MB");
            assert_eq!(size(text), Err(expected));
        }
    }
}
