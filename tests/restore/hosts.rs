//! Where the files are on another machine: by the system's ssh, against a real sshd with a key and known hosts of its own.
use crate::tablespaces::make_tablespace;
use crate::world::{Kind, LIMIT, World, ask};
use greenlight::lab::free_port;
use greenlight::plan::HostSpec;
use greenlight::process;
use greenlight::snapshot::Host;
use greenlight::snapshot::restore::{self, Place, Target};
use greenlight::word::{Clock, Failure, SystemClock};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

struct Sshd {
    folder: tempfile::TempDir,
    server: tokio::process::Child,
    port: u16,
    user: String,
}

impl Sshd {
    /// `None`: there is no sshd here.
    async fn up() -> Option<Sshd> {
        let program = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"].into_iter().map(Path::new).find(|path| path.is_file());
        let Some(program) = program else {
            eprintln!("NOT TESTED: ssh, since no sshd is installed");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("greenlight-ssh-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let user =
            if process::running_as_root() { "postgres".to_owned() } else { std::env::var_os("USER")?.into_string().ok()? };
        if process::running_as_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let path = |name: &str| folder.path().join(name);
        for key in ["host_key", "key"] {
            let mut keygen = process::new_command(Path::new("ssh-keygen"));
            process::run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key)), LIMIT).await.unwrap();
        }
        let port = free_port();
        let place = folder.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host_key\nAuthorizedKeysFile {place}/key.pub\nPidFile none\n\
             StrictModes no\nUsePAM {}\nPasswordAuthentication no\n",
            if process::running_as_root() { "yes" } else { "no" }
        );
        fs::write(path("sshd_config"), config).unwrap();
        let host_key = fs::read_to_string(path("host_key.pub")).unwrap();
        fs::write(path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        fs::write(path("no_hosts"), "").unwrap();
        for (name, known) in [("config", "known_hosts"), ("stranger", "no_hosts")] {
            let text = format!(
                "Host *\nIdentityFile {place}/key\nIdentitiesOnly yes\nUserKnownHostsFile {place}/{known}\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
            );
            fs::write(path(name), text).unwrap();
        }
        let mut command = process::new_command(program);
        let server = command
            .args(["-D", "-e", "-f"])
            .arg(path("sshd_config"))
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let sshd = Sshd { folder, server, port, user };
        let clock = SystemClock::new();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(clock.monotonic() < LIMIT, "sshd does not answer");
            clock.sleep(Duration::from_millis(20)).await;
        }
        Some(sshd)
    }

    fn spec(&self) -> HostSpec {
        HostSpec::parse(&format!("ssh://{}@127.0.0.1:{}", self.user, self.port)).unwrap()
    }

    fn config(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.start_kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_another_host_does_everything_by_ssh() {
    let Some(sshd) = Sshd::up().await else { return };
    for kind in [Kind::Archive, Kind::Receive] {
        let Some(world) = World::up_on(15, kind, sshd.spec(), Some(sshd.config("config"))).await else { return };
        world.back_up().await;
        let one = world.write(1).await;
        world.archive().await;
        world.write(2).await;
        world.archive().await;
        assert_eq!(world.rows_at(Target::Time(one.at), None).await, [1]);
        assert_eq!(world.rows_at(Target::Latest, None).await, [1, 2]);
        assert!(fs::read_to_string(sshd.config("log")).unwrap().contains("Accepted publickey"), "it went by ssh");
        world.store.remove_from_server().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_from_one_host_to_another() {
    let Some(sshd) = Sshd::up().await else { return };
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    make_tablespace(&world, "far", "far").await;
    world.ask("CREATE TABLE far TABLESPACE far AS SELECT 1 AS id").await;
    world.back_up().await;
    let one = world.write(1).await;
    world.write(2).await;
    world.archive().await;
    let host = Host { spec: sshd.spec(), ssh_config: Some(sshd.config("config")), ..world.store.host().clone() };
    let place = Place { host, data_dir: world.path("restored"), port: free_port(), throwaway: false };
    let plan = world.check(&Target::Lsn(one.after), &place).await;
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
    let restored = world.recover(&plan).await.unwrap();
    assert_eq!(ask(&restored.endpoint, "SELECT id FROM kept").await, ["1"]);
    assert_eq!(ask(&restored.endpoint, "SELECT id FROM far").await, ["1"]);
    let location = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'";
    assert!(ask(&restored.endpoint, location).await[0].contains("/restored.tablespaces/"));
    assert!(
        fs::read_to_string(place.data_dir.join("greenlight.guard")).unwrap().contains("restored/greenlight.wal"),
        "it needs the other host no more"
    );
    restore::discard(world.store.as_ref(), &place, &world.source.at).await.unwrap();
    assert!(!place.data_dir.exists() && !world.path("restored.tablespaces").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_key_is_not_known_is_not_spoken_to() {
    let Some(sshd) = Sshd::up().await else { return };
    let Some(world) = World::up(15, Kind::Archive).await else { return };
    let host = Host { spec: sshd.spec(), ssh_config: Some(sshd.config("stranger")), ..world.store.host().clone() };
    let place = Place { host, data_dir: world.path("restored"), port: free_port(), throwaway: false };
    world.back_up().await;
    let error = restore::check(world.store.as_ref(), &Target::Latest, None, &place, world.clock.now()).await.unwrap_err();
    assert_eq!(error.failure, Failure::Uncertain);
    assert!(error.chain().contains("Host key verification failed"), "{}", error.chain());
}
