use std::cell::RefCell;
use std::error::Error;
use std::fs;

use longlora_gguf::{
    GgufError, GgufFile, Metadata, NewTensor, TensorData, TensorKind, Value, write,
};

fn tensor<'a>(name: &str, shape: &[usize], kind: TensorKind, data: &'a [f32]) -> NewTensor<'a> {
    NewTensor { name: name.to_owned(), shape: shape.to_vec(), kind, data: TensorData::Slice(data) }
}

/// Writing fails with this sentence, in which `PATH` stands for the path; what was there stays, and
/// nothing else.
#[track_caller]
fn check(metadata: &Metadata, tensors: Vec<NewTensor<'_>>, sentence: &str) -> GgufError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, b"what was there").unwrap();

    let error = write(&path, metadata, tensors).unwrap_err();

    assert_eq!(error.to_string().replace(&path.display().to_string(), "PATH"), sentence);
    assert_eq!(fs::read(&path).unwrap(), b"what was there");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    error
}

#[track_caller]
fn check_tensor(tensor: NewTensor<'_>, sentence: &str) {
    check(&Metadata::new(), vec![tensor], sentence);
}

#[test]
fn only_some_kinds_are_written() {
    let others = [
        TensorKind::Q4_0,
        TensorKind::Q4_1,
        TensorKind::Q5_0,
        TensorKind::Q5_1,
        TensorKind::Q4K,
        TensorKind::Q5K,
        TensorKind::Q6K,
    ];
    for kind in others {
        check_tensor(
            tensor("x", &[256], kind, &[0.0; 256]),
            &format!(
                "tensor `x` cannot be written to `PATH` as `{kind}`; take one of F32, F16, BF16, \
                 Q8_0"
            ),
        );
    }
}

#[test]
fn names_are_unlike_and_short() {
    let [a, b] = [(); 2].map(|()| tensor("x", &[1], TensorKind::F32, &[0.0]));
    check(&Metadata::new(), vec![a, b], "`PATH` has tensor `x` twice; give each its own name");
    let name = "x".repeat(64);
    check_tensor(
        tensor(&name, &[1], TensorKind::F32, &[0.0]),
        &format!(
            "tensor `{name}` has a name of `64` bytes, and llama.cpp reads at most 63; shorten it \
             before it is written to `PATH`"
        ),
    );
}

#[test]
fn keys_are_not_empty() {
    let mut metadata = Metadata::new();
    metadata.insert("a", Value::Bool(true));
    metadata.insert("", Value::Bool(true));
    check(
        &metadata,
        Vec::new(),
        "metadata entry `1` of `PATH` has an empty key; convert the model again",
    );
}

#[test]
fn shapes_are_checked() {
    check_tensor(
        tensor("x", &[], TensorKind::F32, &[0.0]),
        "tensor `x` of `PATH` has `0` dimensions, and 1 to 4 are possible; reshape it",
    );
    check_tensor(
        tensor("x", &[1; 5], TensorKind::F32, &[0.0]),
        "tensor `x` of `PATH` has `5` dimensions, and 1 to 4 are possible; reshape it",
    );
    check_tensor(
        tensor("x", &[2, 0], TensorKind::F32, &[]),
        "tensor `x` of `PATH` has shape [2, 0], which holds no number; leave it out",
    );
    check_tensor(
        tensor("x", &[usize::MAX, 2], TensorKind::F32, &[]),
        "tensor `x` of `PATH` has shape [18446744073709551615, 2], which is more than any \
         memory holds; check what wrote it",
    );
    check_tensor(
        tensor("x", &[32, 16], TensorKind::Q8_0, &[0.0; 512]),
        "tensor `x` of `PATH` has rows of `16`, which `Q8_0` does not split into blocks of `32`; \
         store it as F32 or F16",
    );
    check_tensor(
        tensor("x", &[2, 3], TensorKind::F32, &[0.0; 5]),
        "tensor `x` for `PATH` has `5` numbers, and its shape [2, 3] needs `6`; give it another \
         shape",
    );
}

#[test]
fn tensors_that_no_file_could_hold_are_refused_before_they_are_computed() {
    let vast = (0..5).map(|index| NewTensor {
        name: index.to_string(),
        shape: vec![1 << 60],
        kind: TensorKind::F32,
        data: TensorData::Computed(Box::new(|| panic!("must not be computed"))),
    });
    check(
        &Metadata::new(),
        vast.collect(),
        "tensor `3` of `PATH` has shape [1152921504606846976], which is more than any \
         memory holds; check what wrote it",
    );
}

#[test]
fn numbers_outside_a_kinds_range_are_refused() {
    let with = |index: usize, value: f32| {
        let mut numbers = vec![1.0; 70_016];
        numbers[index] = value;
        numbers
    };
    let cases = [
        (TensorKind::F16, 69_999, 65_520.0, "65520"),
        (TensorKind::BF16, 3, f32::MAX, "340282350000000000000000000000000000000"),
        (TensorKind::Q8_0, 69_999, f32::NAN, "NaN"),
        (TensorKind::Q8_0, 0, f32::NEG_INFINITY, "-inf"),
        (TensorKind::Q8_0, 33, -1e7, "-10000000"),
    ];
    for (kind, index, value, printed) in cases {
        check_tensor(
            tensor("x", &[70_016], kind, &with(index, value)),
            &format!(
                "number `{index}` of tensor `x` is `{printed}`, which `{kind}` cannot hold; write \
                 it to `PATH` as F32"
            ),
        );
    }
}

#[test]
fn a_tensor_that_cannot_be_computed_leaves_the_old_file() {
    let data = TensorData::Computed(Box::new(|| Err("the device is gone".into())));
    let kind = TensorKind::F16;
    let error = check(
        &Metadata::new(),
        vec![
            tensor("a", &[2], kind, &[1.0, 2.0]),
            NewTensor { name: "b".into(), shape: vec![2], kind, data },
        ],
        "cannot compute tensor `b` for `PATH`",
    );
    assert_eq!(error.source().unwrap().to_string(), "the device is gone");
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent").join("model.gguf");

    let error = write(&path, &Metadata::new(), []).unwrap_err();

    assert_eq!(error.to_string(), format!("cannot write `{}`", path.display()));
    assert!(error.source().is_some());
}

#[test]
fn an_old_file_is_replaced_and_nothing_else_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, b"what was there").unwrap();

    write(&path, &Metadata::new(), [tensor("x", &[1], TensorKind::F32, &[7.0])]).unwrap();

    assert_eq!(GgufFile::open(&path).unwrap().read_f32("x").unwrap(), [7.0]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn tensors_are_computed_one_by_one_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let computed = RefCell::new(Vec::new());
    let tensors = (0..3).map(|index: u8| {
        let computed = &computed;
        let compute = move || {
            computed.borrow_mut().push(index);
            Ok(vec![f32::from(index)])
        };
        NewTensor {
            name: index.to_string(),
            shape: vec![1],
            kind: TensorKind::F32,
            data: TensorData::Computed(Box::new(compute)),
        }
    });

    write(&folder.path().join("model.gguf"), &Metadata::new(), tensors).unwrap();

    assert_eq!(*computed.borrow(), [0, 1, 2]);
}

#[test]
fn the_bytes_of_a_small_file_are_those_of_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut metadata = Metadata::new();
    metadata.insert("k", Value::U8(5));

    write(&path, &metadata, [tensor("x", &[1, 2], TensorKind::F32, &[1.0, 2.0])]).unwrap();

    let mut expected = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    expected.extend(b"\x01\0\0\0\0\0\0\0k\0\0\0\0\x05");
    expected.extend(b"\x01\0\0\0\0\0\0\0x\x02\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
    expected.extend(b"\0\0\0\0\0\0\0\0\0\0\0\0");
    expected.resize(96, 0);
    expected.extend(b"\0\0\x80\x3f\0\0\0\x40");
    expected.resize(128, 0);
    assert_eq!(fs::read(&path).unwrap(), expected);
}
