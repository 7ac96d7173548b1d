-- Everything that one look at a server can tell, as one JSON value, so that a survey is one question whatever the size of
-- the database. The keys are the fields of `ServerSurvey`, and a few that only the reader needs. Works on a primary and on
-- a standby, from PostgreSQL 14 on, and changes nothing. Only columns that every role may read are named, so that a role
-- without rights still learns by preflight that it needs them.
with
server as (
    select
        pg_is_in_recovery() as in_recovery,
        case when pg_is_in_recovery() then coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) else pg_current_wal_lsn() end
            as wal_lsn
),
number as (
    select name, setting::bigint as value from pg_settings where vartype = 'integer'
)
select to_jsonb(seen)
from (
    select
        current_database() as database,
        (select value from number where name = 'server_version_num') as version,
        (select system_identifier from pg_control_system()) as system_identifier,
        -- The control file learns of a new timeline at the next checkpoint only; a primary's own log knows it at once.
        case
            when in_recovery then coalesce((select received_tli from pg_stat_wal_receiver), (select timeline_id from pg_control_checkpoint()))
            else ('x' || substr(pg_walfile_name(wal_lsn), 1, 8))::bit(32)::int
        end as timeline,
        in_recovery as in_recovery,
        (select conninfo from pg_stat_wal_receiver) as receiver_conninfo,
        (select setting from pg_settings where name = 'primary_conninfo') as primary_conninfo,
        current_setting('cluster_name') as cluster_name,
        coalesce(
            (select nullif(slot_name, '') from pg_stat_wal_receiver),
            (select nullif(setting, '') from pg_settings where name = 'primary_slot_name' and in_recovery)
        ) as upstream_slot,
        exists (select from pg_stat_wal_receiver where status = 'streaming') as streaming,
        case when in_recovery then pg_is_wal_replay_paused() else false end as replay_paused,
        current_user as "user",
        (select rolsuper from pg_roles where rolname = current_user) as superuser,
        current_setting('wal_level') as wal_level,
        (select value from number where name = 'max_replication_slots') as slots_max,
        (select value from number where name = 'max_wal_senders') as senders_max,
        (select count(*) from pg_stat_activity where backend_type = 'walsender') as senders_used,
        (select value from number where name = 'max_worker_processes') as workers_max,
        (select value from number where name = 'max_logical_replication_workers') as logical_workers_max,
        (select count(*) from pg_stat_subscription where pid is not null) as logical_workers_used,
        coalesce(
            (select value from number where name = 'max_active_replication_origins'),
            (select value from number where name = 'max_replication_slots')
        ) as origins_max,
        (select count(*) from pg_replication_origin) as origins_used,
        (select value from number where name = 'max_locks_per_transaction')
            * (select sum(value) from number where name in ('max_connections', 'max_prepared_transactions')) as locks_max,
        coalesce((
            select jsonb_agg(jsonb_build_object(
                'name', slot_name,
                'logical', slot_type = 'logical',
                'active', active,
                'database', database,
                'retained_bytes', greatest(0, coalesce(pg_wal_lsn_diff(wal_lsn, restart_lsn), 0))::bigint
            ) order by slot_name)
            from pg_replication_slots
            where not temporary
        ), '[]') as slots,
        coalesce((
            select jsonb_agg(jsonb_build_object('name', subname, 'enabled', subenabled) order by subname)
            from pg_subscription
            where subdbid = (select oid from pg_database where datname = current_database())
        ), '[]') as subscriptions,
        coalesce((select jsonb_agg(pubname order by pubname) from pg_publication), '[]') as publications,
        current_setting('synchronous_standby_names') as synchronous_standby_names,
        current_setting('synchronous_commit') as synchronous_commit,
        coalesce((
            -- A base backup and a logical subscriber have walsenders too; a physical receiver has no slot or a physical one.
            select jsonb_agg(jsonb_build_object(
                'application_name', coalesce(r.application_name, ''),
                'slot', s.slot_name,
                'client_addr', host(r.client_addr),
                'state', coalesce(r.state, 'unknown'),
                'sync_state', coalesce(r.sync_state, 'unknown')
            ) order by r.application_name, r.pid)
            from pg_stat_replication r
            left join pg_replication_slots s on s.active_pid = r.pid
            where s.slot_type is distinct from 'logical' and r.state is distinct from 'backup'
        ), '[]') as standbys,
        current_setting('archive_mode') as archive_mode,
        coalesce((select setting from pg_settings where name = 'archive_command'), '') as archive_command,
        (select value * 1024 * 1024 from number where name = 'wal_keep_size') as wal_keep_bytes,
        (select nullif(value, -1) * 1024 * 1024 from number where name = 'max_slot_wal_keep_size') as slot_wal_keep_bytes_max,
        pg_database_size(current_database()) as database_bytes,
        (select count(*) from pg_largeobject_metadata) as large_objects,
        coalesce((
            select jsonb_agg(format('%s (%s)', gid, database) order by prepared) from pg_prepared_xacts
        ), '[]') as prepared_transactions,
        (select value from number where name = 'max_prepared_transactions') as prepared_transactions_max,
        coalesce((
            select jsonb_agg(jsonb_build_object(
                'pid', pid,
                'age_secs', age_secs,
                'user', coalesce(usename, ''),
                'application_name', coalesce(application_name, ''),
                'state', coalesce(state, 'unknown')
            ) order by age_secs desc)
            from (
                select *, floor(extract(epoch from clock_timestamp() - xact_start))::bigint as age_secs
                from pg_stat_activity
                where backend_type = 'client backend' and pid <> pg_backend_pid() and xact_start < clock_timestamp() - interval '1 second'
                order by xact_start
                limit 50
            ) old
        ), '[]') as long_transactions,
        (
            select count(*) from pg_stat_activity
            where backend_type = 'client backend' and datname = current_database() and pid <> pg_backend_pid()
                and coalesce(application_name, '') not like 'greenlight%'
        ) as client_sessions,
        coalesce((
            -- What `postgres` holds beyond a new database is somebody's; a megabyte is more than its catalogue ever drifts by.
            select jsonb_agg(datname order by datname) from pg_database
            where not datistemplate and datname <> current_database()
                and case
                    when datname = 'postgres'
                    then pg_database_size(oid) >= 1024 * 1024 + (select sum(pg_database_size(oid)) from pg_database where datname = 'template1')
                    else true
                end
        ), '[]') as other_databases,
        coalesce((select jsonb_agg(name order by name) from pg_available_extensions), '[]') as available_extensions,
        coalesce((select jsonb_agg(extname order by extname) from pg_extension where extconfig is not null), '[]') as extensions_with_rows,
        coalesce((select setting from pg_settings where name = 'shared_preload_libraries'), '') as shared_preload_libraries,
        coalesce((
            select jsonb_agg(evtname order by evtname) from pg_event_trigger e
            where evtenabled <> 'D'
                and not exists (select from pg_depend where classid = 'pg_event_trigger'::regclass and objid = e.oid and deptype = 'e')
        ), '[]') as event_triggers,
        coalesce((
            select jsonb_agg(distinct coalesce(rolname, 'all roles')) from pg_db_role_setting
            left join pg_roles on pg_roles.oid = setrole
            where setdatabase in (0, (select oid from pg_database where datname = current_database()))
                and 'session_replication_role=replica' = any (setconfig)
        ), '[]') as replica_roles,
        coalesce((select jsonb_agg(spcname order by spcname) from pg_tablespace where spcname not in ('pg_default', 'pg_global')), '[]') as tablespaces,
        '{}'::jsonb as settings,
        (select setting from pg_settings where name = 'data_directory') as data_directory,
        floor(extract(epoch from pg_postmaster_start_time()))::bigint as started_epoch,
        case when in_recovery then pg_last_wal_replay_lsn() end as replay_lsn,
        coalesce(wal_lsn, '0/0') as wal_lsn
    from server
) seen
