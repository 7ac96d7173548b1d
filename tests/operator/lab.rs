//! The lab as it is typed: `lab up` and `lab down`.

use super::world::{Said, begin_in, ended};
use std::{os::unix::fs::PermissionsExt, path::Path};

/// Beside what people have set for servers of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_lab_in_a_relative_folder_comes_up_and_goes_down_whole() {
    // Its servers run as another user.
    let desk = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir_in("/tmp").unwrap();
    let say = async |arguments: &[&str]| -> Said { ended(begin_in(desk.path(), arguments)).await };
    say(&["lab", "up", "--dir", "mine"]).await.is(0, &["shop.yaml", "greenlight lab down --dir mine"]);
    let mine = desk.path().join("mine");
    assert_eq!(programs_of(&mine), ["pgbouncer", "postgres", "postgres"]);
    say(&["check", "mine/shop.yaml"]).await.is(0, &[]);
    say(&["lab", "down", "--dir", "mine"]).await.is(0, &["removed the lab in mine"]);
    assert_eq!(programs_of(&mine), [""; 0]);
    assert!(!mine.exists());
    say(&["lab", "down", "--dir", "mine"]).await.is(1, &["mine"]);
}

/// Programs that were started with something below this folder, by their names.
fn programs_of(folder: &Path) -> Vec<String> {
    let below = format!("{}/", folder.display());
    let commands =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.unwrap().path().join("cmdline")).ok());
    let started = |command: Vec<u8>| {
        let words: Vec<String> =
            command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let is_of = words.iter().any(|word| word.starts_with(&below));
        is_of.then(|| words[0].rsplit('/').next().unwrap_or_default().to_owned())
    };
    let mut names: Vec<String> = commands.filter_map(started).collect();
    names.sort();
    names
}
