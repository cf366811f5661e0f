use longlora_gguf::{Array, GgufFile, Metadata, NewTensor, TensorData, TensorKind, Value, write};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;

fn values() -> impl Strategy<Value = Value> {
    let single = [
        any::<u8>().prop_map(Value::U8).boxed(),
        any::<i8>().prop_map(Value::I8).boxed(),
        any::<u16>().prop_map(Value::U16).boxed(),
        any::<i16>().prop_map(Value::I16).boxed(),
        any::<u32>().prop_map(Value::U32).boxed(),
        any::<i32>().prop_map(Value::I32).boxed(),
        any::<f32>().prop_map(Value::F32).boxed(),
        any::<bool>().prop_map(Value::Bool).boxed(),
        any::<String>().prop_map(Value::String).boxed(),
        any::<u64>().prop_map(Value::U64).boxed(),
        any::<i64>().prop_map(Value::I64).boxed(),
        any::<f64>().prop_map(Value::F64).boxed(),
    ];
    let arrays = [
        vec(any::<u8>(), 0..5).prop_map(Array::U8).boxed(),
        vec(any::<i8>(), 0..5).prop_map(Array::I8).boxed(),
        vec(any::<u16>(), 0..5).prop_map(Array::U16).boxed(),
        vec(any::<i16>(), 0..5).prop_map(Array::I16).boxed(),
        vec(any::<u32>(), 0..5).prop_map(Array::U32).boxed(),
        vec(any::<i32>(), 0..5).prop_map(Array::I32).boxed(),
        vec(any::<f32>(), 0..5).prop_map(Array::F32).boxed(),
        vec(any::<bool>(), 0..5).prop_map(Array::Bool).boxed(),
        vec(any::<String>(), 0..5).prop_map(Array::String).boxed(),
        vec(any::<u64>(), 0..5).prop_map(Array::U64).boxed(),
        vec(any::<i64>(), 0..5).prop_map(Array::I64).boxed(),
        vec(any::<f64>(), 0..5).prop_map(Array::F64).boxed(),
    ];
    let arrays = arrays.into_iter().map(|array| array.prop_map(Value::Array).boxed());
    Union::new(single.into_iter().chain(arrays))
}

/// Writes tensors of one kind and reads them again.
fn there_and_back(kind: TensorKind, tensors: &[(Vec<usize>, Vec<f32>)]) -> Vec<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let new = tensors.iter().enumerate().map(|(index, (shape, numbers))| NewTensor {
        name: format!("tensor {index}"),
        shape: shape.clone(),
        kind,
        data: match index % 2 {
            0 => TensorData::Slice(numbers),
            _ => TensorData::Computed(Box::new(|| Ok(numbers.clone()))),
        },
    });
    write(&path, &Metadata::new(), new).unwrap();

    let mut file = GgufFile::open(&path).unwrap();
    let found: Vec<_> = file.tensors().to_vec();
    assert_eq!(found.len(), tensors.len());
    for (found, (shape, _)) in found.iter().zip(tensors) {
        assert_eq!((&found.shape, found.kind), (shape, kind));
    }
    found.iter().map(|tensor| file.read_f32(&tensor.name).unwrap()).collect()
}

/// Shapes of 1 to 4 axes whose rows are of `row` numbers or a multiple, and numbers for them.
fn tensors(
    row: usize,
    numbers: impl Strategy<Value = f32> + Clone,
) -> impl Strategy<Value = Vec<(Vec<usize>, Vec<f32>)>> {
    let shape = (vec(1..4usize, 0..4), 1..4usize).prop_map(move |(mut shape, rows)| {
        shape.push(rows * row);
        shape
    });
    let tensor = shape.prop_flat_map(move |shape| {
        let count: usize = shape.iter().product();
        (Just(shape), vec(numbers.clone(), count))
    });
    vec(tensor, 0..4)
}

fn bits(tensors: &[Vec<f32>]) -> Vec<Vec<u32>> {
    tensors.iter().map(|tensor| tensor.iter().map(|x| x.to_bits()).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn metadata_is_read_as_it_was_written(
        entries in prop::collection::vec((any::<String>(), values()), 0..8)
    ) {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            // An empty key is refused, and the alignment is the writer's.
            metadata.insert(format!("key {key}"), value);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");

        write(&path, &metadata, []).unwrap();

        let file = GgufFile::open(&path).unwrap();
        prop_assert!(file.metadata().iter().eq(metadata.iter()));
        prop_assert!(file.tensors().is_empty());
    }

    #[test]
    fn f32_keeps_every_bit(tensors in tensors(3, any::<u32>().prop_map(f32::from_bits))) {
        let read = there_and_back(TensorKind::F32, &tensors);

        let written: Vec<_> = tensors.into_iter().map(|(_, numbers)| numbers).collect();
        prop_assert_eq!(bits(&read), bits(&written));
    }

    #[test]
    fn f16_keeps_what_it_can_hold(tensors in tensors(5, -65519f32..65519.0)) {
        let read = there_and_back(TensorKind::F16, &tensors);

        let rounded = |x: f32| half::f16::from_f32(x).to_f32();
        let rounded = tensors.into_iter().map(|(_, x)| x.into_iter().map(rounded).collect());
        prop_assert_eq!(bits(&read), bits(&rounded.collect::<Vec<_>>()));
    }

    #[test]
    fn bf16_keeps_what_it_can_hold(tensors in tensors(7, -1e38f32..1e38)) {
        let read = there_and_back(TensorKind::BF16, &tensors);

        let rounded = |x: f32| half::bf16::from_f32(x).to_f32();
        let rounded = tensors.into_iter().map(|(_, x)| x.into_iter().map(rounded).collect());
        prop_assert_eq!(bits(&read), bits(&rounded.collect::<Vec<_>>()));
    }

    #[test]
    fn q8_0_is_off_by_half_a_step_at_most(tensors in tensors(32, -1e3f32..1e3)) {
        let read = there_and_back(TensorKind::Q8_0, &tensors);

        for ((_, written), read) in tensors.iter().zip(&read) {
            for (written, read) in written.chunks(32).zip(read.chunks(32)) {
                let largest = written.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
                // Half a step, and the scale's own rounding to 11 bits in each of 127 steps.
                let allowed = largest / 127.0 * 0.5001 + largest * 2f32.powi(-11);
                for (written, read) in written.iter().zip(read) {
                    prop_assert!((written - read).abs() <= allowed, "{written} became {read}");
                }
            }
        }
    }
}

#[test]
fn nan_and_infinities_stay_what_they_are() {
    let numbers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
    for kind in [TensorKind::F32, TensorKind::F16, TensorKind::BF16] {
        let read = &there_and_back(kind, &[(vec![4], numbers.to_vec())])[0];

        assert!(read[0].is_nan());
        assert_eq!(bits(&[read[1..].to_vec()]), bits(&[numbers[1..].to_vec()]));
    }
}

#[test]
fn an_alignment_that_was_read_is_written_as_the_writer_aligns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut metadata = Metadata::new();
    metadata.insert("general.alignment", Value::U32(64));

    write(&path, &metadata, []).unwrap();

    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.metadata().unsigned("general.alignment").unwrap(), Some(32));
}
