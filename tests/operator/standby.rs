//! A playbook that has no standby yet: the run makes one on this machine, and takes it back.

use super::world::Lab;
use greenlight::word::Side;

#[tokio::test]
async fn a_run_makes_its_standby_where_the_playbook_says_and_takes_it_back_whole() {
    let lab = Lab::with("shop", false).await;
    let green = lab.world.server(Side::Green);
    let folder = green.data_dir.display().to_string();
    let (mark, create) =
        ("migrations:\n", format!("  create: {{host: local, data_dir: \"{folder}\", port: {}}}\nmigrations:\n", green.port));
    lab.write("shop.yaml", &lab.playbook().replacen(mark, &create, 1));
    lab.say(&["check", "shop.yaml"]).await.is(0, &[]);
    std::fs::create_dir(&green.data_dir).unwrap();
    std::fs::write(green.data_dir.join("precious"), "").unwrap();
    lab.say(&["plan", "shop.yaml"]).await.is(4, &["is not empty", "nothing was changed"]);
    assert!(green.data_dir.join("precious").exists());
    std::fs::remove_dir_all(&green.data_dir).unwrap();

    lab.say(&["run", "shop.yaml", "--dry-run"]).await.is(0, &["create standby     to do; nothing of it is there"]);
    let said = lab.say(&["run", "shop.yaml", "--no-wait"]).await;
    said.is(5, &["create standby", &format!("standby made in {folder}"), "green promoted", "window closed: green serves"]);
    let said = lab.say(&["abandon", "--no-wait"]).await;
    said.is(0, &["window closed: blue serves", "nothing lost", "taken back: create standby", "blue serves as before"]);
    assert!(!green.data_dir.exists(), "the folder is still there");
    assert_eq!(lab.ask(Side::Blue, "SELECT count(*) FROM pg_replication_slots").await, "0");
    // And again, into the same folder, to its end.
    lab.say(&["run", "shop.yaml", "--no-wait"]).await.is(5, &["window closed: green serves"]);
    lab.say(&["finish", "--no-wait"]).await.is(0, &["green serves; blue is retired"]);
    assert_eq!(lab.ask(Side::Green, "SELECT count(*) FROM orders WHERE id IS NULL").await, "0");
}
