//! To whom the objects belong that the migrations make, and whether the applications can use them.

use super::{Look, fine, needs_accept, refused};
use crate::migrate::MadeObject;
use crate::plan::{Finding, RightsSurvey, RoleRights};
use crate::word::quote_ident;
use std::collections::BTreeSet;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let Some(rights) = &look.survey.rights else { return Vec::new() };
    let role = look.input.history.role.as_deref();
    let mut findings: Vec<Finding> = role.map(|role| migration_role(role, rights)).into_iter().collect();
    let Ok(shadow) = &look.survey.shadow else { return findings };
    let runs_as = role.unwrap_or(&rights.user);
    findings.extend(new_objects(&shadow.made, runs_as, role.is_some()));
    findings.extend(shadow.made.iter().filter_map(|made| unusable(made, runs_as, rights)));
    findings
}

fn migration_role(role: &str, rights: &RightsSurvey) -> Finding {
    let code = "migration-role";
    let quoted = quote_ident(role);
    match &rights.role {
        None => refused(code, format!("What the role `{role}` may do was not looked up."), "plan again"),
        Some(RoleRights { exists: false, .. }) => {
            let remedy = format!("create it (`CREATE ROLE {quoted}`), or name another in `migrations.role`");
            refused(code, format!("Blue has no role `{role}`, as which the migrations are to run."), remedy)
        }
        Some(RoleRights { foreign, closed_schemas, .. }) if foreign.is_empty() && closed_schemas.is_empty() => {
            fine(code, format!("The migrations run as `{role}`, which may change every table and create in every schema."))
        }
        Some(RoleRights { foreign, closed_schemas, .. }) => {
            let of = |(owner, count): (&String, &u64)| format!("{count} of `{owner}`");
            let mut seen = Vec::new();
            if !foreign.is_empty() {
                let owners: Vec<String> = foreign.iter().map(of).collect();
                seen.push(format!("is no member of the owners of some tables ({})", owners.join(", ")));
            }
            if !closed_schemas.is_empty() {
                seen.push(format!("may not create in the schemas {}", closed_schemas.join(", ")));
            }
            let memberships = foreign.keys().map(|owner| format!("`GRANT {} TO {quoted}`", quote_ident(owner)));
            let schemas =
                closed_schemas.iter().map(|schema| format!("`GRANT CREATE ON SCHEMA {} TO {quoted}`", quote_ident(schema)));
            let grants: Vec<String> = memberships.chain(schemas).collect();
            let consequence = format!(
                "a migration that changes those fails on green, after the plan was approved. To mend it: {}",
                grants.join("; ")
            );
            needs_accept(code, format!("The migrations run as `{role}`, which {}.", seen.join(" and ")), consequence)
        }
    }
}

fn new_objects(made: &[MadeObject], runs_as: &str, is_named: bool) -> Option<Finding> {
    if made.is_empty() {
        return None;
    }
    let owners: BTreeSet<&str> = made.iter().map(|made| made.owner.as_deref().unwrap_or(runs_as)).collect();
    let owners: Vec<String> = owners.into_iter().map(|owner| format!("`{owner}`")).collect();
    let names: Vec<String> = made.iter().take(10).map(|made| made.name.to_string()).collect();
    let more = if made.len() > names.len() { format!(" and {} more", made.len() - names.len()) } else { String::new() };
    let how = if is_named { "" } else { " `migrations: {role: NAME}` runs the migrations as another role." };
    let seen = format!("What the migrations make belongs to {}: {}{more}.{how}", owners.join(", "), names.join(", "));
    Some(fine("new-objects", seen))
}

/// An object that none of those may use who use the others of its schema: after the cutover the applications would get
/// "permission denied".
fn unusable(made: &MadeObject, runs_as: &str, rights: &RightsSurvey) -> Option<Finding> {
    let owner = made.owner.as_deref().unwrap_or(runs_as);
    // Nobody used that schema before: then it says nothing of who is to.
    let users = rights.users.get(&made.name.schema)?;
    let in_schema = |schema: &Option<String>| schema.as_ref().is_none_or(|schema| *schema == made.name.schema);
    let by_default = rights.defaults.iter().filter(|grant| grant.owner == owner && in_schema(&grant.schema));
    let mut may_use =
        [owner].into_iter().chain(made.granted.iter().map(String::as_str)).chain(by_default.map(|grant| grant.grantee.as_str()));
    if users.is_empty() || may_use.any(|role| role == "public" || users.contains(role)) {
        return None;
    }
    let name = &made.name;
    let who: Vec<String> = users.iter().take(5).map(|user| format!("`{user}`")).collect();
    let seen = format!(
        "The new {} {name} will belong to `{owner}`, and none of the roles that use the schema `{}` ({}) may use it.",
        made.kind,
        name.schema,
        who.join(", ")
    );
    let grant = users.iter().next().map(|user| quote_ident(user)).unwrap_or_default();
    let consequence = format!(
        "after the cutover applications get \"permission denied\" for it. To mend it: name the owner of the schema's tables in \
         `migrations: {{role: NAME}}`, or write into the migration `GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {grant}`",
        name.sql()
    );
    Some(needs_accept(format!("unusable:{name}"), seen, consequence))
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::migrate::MadeObject;
    use crate::plan::{DefaultGrant, RightsSurvey, RoleRights};
    use crate::word::RelationName;

    fn making(change: impl FnOnce(&mut MadeObject, &mut RightsSurvey)) -> World {
        World::with(|world| {
            let name = RelationName::new("public", "invoices");
            let mut made = MadeObject { kind: "table".to_owned(), name, owner: None, granted: Vec::new() };
            change(&mut made, world.survey.rights.as_mut().unwrap());
            world.survey.shadow.as_mut().unwrap().made.push(made);
        })
    }

    #[test]
    fn a_new_object_that_no_user_of_its_schema_may_use_needs_a_word() {
        let code = "unusable:public.invoices";
        assert_answers(&making(|_, _| ()), code, "needs_accept");
        assert_answers(&making(|_, _| ()), "new-objects", "fine");
        assert_answers(&World::new(), "new-objects", "none");
        assert_answers(&making(|made, _| made.owner = Some("app_owner".to_owned())), code, "none");
        assert_answers(&making(|made, _| made.granted.push("app".to_owned())), code, "none");
        assert_answers(&making(|made, _| made.granted.push("public".to_owned())), code, "none");
        assert_answers(&making(|made, _| made.granted.push("auditor".to_owned())), code, "needs_accept");
        assert_answers(&making(|made, _| made.name.schema = "unused".to_owned()), "unusable:unused.invoices", "none");
        let by_default = |owner: &str, schema: Option<&str>| DefaultGrant {
            owner: owner.to_owned(),
            schema: schema.map(str::to_owned),
            grantee: "app".to_owned(),
        };
        assert_answers(&making(|_, rights| rights.defaults.push(by_default("gl_admin", None))), code, "none");
        assert_answers(&making(|_, rights| rights.defaults.push(by_default("gl_admin", Some("public")))), code, "none");
        assert_answers(&making(|_, rights| rights.defaults.push(by_default("gl_admin", Some("other")))), code, "needs_accept");
        assert_answers(&making(|_, rights| rights.defaults.push(by_default("app_owner", None))), code, "needs_accept");
    }

    #[test]
    fn the_role_of_the_migrations_must_be_there_and_may_change_what_others_own_only_as_a_member() {
        let with = |role: Option<RoleRights>| {
            let mut world = making(|_, _| ());
            world.input.history.role = Some("app_owner".to_owned());
            world.survey.rights.as_mut().unwrap().role = role;
            world
        };
        let good = RoleRights { exists: true, foreign: [].into(), closed_schemas: Vec::new() };
        assert_answers(&with(Some(good.clone())), "migration-role", "fine");
        assert_answers(&with(Some(good.clone())), "unusable:public.invoices", "none");
        assert_answers(&with(None), "migration-role", "refused");
        assert_answers(&with(Some(RoleRights { exists: false, ..good.clone() })), "migration-role", "refused");
        let foreign = RoleRights { foreign: [("other".to_owned(), 3)].into(), ..good.clone() };
        assert_answers(&with(Some(foreign)), "migration-role", "needs_accept");
        assert_answers(
            &with(Some(RoleRights { closed_schemas: vec!["app".to_owned()], ..good })),
            "migration-role",
            "needs_accept",
        );
        assert_answers(&World::new(), "migration-role", "none");
    }
}
