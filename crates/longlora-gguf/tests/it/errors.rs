use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use longlora_gguf::GgufFile;

use crate::raw::{Raw, small_file};

const F32: u32 = 0;
const Q4_K: u32 = 12;

#[track_caller]
fn check(raw: Raw, sentence: &str) {
    assert_eq!(raw.open().unwrap_err().to_string(), sentence);
}

#[test]
fn another_format_is_told_from_gguf() {
    check(
        Raw(b"PK\x03\x04 and so on".to_vec()),
        "`model.gguf` is not a GGUF file: it starts with `PK\\x03\\x04`, not with `GGUF`; give a \
         .gguf file",
    );
    check(
        Raw(Vec::new()),
        "`model.gguf` is not a GGUF file: it starts with ``, not with `GGUF`; give a .gguf file",
    );
}

#[test]
fn only_versions_2_and_3_are_read() {
    for version in [0, 1, 4] {
        check(
            Raw(b"GGUF".to_vec()).u32(version).u64(0).u64(0),
            &format!(
                "`model.gguf` is of GGUF version `{version}`, and only versions 2 and 3 are read; \
                 convert the model again with a current llama.cpp"
            ),
        );
    }
}

#[test]
fn big_endian_is_told_from_an_unknown_version() {
    check(
        Raw(b"GGUF\0\0\0\x03".to_vec()).u64(0).u64(0),
        "`model.gguf` is a big-endian GGUF file, and only little-endian ones are read; convert \
         the model again",
    );
}

#[test]
fn a_header_that_ends_early_says_where() {
    check(
        Raw::header(0, 1).key("general.name", 10).u32(0).bytes(&[0; 3]),
        "`model.gguf` ends too early: the value of key `general.name` needs `8` bytes, and `7` are \
         left; fetch or copy it again",
    );
    check(
        Raw::header(0, 1).u64(1 << 20).bytes(b"general.name"),
        "`model.gguf` ends too early: the key of metadata entry `0` needs `1048576` bytes, and \
         `12` are left; fetch or copy it again",
    );
    check(
        Raw::header(1, 0).u64(33).bytes(&[b'x'; 32]),
        "`model.gguf` ends too early: the name of tensor `0` needs `33` bytes, and `32` are left; \
         fetch or copy it again",
    );
    check(
        Raw::header(1, 0).text("long name").u32(4).u64(1).u64(1).u64(1),
        "`model.gguf` ends too early: the description of tensor `long name` needs `32` bytes, and \
         `24` are left; fetch or copy it again",
    );
    check(
        Raw(b"GGUF".to_vec()).u32(3).u64(0),
        "`model.gguf` ends too early: its header needs `8` bytes, and `0` are left; fetch or copy \
         it again",
    );
}

#[test]
fn data_that_ends_early_is_named() {
    let mut bytes = small_file().0;
    bytes.truncate(bytes.len() - 1);
    check(
        Raw(bytes),
        "`model.gguf` ends too early: the data of tensor `b` needs `32` bytes, and `31` are left; \
         fetch or copy it again",
    );
    check(
        Raw::header(1, 0).tensor("x", &[1], F32, 0),
        "`model.gguf` ends too early: the data of tensor `x` needs `4` bytes, and `0` are left; \
         fetch or copy it again",
    );
}

#[test]
fn counts_that_the_file_has_no_room_for_are_not_believed() {
    // The last but one, times the 32 bytes of a tensor, overflows to 0.
    for count in [2, 1 << 40, 1 << 59, u64::MAX] {
        check(
            Raw::header(0, count).bytes(&[0; 25]),
            &format!(
                "`model.gguf` speaks of `{count}` metadata entries, and has only `25` bytes for \
                 them; fetch or copy it again"
            ),
        );
        check(
            Raw::header(count, 0).bytes(&[0; 63]),
            &format!(
                "`model.gguf` speaks of `{count}` tensors, and has only `63` bytes for them; fetch \
                 or copy it again"
            ),
        );
    }
    check(
        Raw::header(0, 1).key("tokens", 9).u32(8).u64(1 << 30),
        "`model.gguf` ends too early: the value of key `tokens` needs `8589934592` bytes, and `0` \
         are left; fetch or copy it again",
    );
}

#[test]
fn lengths_that_nothing_has_are_not_believed_even_if_the_file_has_room() {
    /// Says that it is very long, as a file with a hole in it can be.
    #[derive(Debug)]
    struct Vast(Cursor<Vec<u8>>);
    impl Read for Vast {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Seek for Vast {
        fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
            match position {
                SeekFrom::End(_) => Ok(1 << 50),
                position => self.0.seek(position),
            }
        }
    }
    let check = |raw: Raw, sentence: &str| {
        let vast = Vast(Cursor::new(raw.0));
        let error = GgufFile::from_reader(Path::new("model.gguf"), vast).unwrap_err();
        assert_eq!(error.to_string(), sentence);
    };
    check(
        Raw::header(0, 1).u64(1 << 40),
        "the key of metadata entry `0` in `model.gguf` would have length `1099511627776`, and at \
         most `1073741824` is read; fetch or copy it again",
    );
    check(
        Raw::header(0, 1).key("tokens", 9).u32(8).u64(u64::MAX),
        "the value of key `tokens` in `model.gguf` would have length `18446744073709551615`, and \
         at most `1073741824` is read; fetch or copy it again",
    );
}

#[test]
fn text_must_be_utf_8() {
    check(
        Raw::header(0, 1).text(b"\xff").bytes(&[0; 5]),
        "the key of metadata entry `0` in `model.gguf` is not UTF-8; convert the model again",
    );
    check(
        Raw::header(0, 1).key("tokens", 9).u32(8).u64(2).text("a").text(b"\xc3"),
        "the value of key `tokens` in `model.gguf` is not UTF-8; convert the model again",
    );
    check(
        Raw::header(1, 0).text(b"\xff").bytes(&[0; 30]),
        "the name of tensor `0` in `model.gguf` is not UTF-8; convert the model again",
    );
}

#[test]
fn keys_are_not_empty_and_not_twice_there() {
    check(
        Raw::header(0, 1).key("", 0).bytes(&[0]),
        "metadata entry `0` of `model.gguf` has an empty key; convert the model again",
    );
    check(
        Raw::header(0, 2).key("a", 0).bytes(&[0]).key("a", 1).bytes(&[0]),
        "`model.gguf` has key `a` twice; convert the model again",
    );
}

#[test]
fn values_have_a_type() {
    check(
        Raw::header(0, 1).key("a", 13).u64(0),
        "key `a` of `model.gguf` has a value of unknown type `13`; convert the model again",
    );
    check(
        Raw::header(0, 1).key("a", 9).u32(13).u64(0),
        "key `a` of `model.gguf` has a value of unknown type `13`; convert the model again",
    );
    check(
        Raw::header(0, 1).key("a", 9).u32(9).u64(0),
        "key `a` of `model.gguf` is an array of arrays, which is not read; convert the model \
         without it",
    );
    check(
        Raw::header(0, 1).key("a", 7).bytes(&[2]),
        "key `a` of `model.gguf` has the boolean `2`, and only 0 and 1 are some; fetch or copy it \
         again",
    );
}

#[test]
fn alignments_that_align_nothing_are_refused() {
    for alignment in [0, 1, 4, 24, 33, u32::MAX] {
        check(
            Raw::header(0, 1).key("general.alignment", 4).u32(alignment),
            &format!(
                "`model.gguf` has `general.alignment` = `{alignment}`, and a power of two of at \
                 least 8 is needed; convert the model again"
            ),
        );
    }
    check(
        Raw::header(0, 1).key("general.alignment", 10).u64(32),
        "key `general.alignment` of `model.gguf` has the u64 `32`, where a u32 is needed; convert \
         the model again",
    );
}

#[test]
fn tensors_are_not_twice_there() {
    check(
        Raw::header(2, 0).tensor("x", &[8], F32, 0).tensor("x", &[8], F32, 32).pad(),
        "`model.gguf` has tensor `x` twice; give each its own name",
    );
}

#[test]
fn tensors_have_1_to_4_dimensions_and_numbers() {
    for dimensions in [0, 5, u32::MAX] {
        check(
            Raw::header(1, 0).text("x").u32(dimensions).bytes(&[1; 80]),
            &format!(
                "tensor `x` of `model.gguf` has `{dimensions}` dimensions, and 1 to 4 are \
                 possible; reshape it"
            ),
        );
    }
    check(
        Raw::header(1, 0).tensor("x", &[3, 0], F32, 0).pad(),
        "tensor `x` of `model.gguf` has shape [0, 3], which holds no number; leave it out",
    );
}

#[test]
fn shapes_that_cannot_be_counted_are_refused() {
    for dimensions in [[1 << 32, 1 << 32], [u64::MAX, 2], [1 << 31, 1 << 30]] {
        check(
            Raw::header(1, 0).tensor("x", &dimensions, F32, 0).pad(),
            &format!(
                "tensor `x` of `model.gguf` has shape [{}, {}], which is more than any \
         memory holds; check what wrote it",
                dimensions[1], dimensions[0]
            ),
        );
    }
}

#[test]
fn types_that_are_not_read_are_named() {
    for (number, name) in [(10, "Q2_K"), (39, "MXFP4"), (28, "F64"), (31, "ggml type 31")] {
        check(
            Raw::header(1, 0).tensor("x", &[256], number, 0).pad(),
            &format!(
                "tensor `x` of `model.gguf` is of type `{name}`, which is not read; convert the \
                 model to one of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"
            ),
        );
    }
}

#[test]
fn rows_are_whole_blocks() {
    check(
        Raw::header(1, 0).tensor("x", &[64, 4], Q4_K, 0).pad(),
        "tensor `x` of `model.gguf` has rows of `64`, which `Q4_K` does not split into blocks of \
         `256`; store it as F32 or F16",
    );
}

#[test]
fn data_starts_where_it_may() {
    check(
        Raw::header(1, 0).tensor("x", &[1], F32, 4).pad().bytes(&[0; 32]),
        "tensor `x` of `model.gguf` starts at `4`, which is no multiple of the alignment `32`; \
         convert the model again",
    );
    let two = |offset| {
        Raw::header(2, 0)
            .tensor("x", &[9], F32, 0)
            .tensor("y", &[1], F32, offset)
            .pad()
            .bytes(&[0; 128])
    };
    for offset in [0, 32, 96, 1 << 63] {
        check(
            two(offset),
            &format!(
                "tensor `y` of `model.gguf` starts at `{offset}`, and the one before it ends at \
                 `64`; convert the model again"
            ),
        );
    }
}

#[test]
fn bytes_that_belong_to_nothing_are_refused() {
    check(
        Raw::header(1, 0).tensor("x", &[1], F32, 0).pad().bytes(&[0; 33]),
        "`model.gguf` has `1` bytes behind its last tensor that belong to nothing; fetch or copy \
         it again",
    );
}

#[test]
fn a_tensor_that_is_not_there_is_named() {
    let error = small_file().open().unwrap().read_f32("output.weight").unwrap_err().to_string();

    assert_eq!(
        error,
        "`model.gguf` lacks tensor `output.weight`; convert the model again or give another file"
    );
}

#[test]
fn names_from_a_file_are_shown_on_one_line_and_cut_off() {
    check(
        Raw::header(0, 2).key("a\n\x1b[2J", 0).bytes(&[0]).key("a\n\x1b[2J", 0).bytes(&[0]),
        "`model.gguf` has key `a\\n\\u{1b}[2J` twice; convert the model again",
    );
    check(
        Raw::header(0, 1).key(&"ä".repeat(1000), 13).u64(0),
        &format!(
            "key `{}..` of `model.gguf` has a value of unknown type `13`; convert the model again",
            "ä".repeat(80)
        ),
    );
}
