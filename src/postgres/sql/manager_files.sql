-- The names of the files that set something or lie in the data folder, and how the configuration begins. For superusers: nobody
-- else may call these functions, not even where they are not reached.
select jsonb_build_object(
    'names', coalesce((
        select jsonb_agg(distinct name) from (
            select pg_catalog.regexp_replace(sourcefile, '^.*/', '') as name from pg_catalog.pg_settings where sourcefile is not null
            union all
            select name from pg_catalog.pg_ls_dir(pg_catalog.current_setting('data_directory')) as folder (name)
        ) files
    ), '[]'),
    'head', coalesce(pg_catalog.encode(pg_catalog.pg_read_binary_file(pg_catalog.current_setting('config_file'), 0, 500, true), 'escape'), '')
)
