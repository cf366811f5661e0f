//! Any bytes are a GGUF file or an error that names it; every tensor of such a file can be read.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use longlora_gguf::GgufFile;

fuzz_target!(|bytes: &[u8]| {
    match GgufFile::from_reader(Path::new("model.gguf"), Cursor::new(bytes)) {
        Ok(mut file) => {
            let tensors = file.tensors().to_vec();
            for tensor in tensors {
                let numbers = file.read_f32(&tensor.name).expect("the header was checked");
                assert_eq!(numbers.len(), tensor.shape.iter().product::<usize>());
                assert!(numbers.len() / tensor.kind.block_len() <= bytes.len());
            }
            let metadata = file.metadata();
            for (key, _) in metadata.iter() {
                // An answer or an error, never a panic.
                let _ = metadata.string(key);
                let _ = metadata.unsigned(key);
                let _ = metadata.number(key);
                let _ = metadata.boolean(key);
                let _ = metadata.strings(key);
                let _ = metadata.numbers(key);
                let _ = metadata.integers(key);
            }
        }
        Err(error) => {
            let sentence = error.to_string();
            assert!(sentence.contains("`model.gguf`"), "{sentence}");
            assert!(!sentence.contains(char::is_control) && sentence.len() < 1000, "{sentence}");
        }
    }
});
