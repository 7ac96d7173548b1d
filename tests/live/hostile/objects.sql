-- What a role that may create objects can leave where others meet it without naming it. Run as that role, after the overloads.

CREATE FUNCTION public.planted_trigger() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM public.planted(TG_NAME); IF TG_LEVEL = ''ROW'' THEN RETURN NEW; END IF; RETURN NULL; END';
CREATE FUNCTION public.planted_constant(what text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM public.planted(what); RETURN 1; END';

-- A type with a cast of its owner's.
CREATE TYPE public.mood AS ENUM ('bad', 'good', 'so', 'late');
CREATE FUNCTION public.mood_text(public.mood) RETURNS text LANGUAGE plpgsql AS
    'BEGIN PERFORM public.planted(''cast mood to text''); RETURN ''x''; END';
CREATE CAST (public.mood AS text) WITH FUNCTION public.mood_text(public.mood) AS ASSIGNMENT;
CREATE TABLE public.moody (mood public.mood PRIMARY KEY, other public.mood NOT NULL);
INSERT INTO public.moody VALUES ('bad', 'good'), ('good', 'bad'), ('so', 'so');

-- Views, and one that is named as an extension's table.
CREATE VIEW public.seen AS SELECT public.planted_constant('view') AS x;
CREATE SCHEMA cron;
CREATE VIEW cron.job AS SELECT 1 AS jobid, '* * * * *'::text AS schedule, 'x'::text AS command, true AS active, 'shop'::text AS database
    FROM public.planted('view cron.job');

-- What writing, planning or probing a table would call.
CREATE FUNCTION public.planted_text(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM public.planted(''expression''); RETURN $1; END';
CREATE FUNCTION public.planted_check(text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM public.planted(''check''); RETURN true; END';
CREATE DOMAIN public.planted_domain AS text CHECK (public.planted_check(VALUE));
CREATE TABLE public.called (
    id int PRIMARY KEY,
    v text CHECK (public.planted_check(v)),
    d int DEFAULT public.planted_constant('default'),
    n public.planted_domain,
    g text GENERATED ALWAYS AS (public.planted_text(v)) STORED
);
INSERT INTO public.called (id, v, n) SELECT n, 'v', 'n' FROM generate_series(1, 300) n;
CREATE INDEX called_by_text ON public.called (public.planted_text(v));
CREATE TRIGGER a_first BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.called
    FOR EACH STATEMENT EXECUTE FUNCTION public.planted_trigger();
CREATE TRIGGER a_row BEFORE INSERT OR UPDATE ON public.called FOR EACH ROW EXECUTE FUNCTION public.planted_trigger();
ALTER TABLE public.called ENABLE ALWAYS TRIGGER a_row;
CREATE POLICY planted ON public.called USING (public.planted_constant('policy') = 1);
ALTER TABLE public.called ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE STATISTICS public.called_statistics ON (public.planted_text(v)), (public.planted_constant(v)) FROM public.called;
CREATE TABLE public.ruled (id int PRIMARY KEY);
CREATE RULE also AS ON DELETE TO public.ruled DO ALSO SELECT public.planted('rule');
CREATE MATERIALIZED VIEW public.kept AS SELECT public.planted_constant('materialized view') AS x;
