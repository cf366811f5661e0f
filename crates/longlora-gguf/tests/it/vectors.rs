//! `vectors/README.md` says where these come from.

use std::fs;
use std::path::{Path, PathBuf};

use longlora_gguf::{Array, GgufFile, Metadata, NewTensor, TensorData, TensorKind, Value, write};

use crate::raw::Raw;

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = fs::read(vector(name)).unwrap();
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[track_caller]
fn assert_same_bits(ours: &[f32], theirs: &[f32]) {
    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(ours), bits(theirs));
}

#[test]
fn blocks_are_decoded_as_gguf_py_decodes_them() {
    for kind in TensorKind::ALL.into_iter().filter(|&kind| kind != TensorKind::F32) {
        let blocks = fs::read(vector(&format!("{kind}.encoded"))).unwrap();

        let ours = Raw::of_blocks(kind, &blocks).open().unwrap().read_f32("x").unwrap();

        assert_same_bits(&ours, &floats(&format!("{kind}.f32")));
    }
}

#[test]
fn numbers_are_encoded_as_gguf_py_encodes_them() {
    let numbers = floats("numbers.f32");
    for kind in [TensorKind::F16, TensorKind::BF16, TensorKind::Q8_0] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let data = TensorData::Slice(&numbers);
        let tensor = NewTensor { name: "x".into(), shape: vec![numbers.len()], kind, data };

        write(&path, &Metadata::new(), [tensor]).unwrap();

        let theirs = fs::read(vector(&format!("numbers.{kind}"))).unwrap();
        let ours = fs::read(&path).unwrap();
        // Header and padding: magic, version, counts, name, dimensions, type, offset.
        let data_start = (4 + 4 + 8 + 8 + (8 + 1) + 4 + 8 + 4 + 8usize).next_multiple_of(32);
        assert!(ours[data_start..][..theirs.len()] == theirs, "{kind}");
    }
}

#[test]
fn a_file_of_gguf_py_is_read() {
    let mut file = GgufFile::open(&vector("python.gguf")).unwrap();

    let metadata: Vec<_> = file.metadata().iter().collect();
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let expected = [
        ("general.architecture", Value::String("llama".into())),
        ("test.u8", Value::U8(200)),
        ("test.i8", Value::I8(-100)),
        ("test.u16", Value::U16(60000)),
        ("test.i16", Value::I16(-30000)),
        ("test.u32", Value::U32(4_000_000_000)),
        ("test.i32", Value::I32(-2_000_000_000)),
        ("test.f32", Value::F32(0.1)),
        ("test.bool", Value::Bool(true)),
        ("test.string", Value::String("äöü 🦙".into())),
        ("test.u64", Value::U64((1 << 63) + 1)),
        ("test.i64", Value::I64(-(1 << 62))),
        ("test.f64", Value::F64(0.1)),
        ("test.strings", Value::Array(Array::String(texts(&["<s>", "", "▁a"])))),
        ("test.floats", Value::Array(Array::F32(vec![0.5, -1.0]))),
        ("test.integers", Value::Array(Array::I32(vec![1, -2, 3]))),
        ("test.bools", Value::Array(Array::Bool(vec![true, false]))),
        ("test.bytes", Value::Array(Array::U8(vec![1, 255]))),
    ];
    assert_eq!(metadata, expected.iter().map(|(key, value)| (*key, value)).collect::<Vec<_>>());

    let tensors: Vec<_> = file
        .tensors()
        .iter()
        .map(|tensor| (tensor.name.as_str(), &*tensor.shape, tensor.kind))
        .collect();
    let expected: [(_, &[usize], _); 4] = [
        ("f32", &[2, 3], TensorKind::F32),
        ("f16", &[1, 2, 5], TensorKind::F16),
        ("Q4_1", &[3, 256], TensorKind::Q4_1),
        ("Q6_K", &[3, 256], TensorKind::Q6K),
    ];
    assert_eq!(tensors, expected);
    assert_eq!(file.read_f32("f32").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(file.read_f32("f16").unwrap(), (0..10u8).map(f32::from).collect::<Vec<_>>());
    assert_same_bits(&file.read_f32("Q6_K").unwrap(), &floats("Q6_K.f32"));
    assert_same_bits(&file.read_f32("Q4_1").unwrap(), &floats("Q4_1.f32"));
}
