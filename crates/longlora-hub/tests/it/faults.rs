use std::fs;
use std::net::TcpListener;

use longlora_hub::{Hub, Wanted, cached};

use crate::repository::{Fixture, NAME, content, names, sum, wanted};
use crate::server::{Answer, Server};

const CONFIG: (&str, &[u8]) = ("config.json", b"{}");
const WEIGHTS: &str = "model.safetensors";

/// The range of every request for weights since the last call; `None` asks for all of them.
fn ranges(fixture: &Fixture) -> Vec<Option<String>> {
    let seen = fixture.server.seen().into_iter();
    let contents = seen.filter(|request| request.path.starts_with("/elsewhere/"));
    contents.map(|request| request.header("range").map(str::to_owned)).collect()
}

/// A fixture whose first fetch broke off in the middle of the weights.
fn broken_off(weights: &[u8]) -> Fixture {
    let fixture = Fixture::new(&[(WEIGHTS, weights)]);
    fixture.repository().cut = Some(weights.len() / 2);
    let said = fixture.fails();
    let (half, all) = (weights.len() / 2, weights.len());
    assert!(said.contains(&format!("at byte `{half}` of `{all}` of `{WEIGHTS}`")), "{said}");
    assert!(said.contains("another try goes on"), "{said}");
    assert_eq!(ranges(&fixture), [None]);
    fixture
}

#[test]
fn what_broke_off_goes_on_where_it_was() {
    let weights = content(1, 1_000_000);
    let fixture = broken_off(&weights);
    assert_eq!(names(&fixture.folder("blobs")), [format!("{}.part", sum(WEIGHTS, &weights))]);
    assert_eq!(cached(NAME, fixture.cache.path()), None, "half a model is none");

    let snapshot = fixture.fetch().unwrap();

    assert_eq!(ranges(&fixture), [Some("bytes=500000-".to_owned())]);
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), weights);
    assert_eq!(names(&fixture.folder("blobs")), [sum(WEIGHTS, &weights)]);
}

#[test]
fn a_server_without_ranges_makes_it_start_again() {
    let weights = content(2, 1_000_000);
    let fixture = broken_off(&weights);
    fixture.repository().ignores_range = true;

    let snapshot = fixture.fetch().unwrap();

    assert_eq!(ranges(&fixture), [Some("bytes=500000-".to_owned())]);
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), weights);
}

#[test]
fn a_file_that_changed_in_between_is_not_glued_to_its_old_half() {
    let old = content(3, 1_000_000);
    let fixture = broken_off(&old);
    let new = content(4, 1_000_000);
    fixture.repository().commit = "2".repeat(40);
    fixture.repository().files[0].1 = new.clone();

    let snapshot = fixture.fetch().unwrap();

    assert_eq!(ranges(&fixture), [None]);
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), new);
}

#[test]
fn a_part_file_that_is_complete_needs_no_network() {
    let weights = content(5, 1_000_000);
    let fixture = broken_off(&weights);
    let part = fixture.folder("blobs").join(format!("{}.part", sum(WEIGHTS, &weights)));
    fs::write(&part, &weights).unwrap();

    let snapshot = fixture.fetch().unwrap();

    assert_eq!(ranges(&fixture), [] as [Option<String>; 0]);
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), weights);
}

#[test]
fn a_part_file_that_was_spoilt_or_is_too_long_is_started_again() {
    let weights = content(6, 1_000_000);
    for (spoilt, asked) in [
        (vec![0; 600_000], vec![Some("bytes=600000-".to_owned()), None]),
        (vec![0; 1_000_000], vec![None]),
        (vec![0; 1_000_001], vec![None]),
    ] {
        let fixture = broken_off(&weights);
        let part = fixture.folder("blobs").join(format!("{}.part", sum(WEIGHTS, &weights)));
        fs::write(&part, &spoilt).unwrap();

        let snapshot = fixture.fetch().unwrap();

        assert_eq!(ranges(&fixture), asked);
        assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), weights);
    }
}

#[test]
fn a_blob_of_another_size_is_fetched_again() {
    let weights = content(7, 100_000);
    let fixture = Fixture::new(&[(WEIGHTS, &weights)]);
    let snapshot = fixture.fetch().unwrap();
    fs::write(fixture.folder("blobs").join(sum(WEIGHTS, &weights)), b"torn").unwrap();

    fixture.fetch().unwrap();

    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), weights);
}

#[test]
fn damage_is_mended_once() {
    let weights = content(8, 100_000);
    let fixture = Fixture::new(&[(WEIGHTS, &weights)]);
    fixture.repository().damaged = 1;

    let snapshot = fixture.fetch().unwrap();

    assert_eq!(ranges(&fixture), [None, None]);
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), weights);
}

#[test]
fn damage_that_stays_is_told_with_both_sums_and_leaves_nothing() {
    let weights = content(9, 1000);
    let mut damaged = weights.clone();
    damaged[0] ^= 1;
    let cases = [(WEIGHTS, "SHA-256"), ("config.json", "git's SHA-1")];
    for (file, kind) in cases {
        let fixture = Fixture::new(&[(file, &weights), (WEIGHTS, &weights)]);
        fixture.repository().damaged = 2;

        let said = fixture.fails();

        let (listed, found) = (sum(file, &weights), sum(file, &damaged));
        let sums = format!("{kind} `{listed}`, what came has {kind} `{found}`");
        assert!(said.contains(&format!("`{file}`")) && said.contains(&sums), "{said}");
        assert_eq!(names(&fixture.folder("blobs")), [] as [String; 0]);
        assert_eq!(cached(NAME, fixture.cache.path()), None);
    }
}

#[test]
fn more_than_the_header_promises_is_damage() {
    let server = Server::start(|request| match request.path.as_str() {
        "/api/models/a/b/revision/main" => {
            let sha = "1".repeat(40);
            Answer::new(200, format!(r#"{{"sha":"{sha}","siblings":[{{"rfilename":"x"}}]}}"#))
        }
        _ => Answer::new(200, "four").with("Etag", "a".repeat(40)).with("X-Linked-Size", "3"),
    });
    let said = said_by(&server, &wanted(&["x"]));
    assert!(said.contains("`x`") && said.contains("more than `3` bytes"), "{said}");
}

#[test]
fn refusals_say_what_to_do() {
    let fixture = Fixture::new(&[CONFIG, (WEIGHTS, b"weights")]);
    let page = format!("{}/{NAME}", fixture.server.address());
    let cases: [(u16, &str, &[&str]); 6] = [
        (401, "GatedRepo", &["`a/b`", "(401)", &page, "licence", "set HF_TOKEN"]),
        (403, "GatedRepo", &["`a/b`", "(403)", &page, "licence"]),
        (404, "RepoNotFound", &["no model `a/b`", &fixture.server.address(), "spelling"]),
        (404, "RevisionNotFound", &["`a/b` has no revision `main`"]),
        (429, "", &["status `429`", "try again later"]),
        (503, "", &["status `503`", "try again later"]),
    ];
    for (status, code, needles) in cases {
        fixture.repository().refuses = Some((status, code));
        let said = fixture.fails();
        for needle in needles {
            assert!(said.contains(needle), "`{needle}` is not in: {said}");
        }
    }
    fixture.repository().refuses = None;
    let absent = Wanted { revision: "absent".to_owned(), ..wanted(&[]) };
    let said = fixture.hub().fetch(&absent, &mut ()).unwrap_err().to_string();
    assert!(said.contains("`a/b` has no revision `absent`"), "{said}");
    fixture.repository().refuses = Some((403, "GatedRepo"));
    let hub = fixture.hub().with_token("hf_secret".to_owned());
    let said = hub.fetch(&wanted(&[]), &mut ()).unwrap_err().to_string();
    assert!(said.contains("your token") && !said.contains("hf_secret"), "{said}");
    assert_eq!(names(fixture.cache.path()), [] as [String; 0]);
}

#[test]
fn a_model_without_weights_names_what_there_is_before_anything_is_fetched() {
    let fixture = Fixture::new(&[CONFIG, ("q8.gguf", b"eight")]);
    let said = fixture.fails();
    let needles =
        ["neither model.safetensors nor pytorch_model.bin", "name what you want", "`q8.gguf`"];
    for needle in needles {
        assert!(said.contains(needle), "{said}");
    }
    assert_eq!(fixture.asked().len(), 1);
}

#[test]
fn no_network_is_told_with_the_address() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(cache.path().to_owned()).with_endpoint(&endpoint).unwrap();
    let said = hub.fetch(&wanted(&[]), &mut ()).unwrap_err().to_string();
    assert!(said.contains(&format!("`{endpoint}` cannot be reached")), "{said}");
    assert!(said.contains("check the network"), "{said}");
}

#[test]
fn what_is_no_hub_is_told() {
    let cases = [
        ("<html>", "x", "3", "no list of files"),
        (r#"{"sha":"../..","siblings":[]}"#, "x", "3", "`../..` is no commit"),
        ("", "../../evil", "3", "neither a SHA-256 nor a SHA-1"),
        ("", "", "3", "neither a SHA-256 nor a SHA-1"),
        ("", "0123456789012345678901234567890123456789", "x", "no size"),
    ];
    for (listing, etag, size, needle) in cases {
        let good = format!(r#"{{"sha":"{}","siblings":[{{"rfilename":"x"}}]}}"#, "1".repeat(40));
        let listing = if listing.is_empty() { good } else { listing.to_owned() };
        let server = Server::start(move |request| match request.path.as_str() {
            "/api/models/a/b/revision/main" => Answer::new(200, listing.clone()),
            _ => Answer::new(200, "abc").with("Etag", etag).with("X-Linked-Size", size),
        });
        let said = said_by(&server, &wanted(&["x"]));
        assert!(said.contains(needle) && said.contains("is the endpoint right"), "{said}");
    }
}

/// What is said when a model is fetched from a server that is no good hub. Nothing is left where it could be used.
fn said_by(server: &Server, wanted: &Wanted) -> String {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(cache.path().to_owned()).with_endpoint(&server.address()).unwrap();
    let said = hub.fetch(wanted, &mut ()).unwrap_err().to_string();
    assert_eq!(cached(NAME, cache.path()), None);
    said
}
