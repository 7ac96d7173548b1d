-- Whether somebody else decides which server is the primary, by what every role may see. As one JSON value, the fields of
-- `ManagerSigns`.
select jsonb_build_object(
    'sessions', coalesce((
        select jsonb_agg(distinct pg_catalog.left(application_name, 63)) from pg_catalog.pg_stat_activity
        where application_name <> '' and application_name not like 'greenlight%'
    ), '[]'),
    'roles', coalesce((
        select jsonb_agg(rolname order by rolname) from pg_catalog.pg_roles
        where rolname in ('repmgr', 'pgautofailover_replicator', 'pgautofailover_monitor', 'streaming_replica', 'cnpg_pooler_pgbouncer')
    ), '[]'),
    'extensions', coalesce((
        select jsonb_agg(extname order by extname) from pg_catalog.pg_extension where extname in ('repmgr', 'pgautofailover')
    ), '[]'),
    'command_line', (
        select count(*) = 3 from pg_catalog.pg_settings
        where name in ('cluster_name', 'max_connections', 'wal_level') and source = 'command line'
    )
)
