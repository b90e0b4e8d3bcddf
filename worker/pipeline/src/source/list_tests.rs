//! What a place on this machine gives. S3 has its own test, against a real server.

use std::collections::BTreeMap;

use crate::spec::model::Format;

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

async fn names(folder: &tempfile::TempDir, place: &str) -> Result<Vec<String>, SourceError> {
    let path = folder.path().join(place).to_str().unwrap().to_owned();
    let source = Source::Files {
        path,
        format: Format::Json,
    };
    let objects = list(&Stores::default(), &source, &[]).await?;
    let prefix = format!("file://{}/", folder.path().display());
    Ok(objects
        .iter()
        .map(|object| object.url.strip_prefix(&prefix).unwrap().to_owned())
        .collect())
}

const TREE: &[(&str, &str)] = &[
    ("b.json", "1"),
    ("a.json", "1"),
    ("d/c.json.gz", "1"),
    ("d/e/f.json", "1"),
    ("d/empty.json", ""),
    ("_SUCCESS", "1"),
    (".part", "1"),
    ("_temporary/x.json", "1"),
    ("odd [1].json", "1"),
];

#[tokio::test]
async fn a_folder_gives_every_file_below_it_but_hidden_and_empty_ones() {
    let tree = folder(TREE);
    let all = ["a.json", "b.json", "d/c.json.gz", "d/e/f.json", "odd%20[1].json"];
    assert_eq!(names(&tree, "").await.unwrap(), all);
}

#[tokio::test]
async fn a_glob_gives_what_matches_and_a_name_that_exists_wins_over_it() {
    let tree = folder(TREE);
    for (place, expected) in [
        ("*.json", vec!["a.json", "b.json", "odd%20[1].json"]),
        (
            "**/*.json",
            vec!["a.json", "b.json", "d/e/f.json", "odd%20[1].json"],
        ),
        ("d*", vec!["d/c.json.gz", "d/e/f.json"]),
        ("{a,b}.json", vec!["a.json", "b.json"]),
        ("d/{c.json.gz,e/?.json}", vec!["d/c.json.gz", "d/e/f.json"]),
        ("[a-a].json", vec!["a.json"]),
        ("odd [1].json", vec!["odd%20[1].json"]),
        ("_SUCCESS", vec!["_SUCCESS"]),
    ] {
        assert_eq!(names(&tree, place).await.unwrap(), expected, "{place}");
    }
}

#[tokio::test]
async fn a_place_with_nothing_to_read_is_an_error_that_names_it() {
    let tree = folder(TREE);
    let missing = names(&tree, "x*.json").await.unwrap_err().to_string();
    assert!(
        missing.contains("x*.json") && missing.contains("no file is there"),
        "{missing}"
    );
    let hidden = names(&tree, "_*").await.unwrap_err().to_string();
    assert!(hidden.contains("all empty or hidden"), "{hidden}");
    assert!(
        names(&tree, "d/empty.json")
            .await
            .unwrap_err()
            .to_string()
            .contains("1 files")
    );
    assert!(
        names(&tree, "a{.json")
            .await
            .unwrap_err()
            .to_string()
            .contains("not closed")
    );
}

#[tokio::test]
async fn inputs_replace_the_sources_place_and_an_object_named_twice_is_read_once() {
    let tree = folder(TREE);
    let at = |name: &str| format!("{}/{name}", tree.path().display());
    let source = Source::Files {
        path: at("d"),
        format: Format::Json,
    };
    let inputs = [
        at("b.json"),
        format!("file://{}", at("odd%20[1].json")),
        at("*.json"),
    ];
    let objects = list(&Stores::default(), &source, &inputs).await.unwrap();
    assert_eq!(objects.len(), 3);
    assert_eq!(objects[0].size, 1);
}

#[tokio::test]
async fn a_topic_is_not_a_place_but_files_can_stand_in_for_it() {
    let tree = folder(TREE);
    let source = Source::Kafka {
        brokers: vec!["127.0.0.1:1".into()],
        topic: "events".into(),
        format: Format::Json,
        client_rack: None,
        options: BTreeMap::new(),
    };
    let error = list(&Stores::default(), &source, &[])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`events`") && error.contains("millrace job submit"),
        "{error}"
    );
    let inputs = [tree.path().join("a.json").to_str().unwrap().to_owned()];
    assert_eq!(list(&Stores::default(), &source, &inputs).await.unwrap().len(), 1);
}

#[tokio::test]
async fn links_that_form_a_ring_are_walked_once() {
    let tree = folder(&[("a/x.json", "1")]);
    std::os::unix::fs::symlink(tree.path().join("a"), tree.path().join("a/again")).unwrap();
    std::os::unix::fs::symlink(tree.path().join("nowhere"), tree.path().join("a/broken")).unwrap();
    assert_eq!(names(&tree, "").await.unwrap(), ["a/x.json"]);
}
