use std::error::Error;
use std::fs::File;

use longlora_gguf::GgufFile;

use crate::raw::{Raw, small_file};

#[test]
fn the_small_file_is_whole() {
    let mut file = small_file().open().unwrap();

    assert_eq!(file.metadata().string("general.architecture").unwrap(), Some("llama"));
    assert_eq!(file.metadata().strings("tokens").unwrap().unwrap(), ["<s>", "", "ä"]);
    assert_eq!(file.tensor("a").unwrap().shape, [1, 32]);
    assert_eq!(file.read_f32("b").unwrap(), [f32::from_le_bytes([8; 4]); 8]);
    assert!(file.tensor("c").is_none());
}

#[test]
fn a_file_cut_off_anywhere_is_an_error_that_names_it() {
    let whole = small_file().0;
    for length in 0..whole.len() {
        let error = Raw(whole[..length].to_vec()).open().unwrap_err().to_string();

        assert!(error.contains("`model.gguf`"), "cut at {length}: {error}");
    }
}

#[test]
fn any_other_byte_anywhere_is_read_or_refused() {
    let whole = small_file().0;
    for place in 0..whole.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[place] = byte;
            let Ok(mut file) = Raw(bytes).open() else { continue };
            let names: Vec<_> = file.tensors().iter().map(|tensor| tensor.name.clone()).collect();
            for name in names {
                file.read_f32(&name).unwrap();
            }
        }
    }
}

#[test]
fn version_2_is_read_as_version_3_is() {
    let mut bytes = small_file().0;
    bytes[4] = 2;

    let file = Raw(bytes).open().unwrap();

    assert_eq!(file.tensors(), small_file().open().unwrap().tensors());
}

#[test]
fn padding_behind_the_last_tensor_may_be_there_in_part() {
    for padding in 0..=28 {
        let raw = Raw::header(1, 0).tensor("x", &[1], 0, 0).pad().bytes(&[0; 4]);

        assert_eq!(raw.bytes(&vec![0; padding]).open().unwrap().read_f32("x").unwrap(), [0.0]);
    }
}

#[test]
fn a_file_of_metadata_alone_is_read_with_its_padding_and_without() {
    let raw = Raw::header(0, 1).key("a", 0).bytes(&[5]);

    assert_eq!(raw.clone().open().unwrap().metadata().unsigned("a").unwrap(), Some(5));
    assert_eq!(raw.pad().open().unwrap().metadata().unsigned("a").unwrap(), Some(5));
}

#[test]
fn another_alignment_is_obeyed() {
    let raw = Raw::header(1, 1).key("general.alignment", 4).u32(8).tensor("long name", &[1], 0, 0);
    let mut bytes = raw.0;
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    assert_ne!(bytes.len() % 32, 0, "the test would not see the difference");

    let mut file = Raw(bytes).bytes(&2f32.to_le_bytes()).open().unwrap();

    assert_eq!(file.read_f32("long name").unwrap(), [2.0]);
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_open_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let bytes = small_file().0;
    std::fs::write(&path, &bytes).unwrap();
    let mut file = GgufFile::open(&path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(bytes.len() as u64 - 1).unwrap();

    let error = file.read_f32("b").unwrap_err();

    assert_eq!(error.to_string(), format!("cannot read `{}`", path.display()));
    assert_eq!(error.source().unwrap().to_string(), "failed to fill whole buffer");
    assert!(file.read_f32("a").is_ok());
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.gguf");

    let error = GgufFile::open(&path).unwrap_err();

    assert_eq!(error.to_string(), format!("cannot open `{}`", path.display()));
    assert!(error.source().is_some());
}
