-- What decides who gets in, as one JSON value: the keys are the fields of `Access`. Passwords leave the server only as a hash
-- of their verifier with a salt that is never used again.
-- Parameters: $1 the names of the roles wanted, $2 the salt.
with recursive membership(member, roleid) as (
    select m.member, m.roleid from pg_catalog.pg_auth_members m
    union
    select up.member, m.roleid
    from membership up join pg_catalog.pg_auth_members m on m.member operator(pg_catalog.=) up.roleid
)
select pg_catalog.jsonb_build_object(
    'tls', pg_catalog.current_setting('ssl')::pg_catalog.bool,
    'rules', (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'line', r.line_number, 'kind', r.type, 'databases', r.database, 'users', r.user_name, 'address', r.address,
            'netmask', r.netmask, 'method', r.auth_method, 'error', r.error
        )), '[]')
        from pg_catalog.pg_hba_file_rules r
    ),
    'roles', (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', a.rolname,
            'login', a.rolcanlogin,
            'password', pg_catalog.encode(
                pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat($2::pg_catalog.text, a.rolpassword), 'UTF8')), 'hex'),
            'expired', coalesce(a.rolvaliduntil operator(pg_catalog.<) pg_catalog.now(), false),
            'connections', a.rolconnlimit,
            'may_connect', pg_catalog.has_database_privilege(a.oid, d.oid, 'CONNECT'),
            'member_of', array(
                select g.rolname from membership m join pg_catalog.pg_roles g on g.oid operator(pg_catalog.=) m.roleid
                where m.member operator(pg_catalog.=) a.oid order by 1
            ),
            'settings', (
                select coalesce(pg_catalog.jsonb_object_agg(
                    pg_catalog.concat(
                        'ALTER', case when s.setrole operator(pg_catalog.<>) 0 then ' ROLE' end,
                        case when s.setdatabase operator(pg_catalog.<>) 0 then ' DATABASE' end,
                        ' SET ', pg_catalog.split_part(c.text, '=', 1)),
                    pg_catalog.encode(
                        pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat($2::pg_catalog.text, c.text), 'UTF8')), 'hex')
                ), '{}')
                from pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c(text)
                where s.setrole operator(pg_catalog.=) any (array[a.oid, 0::pg_catalog.oid])
                    and s.setdatabase operator(pg_catalog.=) any (array[d.oid, 0::pg_catalog.oid])
                    -- the epoch of the run, which each side is told by itself
                    and not pg_catalog.starts_with(c.text, 'greenlight.')
            )
        ) order by a.rolname), '[]')
        from pg_catalog.pg_authid a, pg_catalog.pg_database d
        where a.rolname operator(pg_catalog.=) any ($1::pg_catalog.text[])
            and d.datname operator(pg_catalog.=) pg_catalog.current_database()
    )
)
