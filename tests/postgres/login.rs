//! Getting in, and what is said when we do not.

use crate::world::{World, app, ask, sql};
use greenlight::lab::free_port;
use greenlight::postgres::client::{Session, SessionOptions};
use greenlight::postgres::{PgServer, PgServerOptions, Server};
use greenlight::process;
use greenlight::word::{Endpoint, Failure, PortError, Secret, Side, TlsMode};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

async fn not_let_in(endpoint: &Endpoint) -> PortError {
    let error = Session::open(endpoint, &SessionOptions::reading("test"), "blue").await.unwrap_err();
    for secret in ["wörd", "s3cret"] {
        let all = format!("{} {:?} {error:?}", error.chain(), error.hint);
        assert!(!all.contains(secret), "{all}");
    }
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_let_in_is_told_why_and_what_to_do() {
    let world = World::blue().await;
    let good = world.endpoint(Side::Blue);

    let wrong_password = Endpoint { password: Some(Secret::new("s3cret")), ..good.clone() };
    let error = not_let_in(&wrong_password).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.hint.unwrap().contains("password is wrong"));

    let error = not_let_in(&Endpoint { password: None, ..good.clone() }).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.hint.unwrap().contains("asks for a password"));

    let error = not_let_in(&Endpoint { port: free_port(), ..good.clone() }).await;
    assert_eq!(error.failure, Failure::Transient);
    assert!(error.hint.unwrap().contains("nothing listens there"));

    let error = not_let_in(&Endpoint { host: "no-such-host.invalid".to_owned(), ..good.clone() }).await;
    assert_eq!(error.failure, Failure::Transient);
    assert!(error.hint.unwrap().contains("name is not known"));

    let error = not_let_in(&good.with_database("no such")).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.hint.unwrap().contains("psql -l"));

    let error = not_let_in(&Endpoint { tls: TlsMode::Require, ..good.clone() }).await;
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.hint.unwrap().contains("speaks no TLS"));

    // A server that takes connections and never says a word is not waited for without end: its kernel answers for it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = Endpoint { port: listener.local_addr().unwrap().port(), ..good.clone() };
    let error = not_let_in(&mute).await;
    assert_eq!(error.failure, Failure::Transient);
    assert!(error.chain().contains("no answer within"));
}

/// A server that asks for a proof by `request`, and gives back what it is sent then.
async fn asks_for(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: u8) -> Vec<u8> {
    let startup = stream.read_u32().await.unwrap() as usize - 4;
    stream.read_exact(&mut vec![0; startup]).await.unwrap();
    stream.write_all(&[b'R', 0, 0, 0, if request == 5 { 12 } else { 8 }, 0, 0, 0, request]).await.unwrap();
    if request == 5 {
        stream.write_all(b"salt").await.unwrap();
    }
    let mut given = Vec::new();
    let _ = stream.take(20).read_to_end(&mut given).await;
    given
}

/// What a stranger who listens where the server should be is given.
async fn given_to_a_stranger(request: u8, auth: &str) -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stranger = tokio::spawn(async move { asks_for(listener.accept().await.unwrap().0, request).await });
    let endpoint = Endpoint::parse(&format!("postgresql://u:s3cret@127.0.0.1:{port}/x{auth}")).unwrap();
    let error = not_let_in(&endpoint).await;
    let given = stranger.await.unwrap();
    if given.is_empty() {
        assert_eq!(error.failure, Failure::Refused, "{}", error.chain());
        assert!(error.hint.unwrap().contains("require_auth"));
    }
    given
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_listens_in_the_server_s_place_is_given_no_password() {
    const IN_THE_CLEAR: u8 = 3;
    const MD5: u8 = 5;
    assert_eq!(given_to_a_stranger(IN_THE_CLEAR, "").await, b"");
    assert_eq!(given_to_a_stranger(IN_THE_CLEAR, "?require_auth=password").await, b"p\0\0\0\x0bs3cret\0");
    assert_eq!(given_to_a_stranger(MD5, "?require_auth=scram-sha-256").await, b"");
    assert!(given_to_a_stranger(MD5, "").await.starts_with(b"p\0\0\0\x28md5"));
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let stranger = tokio::spawn(async move { asks_for(listener.accept().await.unwrap().0, IN_THE_CLEAR).await });
    let endpoint = Endpoint::parse(&format!("postgresql://u:s3cret@/x?host={}", folder.path().display())).unwrap();
    assert!(not_let_in(&endpoint).await.chain().contains("in the clear"));
    assert_eq!(stranger.await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_told_so_and_nothing_is_changed() {
    let world = World::blue().await;
    let blue = world.endpoint(Side::Blue);
    sql(&blue, "CREATE ROLE weak LOGIN PASSWORD 'weak'").await;
    let weak = Endpoint { user: "weak".to_owned(), password: Some(Secret::new("weak")), ..blue.clone() };
    let server = PgServer::new(PgServerOptions { endpoint: weak, ..world.options(Side::Blue) });
    server.connect().await.unwrap();
    let error = server.ensure_claimed().await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert!(error.hint.unwrap().contains("superuser"));
    let error = server.create_slot("s").await.unwrap_err();
    assert_eq!(error.failure, Failure::Refused);
    assert_eq!(sql(&blue, "SELECT count(*) FROM pg_namespace WHERE nspname = 'greenlight'").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passfile_lets_in_when_no_password_is_given() {
    let world = World::blue().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let escaped = crate::world::PASSWORD.replace('\\', r"\\").replace(':', r"\:");
    fs::write(file.path(), format!("127.0.0.1:{}:*:The Admin:{escaped}\n", world.blue.port)).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let endpoint = Endpoint { password: None, passfile: Some(file.path().to_owned()), ..world.endpoint(Side::Blue) };
    assert_eq!(ask(&app(&endpoint).await, "SELECT current_user").await, ["The Admin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_makes_a_change_uncertain_and_the_next_call_opens_a_new_one() {
    let world = World::blue().await;
    let server = world.server(Side::Blue);
    server.ensure_claimed().await.unwrap();
    server.write_marker(1).await.unwrap();
    // A session's end in the middle of a change: nobody knows whether it was done.
    let session = crate::world::session(&world.endpoint(Side::Blue)).await;
    let (pid, endpoint) = (session.pid(), world.endpoint(Side::Blue));
    let kill = tokio::spawn(async move {
        crate::world::until(&endpoint, &format!("SELECT state FROM pg_stat_activity WHERE pid = {pid}"), "active").await;
        sql(&endpoint, &format!("SELECT pg_terminate_backend({pid})")).await;
    });
    let error = session.change("wait", "SELECT pg_sleep(60)", &[]).await.unwrap_err();
    kill.await.unwrap();
    assert_eq!(error.failure, Failure::Uncertain, "{}", error.chain());
    // The kept sessions too; the next call is served by new ones.
    sql(
        &world.endpoint(Side::Blue),
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'greenlight/%'",
    )
    .await;
    let mut seen = server.read_marker().await;
    if let Err(error) = &seen {
        assert_eq!(error.failure, Failure::Transient);
        seen = server.read_marker().await;
    }
    assert_eq!(seen.unwrap(), Some(1));
    server.write_marker(2).await.unwrap();
    assert_eq!(server.read_marker().await.unwrap(), Some(2));
}

async fn openssl(folder: &Path, args: &[&str]) {
    let mut command = process::new_command(Path::new("openssl"));
    command.current_dir(folder).args(args);
    process::run(&mut command, Duration::from_secs(30)).await.unwrap();
}

/// Makes an authority `ca`, another one `other`, and gives blue a certificate of the first for the name `localhost`.
async fn give_certificate(world: &World, certs: &Path) {
    let subject = ["-nodes", "-newkey", "rsa:2048", "-days", "2"];
    openssl(certs, &[&["req", "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"][..], &subject].concat()).await;
    openssl(
        certs,
        &[&["req", "-x509", "-subj", "/CN=other", "-keyout", "other.key", "-out", "other.pem"][..], &subject].concat(),
    )
    .await;
    openssl(
        certs,
        &["req", "-subj", "/CN=localhost", "-nodes", "-newkey", "rsa:2048", "-keyout", "server.key", "-out", "server.csr"],
    )
    .await;
    fs::write(certs.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        certs,
        &[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "ext",
            "-out",
            "server.crt",
        ],
    )
    .await;
    for name in ["server.key", "server.crt"] {
        let path = world.blue.data_dir.join(name);
        fs::copy(certs.join(name), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        process::give_to_server_user(&path).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_verifies_what_its_mode_says() {
    let world = World::blue().await;
    let certs = tempfile::tempdir().unwrap();
    give_certificate(&world, certs.path()).await;
    let plain = world.endpoint(Side::Blue);
    sql(&plain, "ALTER SYSTEM SET ssl = on").await;
    sql(&plain, "SELECT pg_reload_conf()").await;
    crate::world::until(&plain, "SHOW ssl", "on").await;

    let (ca, other) = (certs.path().join("ca.pem"), certs.path().join("other.pem"));
    let by = |host: &str, tls: TlsMode, root: &Path| Endpoint {
        host: host.to_owned(),
        tls,
        root_cert: Some(root.to_owned()),
        ..plain.clone()
    };
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for good in [
        by("localhost", TlsMode::VerifyFull, &ca),
        by("127.0.0.1", TlsMode::VerifyCa, &ca),
        Endpoint { root_cert: None, ..by("127.0.0.1", TlsMode::Require, &other) },
    ] {
        assert_eq!(ask(&app(&good).await, encrypted).await, ["t"]);
    }
    for bad in [
        by("127.0.0.1", TlsMode::VerifyFull, &ca),
        by("localhost", TlsMode::VerifyFull, &other),
        by("localhost", TlsMode::VerifyCa, &other),
        Endpoint { root_cert: None, ..by("localhost", TlsMode::VerifyFull, &ca) },
    ] {
        let error = not_let_in(&bad).await;
        assert_eq!(error.failure, Failure::Refused, "{}", error.chain());
        assert!(error.hint.unwrap().contains("sslrootcert"));
    }
    assert_eq!(ask(&app(&plain).await, encrypted).await, ["f"]);

    // One who asks for the password in the clear is given it where he is known, and only there.
    fs::write(world.blue.data_dir.join("pg_hba.conf"), "host all all all password\n").unwrap();
    sql(&plain, "SELECT pg_reload_conf()").await;
    let asks = "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'password'";
    assert_eq!(ask(&app(&by("127.0.0.1", TlsMode::VerifyCa, &ca)).await, asks).await, ["1"]);
    for unknown in [&plain, &Endpoint { root_cert: None, ..by("localhost", TlsMode::Require, &ca) }] {
        let error = not_let_in(unknown).await;
        assert!(error.failure == Failure::Refused && error.chain().contains("in the clear"), "{}", error.chain());
    }
}
