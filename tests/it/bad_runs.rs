//! Runs that cannot go on: what is refused, what is kept, and how it is said.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use longlora_llama::{Selection, load_pretrained, read_tensors, write_tensors};
use longlora_train::{Checkpoint, FolderLock, HeldOut, LearningRates, RunFolder, TrainError};
use serde_json::{Value, json};

use crate::fixture::{golden, model_with, read, write, write_json};
use crate::place::{NEVER, Place, files, metrics, names};
use crate::random::tokens;
use crate::sentence;
use crate::writing::included;

#[test]
fn changed_data_are_refused() {
    let place = Place::new();
    place.run("run", &place.config(), 5).unwrap();
    write_json(&place.path("data.json"), &json!([tokens(2000, 96, 77)]));
    let error = place.resume("run").unwrap_err();
    assert!(matches!(error, TrainError::NotResumable { .. }), "{error:?}");
    sentence::check(&error, &["data.json", "no longer what the run began with"]);
}

#[test]
fn another_model_in_the_place_of_the_first_is_refused() {
    let mut place = Place::new();
    let model = model_with(&golden("tiny/model"), json!({}));
    place.model = model.path().to_owned();
    place.run("run", &place.config(), 5).unwrap();
    let path = model.path().join("model.safetensors");
    let mut weights = read_tensors(&path).unwrap();
    let norm = weights.get_mut("model.norm.weight").unwrap();
    *norm = TensorData::new(vec![1.5f32; norm.num_elements()], norm.shape().clone());
    write_tensors(&path, &weights).unwrap();
    let error = place.resume("run").unwrap_err();
    sentence::check(&error, &["model.safetensors", "no longer what the run began with"]);

    // Runs of before it was noted go on.
    let manifest = place.path("run/manifest.json");
    let mut noted: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    assert_eq!(
        noted.as_object_mut().unwrap().remove("model").unwrap().as_array().unwrap().len(),
        2
    );
    write_json(&manifest, &noted);
    place.resume("run").unwrap();
}

/// 155 tokens a window leave as many windows as 160 do, of fewer tokens; 150 make more of the same tokens, if none are held
/// out.
#[test]
fn settings_that_a_run_did_not_begin_with_are_refused() {
    let place = Place::new();
    let cases = [
        ("seed", 0.05, "seed = 21", "seed = 22"),
        ("tokens", 0.05, "length = 160", "length = 155"),
        ("windows", 0.0, "length = 160", "length = 150"),
    ];
    for (name, share, from, to) in cases {
        let mut config = place.config();
        config.data.held_out = HeldOut::Fraction(share);
        place.run(name, &config, 1).unwrap();
        let path = place.path(name).join("config.toml");
        let begun = fs::read_to_string(&path).unwrap();
        assert_eq!(begun.matches(from).count(), 1, "{begun}");
        write(&path, begun.replace(from, to));
        let error = place.resume(name).unwrap_err();
        sentence::check(&error, &["`config.toml`", "no longer what the run began with"]);
    }
}

/// The same text would be other tokens.
#[test]
fn another_tokenizer_is_refused_where_text_is_learned_from() {
    let mut place = Place::new();
    let model = model_with(&included(), json!({}));
    let of_tokenizer = ["tokenizer.json", "tokenizer_config.json"];
    for name in of_tokenizer {
        fs::copy(included().join(name), model.path().join(name)).unwrap();
    }
    place.model = model.path().to_owned();
    write(&place.path("text.txt"), "And God said unto Noah. ".repeat(200));
    let mut config = place.config();
    config.data.path = place.path("text.txt");
    config.context.length = 64;
    config.training.steps = 2;
    place.run("run", &config, 1).unwrap();
    for name in of_tokenizer {
        let path = model.path().join(name);
        let whole = read(&path);
        write(&path, [&whole[..], b"\n"].concat());
        let error = place.resume("run").unwrap_err();
        sentence::check(&error, &[name, "no longer what the run began with"]);
        write(&path, whole);
    }
    place.resume("run").unwrap();
}

/// A checkpoint or a line of metrics is somebody's work; settings and an empty file are not.
#[test]
fn a_run_that_began_is_not_discarded() {
    let place = Place::new();
    let discarded = |name: &str, leave: &dyn Fn(&Path)| {
        let run = RunFolder::create(&place.path(name)).unwrap();
        leave(run.path());
        run.discard_unless_begun().unwrap();
        !place.path(name).exists()
    };
    assert!(!discarded("saved", &|run| fs::create_dir(run.join("checkpoints")).unwrap()));
    assert_eq!(names(&place.path("saved")), ["checkpoints"]);
    assert!(!discarded("stepped", &|run| write(&run.join("metrics.jsonl"), "{}\n")));
    assert_eq!(names(&place.path("stepped")), ["metrics.jsonl"]);
    let prepare = |run: &Path| {
        write(&run.join("config.toml"), "seed = 1\n");
        write(&run.join("metrics.jsonl"), "");
    };
    assert!(discarded("prepared", &prepare));
    // A folder that was there before is its owner's; what was put into it is not.
    fs::create_dir(place.path("owned")).unwrap();
    assert!(!discarded("owned", &prepare));
    assert_eq!(names(&place.path("owned")), Vec::<String>::new());
}

#[test]
fn a_run_folder_is_never_overwritten_and_another_folder_never_resumed() {
    let place = Place::new();
    place.run("run", &place.config(), 1).unwrap();
    let error = RunFolder::create(&place.path("run")).unwrap_err();
    sentence::check(&error, &[&place.path("run").display().to_string(), "exists already"]);
    let error = place.resume("nowhere").unwrap_err();
    sentence::check(&error, &["nowhere", "not a run folder"]);
}

#[test]
fn two_processes_do_not_train_in_one_folder() {
    let place = Place::new();
    place.run("run", &place.config(), 1).unwrap();
    let lock = FolderLock::take(&place.path("run")).unwrap();
    let error = place.resume("run").unwrap_err();
    sentence::check(&error, &["another process", &place.path("run").display().to_string()]);
    // What the other process has begun is not ours to remove.
    fs::create_dir(place.path("new")).unwrap();
    let other = FolderLock::take(&place.path("new")).unwrap();
    RunFolder::create(&place.path("new")).unwrap().discard_unless_begun().unwrap();
    assert!(place.path("new").exists());
    drop((lock, other));
    place.resume("run").unwrap();
}

#[test]
fn a_run_that_was_stopped_before_its_first_checkpoint_begins_anew() {
    let place = Place::new();
    place.run("whole", &place.config(), NEVER).unwrap();
    place.run("run", &place.config(), 1).unwrap();
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    fs::create_dir(place.path("run/checkpoints")).unwrap();
    fs::remove_file(place.path("run/manifest.json")).unwrap();
    place.resume("run").unwrap();
    assert_eq!(metrics(&place.path("run")), metrics(&place.path("whole")));
    // But a result is never trained over.
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    let error = place.resume("run").unwrap_err();
    sentence::check(&error, &["no checkpoint", "run/adapter", "already"]);
    // Even earlier: nothing but the folder is there.
    fs::create_dir(place.path("empty")).unwrap();
    RunFolder::create(&place.path("empty")).unwrap();
}

#[test]
fn a_diverging_run_stops_and_keeps_its_last_checkpoint() {
    let place = Place::new();
    let mut config = place.config();
    config.training.warmup_steps = 0;
    config.training.save_every = 1;
    config.training.learning_rates =
        LearningRates { lora: 1e30, norms_and_embeddings: 1e30, rope_offsets: 1e30 };
    let error = place.run("run", &config, NEVER).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 2, .. }), "{error:?}");
    sentence::check(&error, &["step 2", "lower the learning rate", "saved before is kept"]);
    assert_eq!(names(&place.path("run/checkpoints")), ["step-000001"]);
    assert_eq!(metrics(&place.path("run")).len(), 1);
    let kept = read_tensors(&place.path("run/checkpoints/step-000001/trained.safetensors"));
    let entries = kept.unwrap().into_values().flat_map(|t| t.iter::<f32>().collect::<Vec<_>>());
    assert!({ entries }.all(f32::is_finite));
}

#[test]
fn weights_that_are_no_numbers_are_found_at_the_first_step() {
    let mut place = Place::new();
    let broken = model_with(&golden("tiny/model"), json!({}));
    let path = broken.path().join("model.safetensors");
    let mut tensors = read_tensors(&path).unwrap();
    let norm = tensors.get_mut("model.layers.1.input_layernorm.weight").unwrap();
    *norm = TensorData::new(vec![f32::NAN; norm.num_elements()], norm.shape().clone());
    write_tensors(&path, &tensors).unwrap();
    place.model = broken.path().to_owned();
    let error = place.run("run", &place.config(), NEVER).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 1, .. }), "{error:?}");
    assert!(!place.path("run/checkpoints").exists(), "a checkpoint of what went wrong");
}

#[test]
fn documents_of_one_token_are_nothing_to_learn_from() {
    let place = Place::new();
    let one_token_each: Vec<[u32; 1]> = (0..96).map(|token| [token]).collect();
    write_json(&place.path("data.json"), &json!(one_token_each));
    let mut config = place.config();
    config.context.length = 12;
    let error = place.run("run", &config, NEVER).unwrap_err();
    assert!(matches!(error, TrainError::NoTargets { step: 1 }), "{error:?}");
    sentence::check(&error, &["step 1", "nothing to predict"]);
}

#[test]
fn tokens_of_another_model_are_refused_before_the_first_step() {
    let place = Place::new();
    write_json(&place.path("data.json"), &json!([tokens(900, 97, 1)]));
    let error = place.run("run", &place.config(), NEVER).unwrap_err();
    sentence::check(&error, &["`96`", "do not belong together"]);
    assert!(!place.path("run/metrics.jsonl").exists());
}

/// Cuts off, empties or spoils each file of a checkpoint: resuming names the file.
#[test]
fn a_torn_checkpoint_is_an_error_that_names_the_file() {
    let place = Place::new();
    place.run("run", &place.config(), 5).unwrap();
    let checkpoint = place.path("run/checkpoints/step-000005");
    for (name, contents) in files(&checkpoint) {
        let path = checkpoint.join(&name);
        let length = contents.len();
        for kept in [0, 1, 7, 8, 9, 20, length / 2, length - 1] {
            write(&path, &contents[..kept]);
            let error = place.resume("run").unwrap_err();
            sentence::check(&error, &[&path.display().to_string()]);
        }
        write(&path, vec![b'x'; length]);
        sentence::check(&place.resume("run").unwrap_err(), &[&path.display().to_string()]);
        fs::remove_file(&path).unwrap();
        sentence::check(&place.resume("run").unwrap_err(), &[&path.display().to_string()]);
        write(&path, &contents);
    }
    place.resume("run").unwrap();
}

#[test]
fn a_checkpoint_of_another_adapter_is_refused() {
    let place = Place::new();
    let config = place.config();
    place.run("run", &config, 5).unwrap();
    let checkpoints = place.path("run/checkpoints");
    let llama = load_pretrained(&place.model, &Device::default().autodiff()).unwrap();
    let mut other = config.adapters.clone().unwrap();
    other.lora.as_mut().unwrap().rank = 4;
    let llama = llama.attach(&other, 0);
    let selection = Selection::Adapter(other);
    let error = Checkpoint::load(&checkpoints, llama, &selection, &config.training).err().unwrap();
    sentence::check(&error, &["trained.safetensors", "lora_A.weight", "[8, 64]", "[4, 64]"]);
}
