//! Servers that write down whatever they can never see a password of ours.

use crate::world::{LIMIT, PASSWORD, SHARE_OF_PASSWORD, World, app, ask, sql};
use greenlight::lab::TALKATIVE;
use greenlight::postgres::{PgServer, PgServerOptions, Server};
use greenlight::word::{Endpoint, Side};
use std::time::Instant;
use tokio::net::TcpListener;

/// What a server writes down besides, and what nobody could read in a whole run.
const MORE: &[(&str, &str)] = &[
    ("log_duration", "on"),
    ("log_min_messages", "debug2"),
    ("debug_print_parse", "on"),
    ("debug_print_rewritten", "on"),
    ("debug_print_plan", "on"),
];

/// Keeps the text of all DDL, as audits at home do.
const DIARY: &str = "CREATE EXTENSION pg_stat_statements; CREATE TABLE diary (said text);
    CREATE FUNCTION keep() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO diary VALUES (current_query()); END';
    CREATE EVENT TRIGGER diary ON ddl_command_start EXECUTE FUNCTION keep()";

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_s_password_is_written_down_nowhere_but_in_the_subscription() {
    assert!(PASSWORD.contains(SHARE_OF_PASSWORD));
    let world = World::with(&[TALKATIVE, MORE].concat()).await;
    let at = world.endpoint(Side::Blue);
    sql(&at, DIARY).await;
    // What is said by anybody else is seen in every one of those places.
    sql(&at, "CREATE TABLE witness (a int)").await;
    let seen = "SELECT count(*) > 0 FROM pg_stat_statements WHERE query LIKE '%witness%'";
    // The log's collector writes when it comes to it.
    for _ in 0..500 {
        if world.log(Side::Blue).contains("CREATE TABLE witness") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(world.log(Side::Blue).contains("CREATE TABLE witness"));
    assert_eq!(sql(&at, seen).await, ["t"]);
    assert_eq!(sql(&at, "SELECT count(*) FROM diary WHERE said LIKE '%witness%'").await, ["1"]);

    let following = |peer: Endpoint| PgServer::new(PgServerOptions { peer, ..world.options(Side::Blue) });
    let publisher = at.with_database("postgres");
    following(publisher.clone()).ensure_subscription("s").await.unwrap();
    following(publisher.clone()).ensure_subscription("s").await.unwrap();
    following(Endpoint { host: "localhost".to_owned(), ..publisher.clone() }).ensure_subscription("s").await.unwrap();
    let kept = "SELECT subconninfo FROM pg_subscription";
    assert!(sql(&at, kept).await[0].contains("localhost"), "the way to the other side was changed");
    fails_while_others_look(&at, &following).await;
    nothing_was_kept(&world, &at).await;
}

/// The other side takes the connection and says nothing. Meanwhile everybody looks at who does what.
async fn fails_while_others_look(at: &Endpoint, following: &impl Fn(Endpoint) -> PgServer) {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = following(Endpoint { port: silent.local_addr().unwrap().port(), ..at.clone() });
    let fails = tokio::spawn(async move { nowhere.ensure_subscription("never").await });
    let (held, _) = silent.accept().await.unwrap();
    let client = app(at).await;
    let queries = ask(&client, "SELECT coalesce(query, '') || state FROM pg_stat_activity WHERE datid IS NOT NULL").await;
    assert!(queries.iter().any(|query| query.contains("disabled")), "the session is there: {queries:?}");
    assert!(!queries.concat().contains(SHARE_OF_PASSWORD), "{queries:?}");
    drop((held, silent));
    let error = fails.await.unwrap().unwrap_err();
    assert!(!format!("{error:?}").contains(SHARE_OF_PASSWORD), "{error:?}");
}

async fn nothing_was_kept(world: &World, at: &Endpoint) {
    let client = app(at).await;
    for place in ["SELECT query FROM pg_stat_statements", "SELECT said FROM diary"] {
        let kept = ask(&client, place).await;
        assert!(!kept.is_empty() && !kept.concat().contains(SHARE_OF_PASSWORD), "{place}");
    }
    let started = Instant::now();
    ask(&client, "CREATE TABLE last_word (a int)").await;
    while !world.log(Side::Blue).contains("CREATE TABLE last_word") {
        assert!(started.elapsed() < LIMIT, "the log does not come");
        tokio::task::yield_now().await;
    }
    let log = world.log(Side::Blue);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(SHARE_OF_PASSWORD)).collect();
    assert!(lines.is_empty(), "{lines:?}");
}
