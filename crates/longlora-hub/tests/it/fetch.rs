use std::fs;
use std::path::Path;

use longlora_hub::{Progress, Wanted, cached};

use crate::repository::{Fixture, NAME, content, names, sum, wanted};

const CONFIG: (&str, &[u8]) = ("config.json", b"{}");

#[test]
fn a_model_is_fetched_into_the_layout_of_python() {
    let weights = content(1, 300_000);
    let tokenizer: &[u8] = b"{\"model\":{}}";
    let files = [
        ("README.md", &b"not needed"[..]),
        CONFIG,
        ("tokenizer.json", tokenizer),
        ("model.safetensors", &weights),
        ("pytorch_model.bin", b"not needed"),
    ];
    let fixture = Fixture::new(&files);

    let snapshot = fixture.fetch().unwrap();

    let commit = "1".repeat(40);
    assert_eq!(snapshot, fixture.folder("snapshots").join(&commit));
    assert_eq!(names(&snapshot), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), weights);
    assert_eq!(fs::read(snapshot.join("tokenizer.json")).unwrap(), tokenizer);
    let mut sums = [CONFIG, files[2], files[3]].map(|(name, content)| sum(name, content)).to_vec();
    sums.sort();
    assert_eq!(names(&fixture.folder("blobs")), sums);
    assert_eq!(fs::read_to_string(fixture.folder("refs/main")).unwrap(), commit);
    assert_eq!(names(&fixture.folder("")), ["blobs", "refs", "snapshots"]);
    assert_eq!(names(fixture.cache.path()), [".locks", "models--a--b"]);
    assert_eq!(cached(NAME, fixture.cache.path()), Some(snapshot));
}

#[cfg(unix)]
#[test]
fn snapshots_are_relative_links_to_blobs_at_any_depth() {
    let files = [("a.gguf", &b"one"[..]), ("deep/er/a.gguf", b"two")];
    let fixture = Fixture::new(&files);

    let named = wanted(&["a.gguf", "deep/er/a.gguf"]);
    let snapshot = fixture.hub().fetch(&named, &mut ()).unwrap();

    for ((file, content), up) in files.into_iter().zip(["../../", "../../../../"]) {
        let target = format!("{up}blobs/{}", sum(file, content));
        assert_eq!(fs::read_link(snapshot.join(file)).unwrap(), Path::new(&target));
        assert_eq!(fs::read(snapshot.join(file)).unwrap(), content);
    }
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let fixture = Fixture::new(&[CONFIG, ("model.safetensors", b"weights")]);
    let first = fixture.fetch().unwrap();
    assert_eq!(fixture.asked().iter().filter(|asked| asked.contains("elsewhere")).count(), 1);

    assert_eq!(fixture.fetch().unwrap(), first);

    let commit = "1".repeat(40);
    let head = |file| format!("HEAD /a/b/resolve/{commit}/{file}");
    let listing = "GET /api/models/a/b/revision/main".to_owned();
    assert_eq!(fixture.asked(), [listing, head("config.json"), head("model.safetensors")]);
}

#[test]
fn a_new_commit_shares_what_did_not_change() {
    let fixture = Fixture::new(&[CONFIG, ("model.safetensors", b"weights")]);
    let first = fixture.fetch().unwrap();
    fixture.asked();
    fixture.repository().commit = "2".repeat(40);
    fixture.repository().files[0].1 = b"{\"new\":1}".to_vec();

    let second = fixture.fetch().unwrap();

    assert_ne!(first, second);
    assert_eq!(fs::read(first.join("config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(second.join("config.json")).unwrap(), b"{\"new\":1}");
    assert_eq!(names(&fixture.folder("blobs")).len(), 3);
    assert!(!fixture.asked().iter().any(|asked| asked.contains("elsewhere")));
    assert_eq!(cached(NAME, fixture.cache.path()), Some(second));
}

#[test]
fn a_sharded_model_is_its_index_and_the_shards_that_it_names() {
    let index = r#"{"weight_map":{"x":"m-2-of-2.safetensors","y":"m-1-of-2.safetensors"}}"#;
    let fixture = Fixture::new(&[
        CONFIG,
        ("m-1-of-2.safetensors", b"first"),
        ("m-2-of-2.safetensors", b"second"),
        ("m-of-another.safetensors", b"not needed"),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);

    let snapshot = fixture.fetch().unwrap();

    let index = "model.safetensors.index.json";
    let expected = ["config.json", "m-1-of-2.safetensors", "m-2-of-2.safetensors", index];
    assert_eq!(names(&snapshot), expected);
}

#[test]
fn an_index_cannot_ask_for_what_is_not_listed_or_lies_elsewhere() {
    for shard in ["absent.safetensors", "../../../evil"] {
        let index = format!(r#"{{"weight_map":{{"x":"{shard}"}}}}"#);
        let files =
            [("model.safetensors.index.json", index.as_bytes()), ("../../../evil", b"evil")];
        let said = Fixture::new(&files).fails();
        assert!(said.contains(&format!("no file `{shard}`")), "{said}");
    }
}

#[test]
fn without_safetensors_the_pickle_is_fetched() {
    let fixture = Fixture::new(&[CONFIG, ("pytorch_model.bin", b"pickle")]);
    assert_eq!(names(&fixture.fetch().unwrap()), ["config.json", "pytorch_model.bin"]);
}

#[test]
fn named_files_are_fetched_alone() {
    let fixture = Fixture::new(&[CONFIG, ("q4 0.gguf", b"four"), ("q8.gguf", b"eight")]);

    let said = fixture.hub().fetch(&wanted(&["q5.gguf"]), &mut ()).unwrap_err().to_string();
    assert!(said.contains("no file `q5.gguf`; it has `q4 0.gguf`, `q8.gguf`"), "{said}");

    let snapshot = fixture.hub().fetch(&wanted(&["q8.gguf"]), &mut ()).unwrap();
    assert_eq!(names(&snapshot), ["q8.gguf"]);
    // A branch names whole models alone.
    assert_eq!(cached(NAME, fixture.cache.path()), None);
}

#[test]
fn an_empty_file_is_a_file() {
    let fixture = Fixture::new(&[("config.json", b""), ("model.safetensors", b"weights")]);
    assert_eq!(fs::read(fixture.fetch().unwrap().join("config.json")).unwrap(), b"");
}

#[test]
fn a_model_that_was_renamed_is_found() {
    let fixture = Fixture::new(&[CONFIG, ("model.safetensors", b"weights")]);
    fixture.repository().moved_to = Some("new/name");
    assert_eq!(names(&fixture.fetch().unwrap()), ["config.json", "model.safetensors"]);
}

#[test]
fn the_token_is_shown_to_the_hub_and_to_no_other_host() {
    let fixture = Fixture::new(&[CONFIG, ("model.safetensors", b"weights")]);

    fixture.hub().with_token("hf_secret".to_owned()).fetch(&wanted(&[]), &mut ()).unwrap();

    let seen = fixture.server.seen();
    assert!(seen.iter().any(|request| request.path.starts_with("/elsewhere/")));
    for request in seen {
        let elsewhere = request.path.starts_with("/elsewhere/");
        let expected = (!elsewhere).then_some("Bearer hf_secret");
        assert_eq!(request.header("authorization"), expected, "{}", request.path);
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
}

#[test]
fn progress_begins_with_what_is_there_and_ends_with_all() {
    #[derive(Default)]
    struct Log(Vec<(String, u64, u64)>);
    impl Progress for Log {
        fn at(&mut self, file: &str, done: u64, size: u64) {
            self.0.push((file.to_owned(), done, size));
        }
    }
    let weights = content(2, 500_000);
    let fixture = Fixture::new(&[CONFIG, ("model.safetensors", &weights)]);
    let mut log = Log::default();

    fixture.hub().fetch(&wanted(&[]), &mut log).unwrap();

    assert_eq!(log.0[..2], [("config.json".into(), 0, 2), ("config.json".into(), 2, 2)]);
    assert_eq!(log.0[2], ("model.safetensors".into(), 0, 500_000));
    assert_eq!(log.0.last().unwrap(), &("model.safetensors".into(), 500_000, 500_000));
    assert!(log.0[2..].is_sorted());
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let weights = content(3, 2_000_000);
    let fixture = Fixture::new(&[CONFIG, ("model.safetensors", &weights)]);
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| fixture.fetch().unwrap()));
        let folders = both.map(|thread| thread.join().unwrap());
        assert_eq!(folders[0], folders[1]);
    });
    assert_eq!(fixture.asked().iter().filter(|asked| asked.contains("elsewhere")).count(), 1);
}

#[test]
fn a_commit_is_its_own_name_and_needs_no_reference() {
    let fixture = Fixture::new(&[CONFIG, ("model.safetensors", b"weights")]);
    let commit = "1".repeat(40);
    let whole = Wanted { revision: commit.clone(), ..wanted(&[]) };

    let snapshot = fixture.hub().fetch(&whole, &mut ()).unwrap();

    assert_eq!(snapshot, fixture.folder("snapshots").join(commit));
    assert_eq!(names(&fixture.folder("")), ["blobs", "snapshots"]);
    assert_eq!(cached(NAME, fixture.cache.path()), None);
}

#[test]
fn a_branch_with_a_slash_has_a_reference_of_its_own() {
    let fixture = Fixture::new(&[CONFIG, ("model.safetensors", b"weights")]);
    let branch = Wanted { revision: "refs/pr/1".to_owned(), ..wanted(&[]) };

    fixture.hub().fetch(&branch, &mut ()).unwrap();

    let commit = "1".repeat(40);
    assert_eq!(fs::read_to_string(fixture.folder("refs/refs/pr/1")).unwrap(), commit);
    assert_eq!(fixture.asked()[0], "GET /api/models/a/b/revision/refs%2Fpr%2F1");
}
