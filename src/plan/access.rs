//! Who gets in at a server: what decides it there, and what one server lacks of the other. Nothing of it comes over by
//! logical replication.

use crate::word::{Side, quote_ident, quote_literal};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// How a pooler's logins come in at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// `None`: by a Unix socket.
    pub address: Option<IpAddr>,
    pub tls: bool,
}

impl Arrival {
    /// From the server's own machine.
    pub fn is_local(&self) -> bool {
        self.address.is_none_or(|address| address.is_loopback())
    }
}

/// What decides at one server who gets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `ssl` is on.
    pub tls: bool,
    /// Of `pg_hba.conf`, in their order.
    pub rules: Vec<HbaRule>,
    /// Those that were asked for and exist.
    pub roles: Vec<RoleAccess>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HbaRule {
    pub line: Option<u32>,
    /// `local`, `host`, `hostssl` and so on.
    pub kind: Option<String>,
    pub databases: Option<Vec<String>>,
    pub users: Option<Vec<String>>,
    pub address: Option<String>,
    pub netmask: Option<String>,
    pub method: Option<String>,
    /// PostgreSQL cannot read this line.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleAccess {
    pub name: String,
    pub login: bool,
    /// A hash of the password's verifier, with a salt of this one look: equal or not, and no more.
    pub password: Option<String>,
    /// `VALID UNTIL` lies in the past.
    pub expired: bool,
    /// `-1`: no limit.
    pub connections: i32,
    /// May connect to the run's database.
    pub may_connect: bool,
    /// Itself or by another role.
    pub member_of: Vec<String>,
    /// What its sessions in this database begin with: `ALTER ROLE` or `DATABASE` and the setting, to a hash of the value.
    pub settings: BTreeMap<String, String>,
}

/// What `pg_hba.conf` says to one login.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// By this method.
    Asks(String),
    Rejects(u32),
    NoRule,
    /// The rule in this line may match, or not: by a host's name, a network of the server's, a regular expression.
    Unknown(u32),
}

/// Something that keeps a role of the pooler's out of a server, or makes its sessions others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    pub role: String,
    /// Reads after the server's name and a colon.
    pub what: String,
    pub remedy: String,
    /// It is not known whether it does.
    pub unknown: bool,
}

impl Access {
    fn role(&self, name: &str) -> Option<&RoleAccess> {
        self.roles.iter().find(|role| role.name == name)
    }

    fn verdict(&self, database: &str, role: &RoleAccess, arrival: Arrival) -> Verdict {
        for rule in &self.rules {
            let line = rule.line.unwrap_or_default();
            match rule.matches(database, role, arrival) {
                Some(false) => {}
                None => return Verdict::Unknown(line),
                Some(true) => match rule.method.as_deref() {
                    Some("reject") | None => return Verdict::Rejects(line),
                    Some(method) => return Verdict::Asks(method.to_owned()),
                },
            }
        }
        Verdict::NoRule
    }

    fn same_rules(&self, other: &Access) -> bool {
        let without_lines =
            |rules: &[HbaRule]| -> Vec<HbaRule> { rules.iter().map(|rule| HbaRule { line: None, ..rule.clone() }).collect() };
        without_lines(&self.rules) == without_lines(&other.rules)
    }
}

impl HbaRule {
    /// `None`: that cannot be told from here.
    fn matches(&self, database: &str, role: &RoleAccess, arrival: Arrival) -> Option<bool> {
        if self.error.is_some() {
            return None;
        }
        let none = Vec::new();
        let of_kind = match (self.kind.as_deref(), arrival.address) {
            (Some("local"), None) => true,
            (Some("host" | "hostnogssenc"), Some(_)) => true,
            (Some("hostssl"), Some(_)) => arrival.tls,
            (Some("hostnossl"), Some(_)) => !arrival.tls,
            _ => false,
        };
        let member = |group: &str| role.name == group || role.member_of.iter().any(|of| of == group);
        let databases = self.databases.as_ref().unwrap_or(&none).iter().map(|word| match word.as_str() {
            "all" => Some(true),
            "sameuser" => Some(role.name == database),
            "samerole" | "samegroup" => Some(member(database)),
            "replication" => Some(false),
            word if word.starts_with('/') => None,
            word => Some(word == database),
        });
        let users = self.users.as_ref().unwrap_or(&none).iter().map(|word| match word.as_str() {
            "all" => Some(true),
            word if word.starts_with('/') => None,
            word => Some(word.strip_prefix('+').map_or(word == role.name, member)),
        });
        let address = match (self.address.as_deref(), arrival.address) {
            (_, None) | (Some("all"), _) => Some(true),
            (Some(network), Some(address)) => within(network, self.netmask.as_deref(), address),
            (None, Some(_)) => Some(false),
        };
        all([Some(of_kind), any(databases), any(users), address])
    }
}

/// Three-valued: one that is certain decides.
fn any(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all_known = true;
    for part in parts {
        match part {
            Some(true) => return Some(true),
            Some(false) => {}
            None => all_known = false,
        }
    }
    all_known.then_some(false)
}

fn all(parts: [Option<bool>; 4]) -> Option<bool> {
    any(parts.into_iter().map(|part| part.map(|part| !part))).map(|any| !any)
}

/// `None`: the network is a name.
fn within(network: &str, netmask: Option<&str>, address: IpAddr) -> Option<bool> {
    let network: IpAddr = network.parse().ok()?;
    let mask: Option<IpAddr> = netmask.map(str::parse).transpose().ok()?;
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = mask.map_or(u128::MAX, bits);
    Some(network.is_ipv4() == address.is_ipv4() && bits(network) & mask == bits(address) & mask)
}

/// One look at two servers: the one that serves, and the one that is to.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    pub serving: &'a Access,
    pub next: &'a Access,
    /// How the pooler's logins come in at the next one, as far as it is known.
    pub arrival: Option<Arrival>,
    pub database: &'a str,
    /// Those who were seen to get in there.
    pub let_in: &'a [String],
    /// Which one that is.
    pub side: Side,
    /// Whether what sessions begin with is compared as well.
    pub settings: bool,
}

impl Comparison<'_> {
    /// What the next server lacks for these roles. One that the serving server does not let in, either, is nobody's.
    pub fn lacks(&self, roles: &[String]) -> Vec<Lack> {
        let mut lacks: Vec<Lack> = Vec::new();
        for role in roles.iter().filter_map(|name| self.serving.role(name)) {
            if !role.login || role.expired || !role.may_connect {
                continue;
            }
            let is_in = self.let_in.contains(&role.name);
            let Some(there) = self.next.role(&role.name) else {
                let remedy = format!("{}, and grant it what it has", self.copied(&role.name, "CREATE ROLE %I LOGIN PASSWORD %L"));
                lacks.push(lack(role, "the role does not exist", remedy));
                continue;
            };
            lacks.extend(self.of_memberships(role, there));
            if self.settings {
                lacks.extend(of_settings(role, there));
            }
            if !is_in {
                lacks.extend(self.of_login(role, there));
            }
        }
        lacks
    }

    fn of_login(&self, role: &RoleAccess, there: &RoleAccess) -> Vec<Lack> {
        let (name, side) = (quote_ident(&role.name), self.side);
        let mut lacks = Vec::new();
        if !there.login {
            lacks.push(lack(role, "the role may not log in", format!("on {side}: `ALTER ROLE {name} LOGIN`")));
        }
        if there.expired {
            lacks.push(lack(role, "its password has expired", format!("on {side}: `ALTER ROLE {name} VALID UNTIL 'infinity'`")));
        }
        if !there.may_connect {
            let sql = format!("on {side}: `GRANT CONNECT ON DATABASE {} TO {name}`", quote_ident(self.database));
            lacks.push(lack(role, "the role may not connect to the database", sql));
        }
        let fewer = there.connections >= 0 && (role.connections < 0 || there.connections < role.connections);
        if fewer {
            let what = format!("it takes {} connections of this role at most", there.connections);
            lacks.push(lack(role, what, format!("on {side}: `ALTER ROLE {name} CONNECTION LIMIT {}`", role.connections)));
        }
        let method = match self.arrival.map(|arrival| (arrival, self.next.verdict(self.database, there, arrival))) {
            None => None,
            Some((_, Verdict::Asks(method))) => Some(method),
            Some((arrival, verdict)) => {
                lacks.extend(self.of_hba(role, arrival, &verdict));
                None
            }
        };
        let by_password = method.is_none_or(|method| ["scram-sha-256", "md5", "password"].contains(&method.as_str()));
        if by_password && role.password != there.password {
            let remedy = self.copied(&role.name, "ALTER ROLE %I PASSWORD %L");
            lacks.push(lack(role, "its password is another one", remedy));
        }
        lacks
    }

    /// The rule that is missing, in words of `pg_hba.conf`.
    fn of_hba(&self, role: &RoleAccess, arrival: Arrival, verdict: &Verdict) -> Option<Lack> {
        let what = match verdict {
            Verdict::Asks(_) => return None,
            Verdict::NoRule => "pg_hba.conf has no rule that lets it in".to_owned(),
            Verdict::Rejects(line) => format!("pg_hba.conf rejects it in line {line}"),
            // The other server reads the same lines, and lets it in.
            Verdict::Unknown(_) if self.serving.same_rules(self.next) => return None,
            Verdict::Unknown(line) => format!("whether line {line} of pg_hba.conf lets it in cannot be told from here"),
        };
        let (kind, from) = match arrival.address {
            None => ("local", String::new()),
            Some(address) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                (if arrival.tls { "hostssl" } else { "host" }, format!(" {address}/{bits}"))
            }
        };
        let (database, user) = (quote_ident(self.database), quote_ident(&role.name));
        let remedy = format!(
            "put `{kind} {database} {user}{from} scram-sha-256` before the others into pg_hba.conf of {side}, and `SELECT pg_reload_conf()`",
            side = self.side
        );
        let unknown = matches!(verdict, Verdict::Unknown(_));
        Some(Lack { unknown, ..lack(role, what, remedy) })
    }

    fn of_memberships(&self, role: &RoleAccess, there: &RoleAccess) -> Vec<Lack> {
        let side = self.side;
        let missing = role.member_of.iter().filter(|of| !there.member_of.contains(of));
        let lacks = missing.map(|of| {
            let sql = format!("on {side}: `GRANT {} TO {}`", quote_ident(of), quote_ident(&role.name));
            lack(role, format!("it is no member of `{of}`"), sql)
        });
        lacks.collect()
    }

    /// A password's verifier is carried over by SQL that the serving server writes: nobody else needs to see it.
    fn copied(&self, role: &str, statement: &str) -> String {
        format!(
            "run on {} what {} answers to `SELECT format('{statement}', rolname, rolpassword) FROM pg_authid WHERE rolname = {}`",
            self.side,
            self.side.other(),
            quote_literal(role)
        )
    }
}

fn of_settings(role: &RoleAccess, there: &RoleAccess) -> Vec<Lack> {
    let other = role.settings.iter().filter(|(setting, value)| there.settings.get(*setting) != Some(value));
    let lacks = other.map(|(setting, _)| {
        let what = format!("its sessions begin with another value of `{setting}`");
        lack(role, what, "look at `\\drds` on both servers, and set it alike".to_owned())
    });
    lacks.collect()
}

fn lack(role: &RoleAccess, what: impl Into<String>, remedy: String) -> Lack {
    Lack { role: role.name.clone(), what: what.into(), remedy, unknown: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> RoleAccess {
        RoleAccess {
            name: name.to_owned(),
            login: true,
            password: Some("hash".to_owned()),
            expired: false,
            connections: -1,
            may_connect: true,
            member_of: vec!["readers".to_owned()],
            settings: BTreeMap::from([("ALTER ROLE: search_path".to_owned(), "x".to_owned())]),
        }
    }

    /// `kind databases users [address] method`, names apart by commas.
    fn rules(text: &str) -> Vec<HbaRule> {
        let list = |text: &str| Some(text.split(',').map(str::to_owned).collect());
        let lines = text.lines().enumerate().map(|(at, line)| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let address = (words.len() == 5).then(|| words[3].split_once('/').unwrap_or((words[3], "")));
            HbaRule {
                line: Some(u32::try_from(at).unwrap() + 1),
                kind: Some(words[0].to_owned()),
                databases: list(words[1]),
                users: list(words[2]),
                address: address.map(|(address, _)| address.to_owned()),
                netmask: address.map(|(_, mask)| mask.to_owned()).filter(|mask| !mask.is_empty()),
                method: words.last().map(|&word| word.to_owned()),
                error: None,
            }
        });
        lines.collect()
    }

    fn access(text: &str) -> Access {
        Access { tls: false, rules: rules(text), roles: vec![role("app"), role("other")] }
    }

    const OPEN: &str = "host all all all scram-sha-256";

    fn compared(next: &Access, address: Option<&str>, let_in: &[String]) -> Vec<String> {
        let arrival = Some(Arrival { address: address.map(|address| address.parse().unwrap()), tls: false });
        let serving = access(OPEN);
        let comparison =
            Comparison { serving: &serving, next, arrival, database: "shop", let_in, side: Side::Green, settings: true };
        comparison.lacks(&["app".to_owned(), "nobody".to_owned()]).into_iter().map(|lack| lack.what).collect()
    }

    #[test]
    fn rules_are_read_in_their_order_as_postgresql_reads_them() {
        let here = Some("10.1.2.3");
        let cases = [
            (OPEN, here, ""),
            ("", here, "no rule"),
            ("local all all trust", here, "no rule"),
            ("local all all trust", None, ""),
            ("host shop,crm app 10.1.0.0/255.255.0.0 md5", here, ""),
            ("host shop app 10.2.0.0/255.255.0.0 md5", here, "no rule"),
            ("host replication app 10.1.0.0/255.255.0.0 md5", here, "no rule"),
            ("hostssl all all all md5", here, "no rule"),
            ("hostnossl all all all md5", here, ""),
            ("host all +readers all md5", here, ""),
            ("host all +writers all md5", here, "no rule"),
            ("host sameuser all all md5", here, "no rule"),
            ("host all app all reject\nhost all all all md5", here, "rejects it in line 1"),
            ("host all other all reject\nhost all all all md5", here, ""),
            ("host all all db.example.com md5\nhost all all all md5", here, "whether line 1"),
            ("host crm all db.example.com md5\nhost all all all md5", here, ""),
            ("host all all ::1/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff md5", Some("::1"), ""),
            ("host all all ::1/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff md5", here, "no rule"),
        ];
        for (text, address, said) in cases {
            let lacks = compared(&access(text), address, &[]).join("; ");
            assert!(lacks.contains(said) && lacks.is_empty() == said.is_empty(), "{text}: {lacks}");
        }
    }

    #[test]
    fn what_is_compared_of_a_role_is_all_that_lets_it_in() {
        type Change = fn(&mut RoleAccess);
        let changes: [(Change, &str); 7] = [
            (|role| role.login = false, "may not log in"),
            (|role| role.password = None, "password is another"),
            (|role| role.expired = true, "expired"),
            (|role| role.connections = 3, "3 connections"),
            (|role| role.may_connect = false, "may not connect"),
            (|role| role.member_of.clear(), "no member of `readers`"),
            (|role| role.settings.clear(), "search_path"),
        ];
        for (change, said) in changes {
            let mut next = access(OPEN);
            change(&mut next.roles[0]);
            let lacks = compared(&next, Some("10.1.2.3"), &[]);
            assert!(lacks.len() == 1 && lacks[0].contains(said), "{said}: {lacks:?}");
        }
        let mut next = access(OPEN);
        next.roles.remove(0);
        assert_eq!(compared(&next, None, &[]), ["the role does not exist"]);
        assert_eq!(compared(&access(""), None, &["app".to_owned()]), Vec::<String>::new());
        let mut trusting = access("host all all all trust");
        trusting.roles[0].password = None;
        assert_eq!(compared(&trusting, Some("10.1.2.3"), &[]), Vec::<String>::new());
    }
}
